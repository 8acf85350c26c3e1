"""Labelled image sets: encoded images with their class, in every layout in which people have ILSVRC."""

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
"""In the order in which messages list them."""


class LabelledImages:
    """One split of a data set in `root`, a folder or an archive, in the layout of that name or the one that is found
    there. Iterating yields `Example`s in the set's own order; `classes` are in order of WordNet ids, and a label is a
    position among them, whatever numbers the files hold.

    Raises UnreadableInputError when the split isn't there, when a part is missing or damaged, and, while iterating,
    when an example can't be read or has no label or one out of range. Nothing is left out silently. Raises UsageError
    when the folder fits several layouts or the layout doesn't exist, and BackendError when a package is missing that
    reads it: pyarrow for Parquet, scipy for the devkit.
    """

    def __init__(self, root: Path, split: Split, layout: str | None = None) -> None:
        self.root, self.split = root, split
        try:
            self._source = _choose(root, split, layout)(root, split)
        except OSError as error:
            refuse(root, error)
        self.layout, self.classes = self._source.layout, self._source.classes

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[Example]:
        return self.examples()

    def examples(self, start: int = 0, on_error: OnError = "raise") -> Iterator[Example]:
        """The examples from position `start` on (0 to the length), without reading the images before it.

        With `on_error="yield"` an image that can't be read is yielded, too, with its `error` and no data. What leaves
        labels in doubt is still raised.
        """
        if not 0 <= start <= len(self):
            raise UsageError(f"start={shown(start)}: expected 0 to {len(self)}, the number of images")
        return self._source.examples(start, on_error)

    def at(self, positions: Iterable[int], on_error: OnError = "raise") -> Iterator[Example]:
        """The examples at `positions`, which ascend; otherwise as `examples`."""
        return self._source.at(positions, on_error)

    @cached_property
    def labels(self) -> list[int]:
        """Every example's label, without reading images."""
        return list(self._source.labels())

    @cached_property
    def listing(self) -> str:
        """SHA-256 in hexadecimal of classes and of all images' names, sizes and labels in their order: which data this
        is, wherever it lies, known without reading the images. Archive, flat folder, Kaggle's and Caffe's layout agree;
        Parquet has no sizes but the shards'."""
        digest = hashlib.sha256(json.dumps([one.wnid for one in self.classes]).encode())
        try:
            for parts in self._source.contents():
                digest.update(json.dumps(parts).encode() + b"\n")
        except OSError as error:
            refuse(self.root, error)
        return digest.hexdigest()


def open_images(root: Path, split: Split = "validation", layout: str | None = None) -> LabelledImages:
    """The labelled images in `root`: see LabelledImages, whose errors it raises."""
    return LabelledImages(root, split, layout)


def _choose(root: Path, split: Split, layout: str | None) -> type[Source]:
    """The layout called so, or the only one that `root` looks like."""
    if layout is not None:
        if layout not in LAYOUTS:
            raise UsageError(f"--format {shown(layout)}: expected one of {', '.join(LAYOUTS)}")
        if split not in LAYOUTS[layout].accepts:
            having = ", ".join(name for name, source in LAYOUTS.items() if split in source.accepts)
            raise UsageError(f"--format {layout}: has no {split} split; expected one of {having}")
        return LAYOUTS[layout]
    if not root.exists():
        raise UnreadableInputError(f"{root}: no such file or folder")
    sources = [source for source in LAYOUTS.values() if split in source.accepts]
    found = [source for source in sources if source.detect(root, split)]
    if len(found) > 1:
        names = [source.layout for source in found]
        raise UsageError(
            f"{root}: has the {split} split in several layouts ({', '.join(names)}); choose one, as in "
            f"--format {names[0]}, or name a folder with one"
        )
    if not found and find_folder(root, split):  # a folder of no classes: this one says what is wrong with it
        return Folders
    if not found:
        accepted = "; ".join(source.accepts[split] for source in sources)
        raise UnreadableInputError(f"{root}: no {split} split here; expected one of: {accepted}")
    return found[0]
