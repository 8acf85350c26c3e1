"""The interface that all layouts implement: classes, and examples from any position."""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal, NoReturn

import numpy as np

from alexnet_infer.decode import Squares, Timed, read_squares
from alexnet_infer.errors import UnreadableInputError, one_line, printable, shown
from alexnet_infer.manifest import ClassName
from alexnet_infer.photos import IMAGE_SUFFIXES
from alexnet_infer.preprocess import Rescaling

Split = Literal["train", "validation"]
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
        folder = f"{self.root}{os.sep}" if self.root else ""
        return printable(self.name.removeprefix(folder).replace(os.sep, "/"))

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

    @classmethod
    @abstractmethod
    def detect(cls, root: Path, split: Split) -> bool:
        """Whether `root` looks like this layout."""

    @abstractmethod
    def __init__(self, root: Path, split: Split) -> None: ...

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
    def contents(self) -> Iterator[Sequence[str | int | None]]:
        """Yield (name, size, label) of the examples, in order, without reading images. Unknown values are None."""

    def absent(self, root: Path, split: Split) -> UnreadableInputError:
        """Return the error for a `root` that isn't in this layout."""
        return UnreadableInputError(
            f"{root}: no {split} split here in layout {self.layout}; expected {self.accepts[split]}"
        )


@dataclass(frozen=True, slots=True)
class Place:
    """The location of an encoded image: a whole file or, with an `offset`, `size` bytes of a file."""

    path: Path
    offset: int | None = None
    size: int | None = None

    def read(self) -> bytes:
        """Return the image's bytes. Raises OSError with the cause in `strerror`."""
        if not self.path.is_file():  # reading a pipe would block forever
            raise OSError(0, "missing, or not a regular file")
        if self.offset is None:
            return self.path.read_bytes()
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise OSError(0, "the archive ends before the image does")
        return data

    def bytes(self) -> int | None:
        """The image's size in bytes, or None if it is unknown."""
        try:
            return self.path.stat().st_size if self.offset is None else self.size
        except OSError:
            return None


@dataclass(frozen=True, slots=True)
class Entry:
    """One listed image, not read yet."""

    name: str
    label: int
    place: Place


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
            except OSError as error:
                data, problem = b"", error.strerror or one_line(error)
            if problem and on_error == "raise":
                where = entry.place.path if entry.place.offset is None else f"{entry.place.path}: {entry.name}"
                raise UnreadableInputError(f"{where}: {problem}")
            yield Example(name=entry.name, data=data, label=entry.label, error=problem, root=self.root)

    def at(self, positions: Iterable[int], on_error: OnError) -> Iterator[Example]:
        for position in positions:
            yield next(self.examples(position, on_error))

    def labels(self) -> Iterator[int]:
        return (entry.label for entry in self.entries)

    def contents(self) -> Iterator[Sequence[str | int | None]]:
        for entry in self.entries:
            yield os.path.basename(entry.name), entry.place.bytes(), entry.label  # noqa: PTH119 (a million of them)


def refuse(path: Path, error: Exception) -> NoReturn:
    """Raise UnreadableInputError with the path and cause of `error`."""
    reason = getattr(error, "strerror", None) or one_line(error)
    raise UnreadableInputError(f"{getattr(error, 'filename', None) or path}: {reason}") from None


def refuse_lines(path: Path, bad: Sequence[tuple[int, str]], expected: str) -> None:
    """Raise UnreadableInputError if there are `bad` lines, given as (number, text). The message shows the first one."""
    if bad:
        number, text = bad[0]
        more = f" ({len(bad)} lines are wrong; this is the first)" if len(bad) > 1 else ""
        raise UnreadableInputError(f"{path}, line {number}: {shown(text)}: expected {expected}{more}")


def read_file(path: Path) -> bytes:
    """Return the content of a file that belongs to a set.

    Raises FileNotFoundError if it doesn't exist. Raises UnreadableInputError if it can't be read.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise UnreadableInputError(f"{path}: not a regular file")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        refuse(path, error)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text file, without their line endings (LF or CRLF).

    Raises what `read_file` raises, and UnreadableInputError if the file isn't UTF-8.
    """
    try:
        text = read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        refuse(path, error)
    # Not splitlines(): a name may contain other characters that Unicode treats as line breaks, and an additional line
    # would shift the labels.
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def is_image(name: str) -> bool:
    """Whether the name has the suffix of an image. Hidden files are not images."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def images_in(folder: Path) -> dict[str, Place]:
    """The images directly in `folder`, by name. Raises OSError if the folder can't be listed."""
    return {path.name: Place(path) for path in folder.iterdir() if is_image(path.name)}


def labelled(
    labels: Mapping[str, int], source: Path, images: Mapping[str, Place], folder: Path, *, all_images: bool = True
) -> list[Entry]:
    """The images that the file `source` labels, sorted by name.

    Raises UnreadableInputError if `folder` lacks one of them or, with `all_images`, contains others.
    """
    counts = f"{source}: {len(labels)} labels for {len(images)} images in {folder}"
    for names, lacking in ((labels.keys() - images.keys(), "no image"), (images.keys() - labels.keys(), "no label")):
        if names and (all_images or lacking == "no image"):
            have = "1 has" if len(names) == 1 else f"{len(names)} have"
            raise UnreadableInputError(f"{counts}: {have} {lacking}; the first is {printable(min(names))}")
    return [Entry(printable(name), labels[name], images[name]) for name in sorted(labels)]
