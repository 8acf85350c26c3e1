"""The part of a photo that nets see."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from alexnet_infer.preprocess import Preprocessing, Views, patch_offsets

NEAR = 1.03
"""A photo whose longer side is at most so many times as long as the part is seen as a whole."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A rectangle in the square that a net's preprocessing makes of a photo."""

    stretched: bool
    """Whether the square is the whole photo, stretched. Else it is the photo's central square."""
    start: float
    """The rectangle's left and upper side, as a share of the square's side: 0 to 1."""
    end: float
    """Its right and lower side."""

    @classmethod
    def of(cls, nets: Iterable[tuple[Preprocessing, Views]]) -> Seen | None:
        """Return the smallest part that contains what each net sees, or None if only some of the nets stretch.

        The ten views reach all corners of the square, and the central view is one patch.
        """
        parts = [cls._one(preprocessing, views) for preprocessing, views in nets]
        if len({part.stretched for part in parts}) != 1:
            return None
        start, end = min(part.start for part in parts), max(part.end for part in parts)
        return cls(stretched=parts[0].stretched, start=start, end=end)

    @classmethod
    def _one(cls, preprocessing: Preprocessing, views: Views) -> Seen:
        size, patch = preprocessing.size, preprocessing.patch
        offsets = [x for _, x in patch_offsets(size, patch, views)]
        stretched = preprocessing.fit == "stretch"
        return cls(stretched=stretched, start=min(offsets) / size, end=(max(offsets) + patch) / size)

    def box(self, width: int, height: int) -> tuple[int, int, int, int] | None:
        """Return the part of a photo in pixels, (left, top, right, bottom) without the last two.

        None if the part is the whole photo within 3 %: neither side of the photo is more than NEAR times the part's.
        """
        sides = (width, height) if self.stretched else (min(width, height),) * 2
        (left, right), (top, bottom) = (
            ((whole - side) // 2 + round(self.start * side), (whole - side) // 2 + round(self.end * side))
            for whole, side in zip((width, height), sides, strict=True)
        )
        if width <= NEAR * (right - left) and height <= NEAR * (bottom - top):
            return None
        return left, top, right, bottom
