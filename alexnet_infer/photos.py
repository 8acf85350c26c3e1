"""What the user names: files, directories, patterns and standard input, as photos to be read one by one.

Whatever is wrong with an input is raised when it is read, so that one bad photo never stops a batch.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from alexnet_infer.decode import printable, read_square
from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.preprocess import Preprocessing

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
"""What counts as an image in a directory; a file that is named itself may be called anything."""


@dataclass(frozen=True, kw_only=True)
class Photo:
    """One input, not read yet."""

    name: str
    """As the user named it, or its path in the directory they named; "-" for standard input."""
    path: Path | None = None
    """None for standard input."""
    problem: str | None = None
    """What is already known to be wrong with it."""

    @property
    def printable_name(self) -> str:
        """The name on one line and harmless to a terminal."""
        return printable(self.name)

    def square(self, preprocessing: Preprocessing) -> np.ndarray:
        """Reads the photo and rescales it to the square that patches are cut from: uint8 [S, S, 3] RGB.

        Raises UnreadableInputError, whose message begins with the printable name.
        """
        if self.problem is not None:
            raise UnreadableInputError(f"{self.printable_name}: {self.problem}")
        source = self.path if self.path is not None else _standard_input()
        return read_square(source, name=self.name, rescaling=preprocessing.rescaling)


def expand(inputs: Sequence[str]) -> Iterator[Photo]:
    """The photos that `inputs` stand for, in their order.

    Each input is a file, a directory (its images at any depth, sorted; nothing hidden, links to directories not
    followed), a pattern such as "trip/**/*.jpg" (the files it matches, sorted) or "-" for an encoded image on standard
    input. One that stands for nothing yields a photo too, which can't be read.
    """
    for text in inputs:
        if text == "-":
            yield Photo(name=text)
        elif not text:
            yield Photo(name="''", problem="an empty name; expected a file, a directory, a pattern or -")
        elif _is_directory(text):
            yield from _images_below(text)
        elif any(c in text for c in "*?[") and not os.path.lexists(text):
            yield from _matches(text)
        else:
            yield Photo(name=text, path=Path(text))


def _is_directory(path: str) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 (Path's raises on a name too long or a parent that is closed to us)


def _images_below(directory: str) -> Iterator[Photo]:
    errors: list[OSError] = []
    files: list[Path] = []
    for folder, subfolders, names in os.walk(directory, onerror=errors.append):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        files += [Path(folder, name) for name in names if not name.startswith(".")]
    images = sorted(file for file in files if file.suffix.lower() in IMAGE_SUFFIXES)
    for path in images:
        yield Photo(name=str(path), path=path)
    for error in errors:
        yield Photo(name=str(error.filename), problem=f"the directory can't be read ({error.strerror})")
    if not images and not errors:
        yield Photo(name=directory, problem=f"no images in this directory; expected {', '.join(IMAGE_SUFFIXES)}")


def _matches(pattern: str) -> Iterator[Photo]:
    found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (Path's refuses absolute patterns)
    files = [path for path in found if not _is_directory(path)]
    for path in files:
        yield Photo(name=path, path=Path(path))
    if not files:
        yield Photo(name=pattern, problem="no file is called so, and none matches it as a pattern")


def _standard_input() -> BinaryIO:
    if sys.stdin is None or sys.stdin.isatty():
        raise UnreadableInputError("-: no image on standard input; expected a pipe or file, as in: ... - < photo.jpg")
    return sys.stdin.buffer
