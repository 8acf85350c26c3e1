"""The images of a run: mapped from a packed set, or packed into memory from a labelled image set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_infer.datasets import LabelledImages, Split
from alexnet_infer.errors import UsageError
from alexnet_infer.manifest import ClassName
from train.data import PackedImages
from train.display import Display
from train.job import default_size
from train.packed import SPLITS, PackedSet, is_packed, open_packed
from train.parts import open_splits

SHOWN = 3
"""Unreadable images that a note names."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Both splits of a data set, before images are read."""

    classes: Sequence[ClassName]
    size: int
    """S: side of the squares, in pixels."""
    splits: PackedSet | Mapping[Split, LabelledImages]

    def load(self, display: Display) -> tuple[PackedImages, PackedImages]:
        """Return the training and the validation images. A note names the first unreadable images of each split.

        Raises UnreadableInputError if no image of a split can be read, and PackedSetError if a file of a packed set
        can't be mapped.
        """
        train, validation = (self._images(split, display) for split in SPLITS)
        for images, kind, fate in ((train, "training", "left out"), (validation, "validation", "counted as wrong")):
            if images.unreadable:
                display.note(_unreadable(images, kind, fate))
        return train, validation

    def _images(self, split: Split, display: Display) -> PackedImages:
        if isinstance(self.splits, PackedSet):
            return PackedImages.mapped_from(self.splits, split)
        examples = self.splits[split]
        with display.counting(f"decoding the {split} split", len(examples)) as advance:
            return PackedImages.pack(examples, self.size, advance)


def _unreadable(images: PackedImages, kind: str, fate: str) -> str:
    first = "; ".join(f"{item.image}: {item.reason}" for item in images.unreadable[:SHOWN])
    count = len(images.unreadable)
    more = f"; and {count - SHOWN} more" if count > SHOWN else ""
    return f"{count} of {images.total} {kind} images could not be read and are {fate}: {first}{more}"


def open_source(root: Path, size: int | None, patch: int) -> Source:
    """Open the data set at `root` for squares of side `size`, for a net with patches of side `patch`.

    None stands for the size of a packed set, and for `default_size` with other data.

    Raises PackedSetError or UnreadableInputError if the data set is invalid, and UsageError if the squares of a packed
    set have another size or are smaller than the net's patches.
    """
    if not is_packed(root):
        splits = open_splits(root)
        return Source(classes=splits["train"].classes, size=size or default_size(patch), splits=splits)
    packed = open_packed(root)
    if size not in (None, packed.size):
        raise UsageError(
            f"--image-size {size}: {root} was packed with {packed.size} x {packed.size} squares; leave the option "
            "out, or pack the set again"
        )
    if packed.size < patch:
        raise UsageError(
            f"--data {root}: packed with {packed.size} x {packed.size} squares, smaller than the net's patches "
            f"({patch}); pack the set again with --image-size {default_size(patch)}"
        )
    return Source(classes=packed.classes, size=packed.size, splits=packed)
