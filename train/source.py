"""The images of a run: from a packed set, mapped into memory, or from a labelled image set, decoded into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_infer.datasets import LabelledImages
from alexnet_infer.datasets.classes import different_classes
from alexnet_infer.errors import UsageError
from alexnet_infer.manifest import ClassName
from train.data import PackedImages
from train.display import Display
from train.packed import PackedSet, is_packed, open_packed


@dataclass(frozen=True, kw_only=True)
class Source:
    """Both splits of a data set, before images are read."""

    classes: Sequence[ClassName]
    size: int
    """S: side of the squares, in pixels."""
    splits: PackedSet | tuple[LabelledImages, LabelledImages]

    def load(self, display: Display) -> tuple[PackedImages, PackedImages]:
        """Return the training and the validation images.

        Raises UnreadableInputError if an image can't be decoded or a split is empty, and PackedSetError if a file of a
        packed set can't be mapped.
        """
        if isinstance(self.splits, PackedSet):
            if missing := len(self.splits.unreadable("validation")):
                display.note(f"{missing} validation images could not be read when the set was packed: counted as wrong")
            return PackedImages.mapped_from(self.splits, "train"), PackedImages.mapped_from(self.splits, "validation")
        train, validation = (self._decode(examples, display) for examples in self.splits)
        return train, validation

    def _decode(self, examples: LabelledImages, display: Display) -> PackedImages:
        with display.counting(f"decoding the {examples.split} split", len(examples)) as advance:
            return PackedImages.decode(examples, self.size, lambda: advance(1))


def open_source(root: Path, size: int | None, patch: int, default: int) -> Source:
    """Open the data set at `root` for squares of side `size`.

    None stands for the size of a packed set, and for `default` with other data.

    Raises PackedSetError or UnreadableInputError if the data set is invalid, and UsageError if the squares of a packed
    set have another size or are smaller than the net's patches.
    """
    if is_packed(root):
        packed = open_packed(root)
        if size not in (None, packed.size):
            raise UsageError(
                f"--image-size {size}: {root} was packed with {packed.size} x {packed.size} squares; leave the option "
                "out, or pack the set again"
            )
        if packed.size < patch:
            raise UsageError(
                f"--data {root}: packed with {packed.size} x {packed.size} squares, smaller than the net's patches "
                f"({patch}); pack the set again with --image-size {default}"
            )
        return Source(classes=packed.classes, size=packed.size, splits=packed)
    splits = LabelledImages(root, "train"), LabelledImages(root, "validation")
    train, validation = splits
    if train.classes != validation.classes:
        raise different_classes(root, train.classes, validation.classes)
    return Source(classes=train.classes, size=size or default, splits=splits)
