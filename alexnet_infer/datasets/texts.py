"""Text files that belong to a set: lists of images and labels, and tables of classes."""

from __future__ import annotations

from codecs import BOM_UTF8
from io import BytesIO
from pathlib import Path
from sys import getsizeof

from alexnet_infer.datasets.inside import Inside
from alexnet_infer.datasets.places import refuse
from alexnet_infer.errors import SpecError, UnreadableInputError, one_line, shown
from alexnet_infer.files import read_limited

MAX_LIST_BYTES = 180_000_000
"""The largest list of images that is read. A list of ILSVRC's 1.3 million training images has 60 MB."""

MAX_TABLE_BYTES = 16_000_000
"""The largest table of classes that is read. WordNet's `words.txt` has 3 MB, a table of ILSVRC's classes 32 kB."""

MAX_LINE = 100_000
"""The longest line, in bytes. A system's longest paths have 4,096."""

MAX_LINES = 4_000_000
"""The most lines: three times ILSVRC's training images."""

MAX_TEXT = 400_000_000
"""The most bytes of memory that lines may take: four per character if one of the line's characters is an emoji."""


def read_file(path: Path | Inside, most: int) -> bytes:
    """Return the content of a file that belongs to a set. Its size is looked at first.

    Raises FileNotFoundError if it doesn't exist. Raises UnreadableInputError if it can't be read, has more than `most`
    bytes or is not a regular file.
    """
    try:
        if isinstance(path, Path):
            return read_limited(path, most)
        if path.size() > most:
            raise SpecError(f"has {path.size():,} bytes: expected at most {most:,}")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except SpecError as error:
        raise UnreadableInputError(f"{path}: {error}") from None
    except OSError as error:
        refuse(path, error)


def read_lines(path: Path | Inside, most: int = MAX_LIST_BYTES) -> list[str]:
    """Return the lines of a UTF-8 text file, as `lines_of` does. Raises what `read_file` and `lines_of` raise."""
    return lines_of(path, read_file(path, most))


def lines_of(path: Path | Inside, content: bytes) -> list[str]:
    """Return the lines of the UTF-8 text in the file `path`, without their line endings (LF or CRLF).

    Blank lines at the end are left out; an empty text is one blank line. Raises UnreadableInputError if the text isn't
    UTF-8, or if it has more than MAX_LINES lines, a longer one than MAX_LINE, or more than MAX_TEXT together.
    """
    if content.count(b"\n") > MAX_LINES:
        raise UnreadableInputError(f"{path}: has more than {MAX_LINES:,} lines")
    lines: list[str] = []
    taken = 0
    # Not splitlines(): a name may contain other characters that Unicode treats as line breaks, and an additional line
    # would shift the labels.
    for number, line in enumerate(BytesIO(content.removeprefix(BOM_UTF8)), start=1):
        if len(line) > MAX_LINE:
            raise UnreadableInputError(f"{path}, line {number}: has {len(line):,} bytes: expected at most {MAX_LINE:,}")
        try:
            lines.append(line.removesuffix(b"\n" if line[-2:] != b"\r\n" else b"\r\n").decode())
        except UnicodeDecodeError as error:
            raise UnreadableInputError(f"{path}, line {number}: {one_line(error)}") from None
        taken += getsizeof(lines[-1])
        if taken > MAX_TEXT:
            raise UnreadableInputError(f"{path}: its lines take more than {MAX_TEXT:,} bytes of memory")
    while len(lines) > 1 and not lines[-1].strip():
        lines.pop()
    return lines or [""]


class WrongLines:
    """The lines of a list that are wrong: the first, and their number, which may be that of all lines."""

    def __init__(self) -> None:
        self._first: tuple[int, str] | None = None
        self._count = 0

    def add(self, number: int, text: str) -> None:
        self._first = self._first or (number, text)
        self._count += 1

    def refuse(self, path: object, expected: str) -> None:
        """Raise UnreadableInputError if there are any. The message shows the first."""
        if self._first:
            number, text = self._first
            more = f" ({self._count} lines are wrong; this is the first)" if self._count > 1 else ""
            raise UnreadableInputError(f"{path}, line {number}: {shown(text)}: expected {expected}{more}")
