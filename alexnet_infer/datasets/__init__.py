"""Labelled image sets: encoded images with their classes, in every common layout of ILSVRC."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

from alexnet_infer.datasets.archives import Tar
from alexnet_infer.datasets.base import Example, OnError, Source, Split, refuse
from alexnet_infer.datasets.classes import map_classes
from alexnet_infer.datasets.folders import Folders, find_folder
from alexnet_infer.datasets.lists import Caffe, Flat, Kaggle
from alexnet_infer.datasets.parquet import Parquet
from alexnet_infer.errors import UnreadableInputError, UsageError, shown

__all__ = ["LAYOUTS", "Example", "LabelledImages", "OnError", "Split", "map_classes", "open_images"]

LAYOUTS: dict[str, type[Source]] = {source.layout: source for source in (Tar, Flat, Folders, Kaggle, Parquet, Caffe)}
"""The layouts by name, in the order in which messages list them."""


class LabelledImages:
    """One split of the data set in `root`, a folder or an archive.

    `layout` is a key of LAYOUTS; None detects it. Iteration yields `Example`s in the set's own order. `classes` are in
    order of WordNet ids. A label is a position in `classes`, whatever numbers the files contain.

    Raises UnreadableInputError if the split is missing, or if a part of it is missing or damaged. Iteration raises it
    if an example can't be read, has no label or has a label out of range; no example is left out silently. Raises
    UsageError if the folder matches several layouts, or if the layout doesn't exist or has no such split. Raises
    BackendError if a package that reads the layout is not installed: pyarrow for Parquet, SciPy for the devkit.
    """

    def __init__(self, root: Path, split: Split, layout: str | None = None) -> None:
        self.root, self.split = root, split
        try:
            self._source = _choose(root, split, layout)(root, split)
        except OSError as error:
            refuse(root, error)
        self._source.root = root
        self.layout, self.classes = self._source.layout, self._source.classes

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[Example]:
        return self.examples()

    def examples(self, start: int = 0, on_error: OnError = "raise") -> Iterator[Example]:
        """Return an iterator over the examples, beginning at position `start` (0 to the length).

        Images before `start` are not read, except those in the same row group of a Parquet file. With
        `on_error="yield"`, an image that can't be read is yielded with its `error` and empty `data`. An error that
        leaves the labels in doubt is still raised. Raises UsageError if `start` is out of range.
        """
        if not 0 <= start <= len(self):
            raise UsageError(f"start={shown(start)}: expected 0 to {len(self)}, the number of images")
        return self._source.examples(start, on_error)

    def at(self, positions: Iterable[int], on_error: OnError = "raise") -> Iterator[Example]:
        """Return an iterator over the examples at strictly ascending `positions`. Errors are as in `examples`."""
        return self._source.at(positions, on_error)

    @cached_property
    def labels(self) -> list[int]:
        """Every example's label, in the set's order. No image is read."""
        return list(self._source.labels())

    @cached_property
    def listing(self) -> str:
        """SHA-256, in hexadecimal, of the classes' WordNet ids and of every image's name, size and label, in order.

        It identifies the data independently of its location, and no image is read. The layouts tar, flat, kaggle and
        caffe give the same value for the same validation images. In Parquet, only the sizes of the shards are known.
        """
        digest = hashlib.sha256(json.dumps([c.wnid for c in self.classes]).encode())
        try:
            for parts in self._source.contents():
                digest.update(json.dumps(parts).encode() + b"\n")
        except OSError as error:
            refuse(self.root, error)
        return digest.hexdigest()


def open_images(root: Path, split: Split = "validation", layout: str | None = None) -> LabelledImages:
    """Return the labelled images in `root`. Arguments and errors are those of LabelledImages."""
    return LabelledImages(root, split, layout)


def _choose(root: Path, split: Split, layout: str | None) -> type[Source]:
    """The layout named `layout`, or the only one that `root` looks like."""
    if layout is not None:
        if layout not in LAYOUTS:
            raise UsageError(f"--format {shown(layout)}: expected one of {', '.join(LAYOUTS)}")
        if split not in LAYOUTS[layout].accepts:
            suitable = ", ".join(name for name, source in LAYOUTS.items() if split in source.accepts)
            raise UsageError(f"--format {layout}: has no {split} split; expected one of {suitable}")
        return LAYOUTS[layout]
    if not root.exists():
        raise UnreadableInputError(f"{root}: no such file or folder")
    sources = [source for source in LAYOUTS.values() if split in source.accepts]
    matching = [source for source in sources if source.detect(root, split)]
    if len(matching) > 1:
        names = [source.layout for source in matching]
        raise UsageError(
            f"{root}: has the {split} split in several layouts ({', '.join(names)}); choose one, such as "
            f"--format {names[0]}, or give a folder with only one"
        )
    if not matching and find_folder(root, split):  # a split folder without classes: Folders raises the precise error
        return Folders
    if not matching:
        accepted = "; ".join(source.accepts[split] for source in sources)
        raise UnreadableInputError(f"{root}: no {split} split here; expected one of: {accepted}")
    return matching[0]
