"""The interface that all layouts implement: classes, and examples from any position."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from alexnet_infer.datasets.places import Place
from alexnet_infer.datasets.tree import Folder, Split, same_name
from alexnet_infer.datasets.zips import ZipMember
from alexnet_infer.decode import Squares, Timed, read_squares
from alexnet_infer.errors import UnreadableInputError, cause_of, printable
from alexnet_infer.manifest import ClassName
from alexnet_infer.preprocess import Rescaling

OnError = Literal["raise", "yield"]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One encoded image and its label, a position in the set's classes."""

    name: str
    data: bytes
    label: int
    error: str | None = None
    """The reason why the image can't be read, or None. With an error, `data` is empty."""
    root: Path | None = field(default=None, repr=False, compare=False)
    """The set's folder or archive."""

    @property
    def relative_name(self) -> str:
        """The name, printable and independent of the set's location: a path is relative to `root`, with slashes."""
        return next(relative([self.name], self.root))

    def square(self, rescaling: Rescaling) -> np.ndarray:
        """Decode the image, and return its square uint8 [S, S, 3] RGB. Errors are those of `squares`."""
        return self.squares([rescaling])[rescaling]

    def squares(self, rescalings: Collection[Rescaling], timed: Timed = nullcontext) -> Squares:
        """Decode the image once, and return its square for each of `rescalings`. `timed` is as in `read_squares`.

        The EXIF orientation is ignored, as ILSVRC's labels assume. Raises UnreadableInputError with the relative name.
        """
        return read_squares(
            self.content(), name=self.relative_name, rescalings=rescalings, apply_exif=False, timed=timed
        )

    def emptied(self) -> Example:
        """Return this example without its encoded bytes."""
        return replace(self, data=b"")

    def content(self) -> bytes:
        """Return the encoded image. Raises UnreadableInputError if it could not be read."""
        if self.error is not None:
            raise UnreadableInputError(self.error, name=self.relative_name)
        return self.data


def relative(names: Iterable[str], root: Path | None) -> Iterator[str]:
    """Yield the `Example.relative_name` of images of the set in `root`."""
    folder = f"{root}{os.sep}" if root else ""
    return (printable(name.removeprefix(folder).replace(os.sep, "/")) for name in names)


class Source(ABC):
    """One split of a data set in one layout.

    The constructor reads what is needed to know the classes and the number of examples, but no image. It raises
    UnreadableInputError if the split is missing, or if a part of it is missing, is damaged or contradicts another part.
    """

    layout: ClassVar[str]
    """The layout's name, as users give it."""
    accepts: ClassVar[Mapping[Split, str]]
    """Split -> what the layout looks like, for messages. A split without an entry doesn't exist in this layout."""

    classes: tuple[ClassName, ...]
    """In order of WordNet ids."""
    root: Path
    """The set's folder or archive."""
    notes: Sequence[str] = ()
    """What a user should know about the set before trusting a figure: one line each."""

    @classmethod
    @abstractmethod
    def detect(cls, root: Folder, split: Split) -> bool:
        """Whether `root` looks like this layout."""

    @abstractmethod
    def __init__(self, root: Folder, split: Split) -> None: ...

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def examples(self, start: int, on_error: OnError) -> Iterator[Example]:
        """Yield the examples, beginning at position `start`.

        An image that can't be read raises UnreadableInputError or, with `on_error="yield"`, is yielded with its
        `error`. An unknown label always raises UnreadableInputError.
        """

    @abstractmethod
    def at(self, positions: Iterable[int], on_error: OnError) -> Iterator[Example]:
        """Yield the examples at `positions`, which must be strictly ascending."""

    @abstractmethod
    def labels(self) -> Iterator[int]:
        """Yield every example's label, without reading images."""

    @abstractmethod
    def names(self) -> Iterator[str]:
        """Yield the name that every example has, without reading images."""

    @abstractmethod
    def contents(self) -> Iterator[Sequence[str | int | None]]:
        """Yield (name, size, label) of the examples, in order, without reading images. Unknown values are None."""

    def absent(self, root: Folder, split: Split) -> UnreadableInputError:
        """Return the error for a `root` that isn't in this layout."""
        return UnreadableInputError(
            f"{root}: no {split} split here in layout {self.layout}; expected {self.accepts[split]}"
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """One listed image, not read yet."""

    name: str
    label: int
    place: Place | ZipMember


class Listed(Source):
    """A set whose images have all been located: `entries`, in the set's own order."""

    entries: list[Entry]

    def __len__(self) -> int:
        return len(self.entries)

    def examples(self, start: int, on_error: OnError) -> Iterator[Example]:
        for position in range(start, len(self.entries)):
            entry = self.entries[position]
            try:
                data, problem = entry.place.read(), None
            except (OSError, MemoryError) as error:
                data, problem = b"", reason(error)
            if problem and on_error == "raise":
                path = entry.place.path
                where = path if path.endswith(entry.name) else f"{path}: {entry.name}"
                raise UnreadableInputError(f"{where}: {problem}")
            yield Example(name=entry.name, data=data, label=entry.label, error=problem, root=self.root)

    def at(self, positions: Iterable[int], on_error: OnError) -> Iterator[Example]:
        for position in positions:
            yield next(self.examples(position, on_error))

    def labels(self) -> Iterator[int]:
        return (entry.label for entry in self.entries)

    def names(self) -> Iterator[str]:
        return (entry.name for entry in self.entries)

    def contents(self) -> Iterator[Sequence[str | int | None]]:
        for entry in self.entries:
            yield os.path.basename(entry.name), entry.place.bytes(), entry.label  # noqa: PTH119 (a million of them)


def reason(error: OSError | MemoryError) -> str:
    """Return why an image can't be read, for `Example.error`."""
    return cause_of(error) or "not enough memory to read it"


def labelled(
    labels: Mapping[str, int],
    source: Folder,
    images: Mapping[str, Place | ZipMember],
    folder: Folder,
    *,
    all_images: bool = True,
) -> list[Entry]:
    """The images that the file `source` labels, sorted by name.

    Names are compared by `same_name`. Raises UnreadableInputError if `folder` lacks one of them or, with `all_images`,
    contains others.
    """
    actual = {same_name(name): name for name in images}
    found = {name: name if name in images else actual.get(same_name(name), name) for name in labels}
    counts = f"{source}: {len(labels)} labels for {len(images)} images in {folder}"
    lacking = [name for name, own in found.items() if own not in images]
    unlabelled = images.keys() - found.values() if all_images else ()
    for names, lack in ((lacking, "no image"), (unlabelled, "no label")):
        if names:
            have = "1 has" if len(names) == 1 else f"{len(names)} have"
            raise UnreadableInputError(f"{counts}: {have} {lack}; the first is {printable(min(names))[:100]}")
    if len({*found.values()}) < len(found):
        raise UnreadableInputError(
            f"{counts}: two names differ only in how their accents are stored; expected each once"
        )
    return [Entry(printable(name), labels[name], images[found[name]]) for name in sorted(labels)]
