"""What every layout gives: classes, and examples from any position on."""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NoReturn

from alexnet_infer.artifact import ClassName
from alexnet_infer.decode import printable
from alexnet_infer.errors import UnreadableInputError, one_line, shown
from alexnet_infer.photos import IMAGE_SUFFIXES

Split = Literal["train", "validation"]
OnError = Literal["raise", "yield"]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One encoded image and its label (position in the set's classes)."""

    name: str
    data: bytes
    label: int
    error: str | None = None
    """Why the image can't be read; `data` is then empty."""


class Source(ABC):
    """One split of a data set in one layout.

    The constructor reads what is needed to know every label, but no image. It raises UnreadableInputError when the
    split isn't there, or a part of it is missing, damaged or contradicts another.
    """

    layout: ClassVar[str]
    """Its name, as people give it."""
    accepts: ClassVar[Mapping[Split, str]]
    """What it looks like, for messages. A split that isn't here doesn't exist in this layout."""

    classes: tuple[ClassName, ...]
    """In order of WordNet ids."""

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
        """The examples from position `start` on. One that can't be read raises UnreadableInputError, or is yielded with
        its `error`; one whose label can't be known always raises."""

    @abstractmethod
    def at(self, positions: Iterable[int], on_error: OnError) -> Iterator[Example]:
        """The examples at `positions`, which ascend."""

    @abstractmethod
    def labels(self) -> Iterator[int]:
        """Every example's label, without reading images."""

    @abstractmethod
    def contents(self) -> Iterator[Sequence[str | int | None]]:
        """What identifies the examples, in their order, and can be had without reading images: name, size, label."""

    def absent(self, root: Path, split: Split) -> UnreadableInputError:
        """That `root`, which was said to be in this layout, isn't."""
        return UnreadableInputError(
            f"{root}: no {split} split here in the layout {self.layout}; expected {self.accepts[split]}"
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where an encoded image lies: a whole file or, with an offset, `size` bytes of one."""

    path: Path
    offset: int | None = None
    size: int | None = None

    def read(self) -> bytes:
        """Raises OSError, whose `strerror` says what is wrong."""
        if not self.path.is_file():  # reading a pipe would wait for ever
            raise OSError(0, "gone, or not a file")
        if self.offset is None:
            return self.path.read_bytes()
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise OSError(0, "the archive ends before the image does")
        return data

    def bytes(self) -> int | None:
        """The image's size; None when it can't be had."""
        try:
            return self.path.stat().st_size if self.offset is None else self.size
        except OSError:
            return None


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a list, not read yet."""

    name: str
    label: int
    place: Place


class Listed(Source):
    """A set whose images are all known by place: `entries`, in the set's own order."""

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
            yield Example(name=entry.name, data=data, label=entry.label, error=problem)

    def at(self, positions: Iterable[int], on_error: OnError) -> Iterator[Example]:
        for position in positions:
            yield next(self.examples(position, on_error))

    def labels(self) -> Iterator[int]:
        return (entry.label for entry in self.entries)

    def contents(self) -> Iterator[Sequence[str | int | None]]:
        for entry in self.entries:
            yield os.path.basename(entry.name), entry.place.bytes(), entry.label  # noqa: PTH119 (a million of them)


def refuse(path: Path, error: Exception) -> NoReturn:
    """Raises UnreadableInputError with the path and reason of another error."""
    reason = getattr(error, "strerror", None) or one_line(error)
    raise UnreadableInputError(f"{getattr(error, 'filename', None) or path}: {reason}") from None


def refuse_lines(path: Path, bad: Sequence[tuple[int, str]], expected: str) -> None:
    """Raises UnreadableInputError when there are bad lines, given as (number, text), with the first and their count."""
    if bad:
        number, text = bad[0]
        more = f" ({len(bad)} lines are wrong, this is the first)" if len(bad) > 1 else ""
        raise UnreadableInputError(f"{path}, line {number}: {shown(text)}: expected {expected}{more}")


def read_file(path: Path) -> bytes:
    """The whole of a file that belongs to a set. Raises FileNotFoundError when it isn't there, UnreadableInputError
    when it can't be read."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise UnreadableInputError(f"{path}: not a file")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        refuse(path, error)


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text, with any system's line ends. Raises what `read_file` raises."""
    try:
        text = read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        refuse(path, error)
    # Not splitlines(): a name may hold what Unicode takes for a line break. A skipped line would shift the labels.
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def is_image(name: str) -> bool:
    """By its name: hidden files are no images."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def images_in(folder: Path) -> dict[str, Place]:
    """The images directly in `folder`, by name. Raises OSError when it can't be listed."""
    return {path.name: Place(path) for path in folder.iterdir() if is_image(path.name)}


def labelled(
    labels: Mapping[str, int], source: Path, images: Mapping[str, Place], folder: Path, *, all_images: bool = True
) -> list[Entry]:
    """The images that the file `source` gives labels for, in order of their names.

    Raises UnreadableInputError when `folder` lacks one and, with `all_images`, when it has others.
    """
    counts = f"{source}: {len(labels)} labels for {len(images)} images in {folder}"
    for missing, what in ((labels.keys() - images.keys(), "no image"), (images.keys() - labels.keys(), "no label")):
        if missing and (all_images or what == "no image"):
            raise UnreadableInputError(f"{counts}: {len(missing)} have {what}, the first is {printable(min(missing))}")
    return [Entry(printable(name), labels[name], images[name]) for name in sorted(labels)]
