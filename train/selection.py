"""A part of a data set: some of its classes, and training images that are held out for validation."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from alexnet_infer.datasets import Example, LabelledImages, OnError, Split
from alexnet_infer.errors import UsageError, shown
from alexnet_infer.manifest import ClassName

_SLICE = re.compile(r"(-?\d{1,9})?:(-?\d{1,9})?(?::([1-9]\d{0,8})?)?", re.ASCII)


class Selected:
    """A split that has the images at ascending `positions` of `parts`, one after the other.

    It has those attributes of `LabelledImages` that packing needs.
    """

    def __init__(
        self,
        split: Split,
        parts: Sequence[tuple[LabelledImages, Sequence[int]]],
        chosen: Sequence[int],
        selection: Selection,
    ) -> None:
        self.split, self.root = split, parts[-1][0].root
        self.classes = tuple(parts[0][0].classes[label] for label in chosen)
        self._parts, self._selection = parts, selection
        self._label = {label: position for position, label in enumerate(chosen)}

    def __len__(self) -> int:
        return sum(len(positions) for _, positions in self._parts)

    def examples(self, start: int = 0, on_error: OnError = "raise") -> Iterator[Example]:
        """Return an iterator over the examples from position `start` on; see `LabelledImages.examples`."""
        for images, positions in self._parts:
            for example in images.at(positions[start:], on_error):
                yield replace(example, label=self._label[example.label])
            start = max(0, start - len(positions))

    @property
    def listing(self) -> str:
        """SHA-256, in hexadecimal, of the selection and of the listings of the splits that it selects from."""
        listings = [images.listing for images, _ in self._parts]
        text = json.dumps([self._selection.classes, self._selection.hold_out, self.split, *listings])
        return hashlib.sha256(text.encode()).hexdigest()


Images = LabelledImages | Selected


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which part of a data set to use. Raises UsageError if `classes` is not a slice or a number is out of range."""

    classes: str = ":"
    """Which classes, in the order of their WordNet ids, as a Python slice. ":100" selects the first 100, and "1::2"
    every second class, starting with the second."""
    hold_out: int = 0
    """How many training images of each class to move to the validation split: the last ones in the set's order."""

    def __post_init__(self) -> None:
        if not _SLICE.fullmatch(self.classes):
            raise UsageError(
                f"--classes {shown(self.classes)}: expected FIRST:LAST:STEP as in Python, such as :100 or 1::2"
            )
        if not 0 <= self.hold_out < 10**9:
            raise UsageError(f"--hold-out {shown(self.hold_out)}: expected 0 or more")

    @property
    def everything(self) -> bool:
        """Whether the whole set is selected, and its splits are as they were."""
        return self == Selection()

    def of(self, splits: Mapping[Split, LabelledImages]) -> dict[Split, LabelledImages] | dict[Split, Selected]:
        """Return the selected part of both splits, which must have the same classes.

        Raises UsageError if no class is selected, or a class has no training image left.
        """
        if self.everything:
            return dict(splits)
        train, validation = splits["train"], splits["validation"]
        chosen = self._labels(train.classes)
        by_class: dict[int, list[int]] = {label: [] for label in chosen}
        for position, label in enumerate(train.labels):
            if label in by_class:
                by_class[label].append(position)
        for label, positions in by_class.items():
            if len(positions) <= self.hold_out:
                raise UsageError(
                    f"--hold-out {self.hold_out}: {train.root} has {len(positions)} training images of "
                    f"{train.classes[label].wnid}; expected fewer to be held out"
                )
        kept, held_out = [], []
        for positions in by_class.values():
            cut = len(positions) - self.hold_out
            kept += positions[:cut]
            held_out += positions[cut:]
        measured = [position for position, label in enumerate(validation.labels) if label in by_class]
        extra = [(train, sorted(held_out))] if held_out else []
        return {
            "train": Selected("train", [(train, sorted(kept))], chosen, self),
            "validation": Selected("validation", [*extra, (validation, measured)], chosen, self),
        }

    def _labels(self, classes: Sequence[ClassName]) -> range:
        """Return the positions of the selected classes."""
        match = _SLICE.fullmatch(self.classes)
        assert match is not None, "checked when created"
        chosen = range(len(classes))[slice(*(int(part) if part else None for part in match.groups()))]
        if not chosen:
            raise UsageError(f"--classes {self.classes}: selects none of the {len(classes)} classes")
        return chosen
