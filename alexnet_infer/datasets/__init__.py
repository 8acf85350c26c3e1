"""Labelled image sets: encoded images with their classes, in every common layout of ILSVRC."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from alexnet_infer.datasets.archives import Tar
from alexnet_infer.datasets.base import Example, OnError, Source, relative
from alexnet_infer.datasets.caffe import Caffe
from alexnet_infer.datasets.classes import map_classes
from alexnet_infer.datasets.folders import Folders, find_folder
from alexnet_infer.datasets.inside import open_archive
from alexnet_infer.datasets.lists import Flat, Kaggle, TinyImageNet
from alexnet_infer.datasets.parquet import Parquet
from alexnet_infer.datasets.places import refuse
from alexnet_infer.datasets.tree import Folder, Split, children, is_picture, is_split_folder, subfolders
from alexnet_infer.errors import UnreadableInputError, UsageError, listed, shown
from alexnet_infer.manifest import ClassName

__all__ = ["LAYOUTS", "Example", "LabelledImages", "OnError", "Split", "map_classes", "open_images"]

_SOURCES: tuple[type[Source], ...] = (Tar, Flat, Folders, Kaggle, Parquet, Caffe, TinyImageNet)
LAYOUTS: dict[str, type[Source]] = {source.layout: source for source in _SOURCES}
"""The layouts by name, in the order in which messages list them."""
_WRAPPERS = 20
"""The most folders with nothing but another folder in them that are looked into."""


class LabelledImages:
    """One split of the data set in `root`, a folder or an archive.

    A zip or tar archive is read in place. A folder that contains nothing but another folder stands for that one.

    `layout` is a key of LAYOUTS; None detects it. `numbered` are the classes that numbered folders stand for if nothing
    in the set says it, such as those of the net (see `Folders`). Iteration yields `Example`s in the set's own order.
    `classes` are in order of WordNet ids. A label is a position in `classes`, whatever numbers the files contain.

    Raises UnreadableInputError if the split is missing, or if a part of it is missing or damaged. Iteration raises it
    if an example can't be read, has no label or has a label out of range; no example is left out silently. Raises
    UsageError if the folder matches several layouts, or if the layout doesn't exist or has no such split. Raises
    BackendError if a package that reads the layout is not installed: pyarrow for Parquet, SciPy for the devkit.
    """

    def __init__(
        self, root: Path, split: Split, layout: str | None = None, *, numbered: Sequence[ClassName] = ()
    ) -> None:
        self.root, self.split = root, split
        try:
            source, folder = _choose(root, split, layout)
            self._source = Folders(folder, split, numbered) if source is Folders else source(folder, split)
        except OSError as error:
            refuse(root, error)
        except MemoryError:
            raise UnreadableInputError(f"{root}: this machine has not enough memory to list its images") from None
        self._source.root = root
        if not len(self._source):
            raise UnreadableInputError(f"{root}: the {split} split has no images")
        self.layout, self.classes = self._source.layout, self._source.classes

    @property
    def notes(self) -> Sequence[str]:
        """What a user should know about the set before trusting a figure, such as images that don't count."""
        return self._source.notes

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

    def listed(self, positions: Sequence[int]) -> list[tuple[str, int]]:
        """Return the relative name and the label of the examples at `positions`. No image is read."""
        names, labels = list(relative(self._source.names(), self.root)), self.labels
        return [(names[i], labels[i]) for i in positions]

    @cached_property
    def listing(self) -> str:
        """SHA-256, in hexadecimal, of the classes' WordNet ids and of every image's name, size and label, in order.

        It identifies the data independently of its location, and no image is read. The layouts tar, flat, kaggle and
        caffe give the same value for the same validation images. In Parquet, only the sizes of the shards are known.
        """
        digest = hashlib.sha256(json.dumps([c.wnid for c in self.classes]).encode())
        encode = json.JSONEncoder(check_circular=False).encode  # with the same result as json.dumps, in half the time
        try:
            for parts in self._source.contents():
                digest.update(encode(parts).encode() + b"\n")
        except OSError as error:
            refuse(self.root, error)
        return digest.hexdigest()


