"""Where encoded images are: in files of their own or inside archives."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import NoReturn

from alexnet_infer.decode import MAX_BYTES
from alexnet_infer.errors import SpecError, UnreadableInputError, cause_of
from alexnet_infer.files import open_regular, read_limited


@dataclass(frozen=True, slots=True)
class Place:
    """The location of an encoded image: a whole file or, with an `offset`, `size` bytes of a file."""

    path: str
    offset: int | None = None
    size: int | None = None

    def read(self) -> bytes:
        """Return the image's bytes. Raises OSError with the cause in `strerror`."""
        try:
            if self.offset is None:
                return read_limited(self.path, MAX_BYTES)
            if self.size > MAX_BYTES:
                raise SpecError(f"has {self.size:,} bytes: expected at most {MAX_BYTES:,}")
            with open_regular(self.path) as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except SpecError as error:
            raise OSError(0, str(error)) from None
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP):
                raise OSError(0, "missing, or not a regular file") from None
            raise
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
    reason = cause_of(error)
    raise UnreadableInputError(f"{getattr(error, 'filename', None) or path}: {reason}") from None
