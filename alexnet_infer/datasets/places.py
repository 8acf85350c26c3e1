"""Where encoded images are: in files of their own or inside archives. Reading text files that belong to a set."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from alexnet_infer.decode import MAX_BYTES
from alexnet_infer.errors import UnreadableInputError, one_line, shown


@dataclass(frozen=True, slots=True)
class Place:
    """The location of an encoded image: a whole file or, with an `offset`, `size` bytes of a file."""

    path: str
    offset: int | None = None
    size: int | None = None

    def read(self) -> bytes:
        """Return the image's bytes. Raises OSError with the cause in `strerror`."""
        path = Path(self.path)
        if not path.is_file():  # reading a pipe would block forever
            raise OSError(0, "missing, or not a regular file")
        if (self.bytes() or 0) > MAX_BYTES:
            raise OSError(0, f"too large: expected at most {MAX_BYTES:,} bytes")
        if self.offset is None:
            return path.read_bytes()
        with path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise OSError(0, "the archive ends before the image does")
        return data

    def bytes(self) -> int | None:
        """The image's size in bytes, or None if it is unknown."""
        try:
            return os.stat(self.path).st_size if self.offset is None else self.size  # noqa: PTH116 (a million of them)
        except OSError:
            return None


def refuse(path: object, error: Exception) -> NoReturn:
    """Raise UnreadableInputError with the path and cause of `error`."""
    reason = getattr(error, "strerror", None) or one_line(error)
    raise UnreadableInputError(f"{getattr(error, 'filename', None) or path}: {reason}") from None


def refuse_lines(path: object, bad: Sequence[tuple[int, str]], expected: str) -> None:
    """Raise UnreadableInputError if there are `bad` lines, given as (number, text). The message shows the first one."""
    if bad:
        number, text = bad[0]
        more = f" ({len(bad)} lines are wrong; this is the first)" if len(bad) > 1 else ""
        raise UnreadableInputError(f"{path}, line {number}: {shown(text)}: expected {expected}{more}")


def read_whole(path: Path) -> bytes:
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