def open_images(
    root: Path, split: Split = "validation", layout: str | None = None, *, numbered: Sequence[ClassName] = ()
) -> LabelledImages:
    """Return the labelled images in `root`. Arguments and errors are those of LabelledImages."""
    return LabelledImages(root, split, layout, numbered=numbered)


def detected(root: Path, split: Split, layout: str | None = None) -> str | None:
    """Return the layout that `root` looks like, or None. Its set may be incomplete."""
    try:
        source, folder = _choose(root, split, layout)
        return source.layout if source.detect(folder, split) else None
    except (OSError, UnreadableInputError, UsageError):
        return None


def _choose(root: Path, split: Split, layout: str | None) -> tuple[type[Source], Folder]:
    """The layout named `layout`, or the only one that `root` looks like, and the folder or archive that is in it."""
    if layout is not None:
        if layout not in LAYOUTS:
            raise UsageError(f"--format {shown(layout)}: expected one of {', '.join(LAYOUTS)}")
        if split not in LAYOUTS[layout].accepts:
            suitable = ", ".join(name for name, source in LAYOUTS.items() if split in source.accepts)
            raise UsageError(f"--format {layout}: has no {split} split; expected one of {suitable}")
    if layout is None and not root.exists():
        raise UnreadableInputError(f"{root}: no such file or folder")
    sources = [LAYOUTS[layout]] if layout else [source for source in LAYOUTS.values() if split in source.accepts]
    top: Folder = root
    if root.is_file() and layout != Tar.layout and not Tar.detect(root, split):
        archive = open_archive(root)
        if archive is None:
            fix = "give the folder with all shards" if root.suffix == ".parquet" else "give a folder or an archive"
            raise UnreadableInputError(f"{root}: neither a folder nor a zip or tar archive; {fix}")
        top = archive
    folder: Folder | None = top
    for _ in range(_WRAPPERS):
        if folder is None:
            break
        matching = [source for source in sources if source.detect(folder, split)]
        if Folders in matching and (folder / "meta.bin").is_file():  # torchvision keeps what it was unpacked from
            matching = [Folders]
        if len(matching) > 1:
            names = [source.layout for source in matching]
            raise UsageError(
                f"{root}: has the {split} split in several layouts ({', '.join(names)}); choose one, such as "
                f"--format {names[0]}, or give a folder with only one"
            )
        if matching:
            return matching[0], folder
        folder = _only_subfolder(folder)
    if layout is not None:
        return LAYOUTS[layout], top  # its constructor raises the precise error
    if find_folder(top, split):  # a split folder without classes: so does Folders
        return Folders, top
    accepted = "; ".join(source.accepts[split] for source in sources)
    raise UnreadableInputError(f"{root}: no {split} split here{_contents(top)}; expected one of: {accepted}")


def _only_subfolder(folder: Folder) -> Folder | None:
    """The only folder in `folder`, as in archives that are packed with their folder. A split is no such folder."""
    if not folder.is_dir():
        return None
    folders = subfolders(folder)
    return folders[0] if len(folders) == 1 and not is_split_folder(folders[0].name) else None


def _contents(folder: Folder) -> str:
    """What is in `folder` instead of a split, for a message."""
    if not folder.is_dir():
        return ""
    names = children(folder)
    folders = [name for name, is_folder in names.items() if is_folder]
    files = [name for name in names if name not in folders]
    if folders:
        return f" (it has the folders {listed(folders)})"
    if archives := [name for name in files if name.lower().endswith((".zip", ".tar", ".gz", ".tgz"))]:
        return f" (it has the archives {listed(archives)}; name one, or unpack it)"
    return " (it has images without labels)" if any(map(is_picture, files)) else ""
