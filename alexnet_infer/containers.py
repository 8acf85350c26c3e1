"""Zip and tar archives, listed without trusting the sizes in them.

`zipfile` and `tarfile` read as many bytes at once as an archive asks for, and a sparse file of terabytes has them.
"""

from __future__ import annotations

import tarfile
from typing import IO, Any, NoReturn
from zipfile import ZIP_STORED, BadZipFile, ZipFile, is_zipfile

__all__ = ["ZIP_STORED", "BadZipFile", "Header", "is_zipfile", "open_zip"]

MAX_LIST_BYTES = 250_000_000
"""The longest list of members of a zip archive that is read. That of ILSVRC's 1.3 million images has 150 MB."""

MAX_TEXT_BYTES = 1_000_000
"""The longest text about a member of a tar archive that is read, such as a long name. Paths have at most 4 kB."""


class Header(tarfile.TarInfo):
    """A member's header, for the argument `tarinfo` of `tarfile.open`.

    Raises ReadError for a negative size, for a text of more than MAX_TEXT_BYTES, and for a sparse file in the form
    whose description is as long as it says.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> tarfile.TarInfo:
        header = super().frombuf(buf, encoding, errors)
        is_text = header.type in (
            *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
            *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
        )
        if header.size < 0 or (is_text and header.size > MAX_TEXT_BYTES):
            raise tarfile.ReadError(f"a header that says {header.size:,} bytes")
        return header

    def _proc_gnusparse_10(self, *_: Any) -> NoReturn:  # tarfile's hook
        raise tarfile.ReadError("a sparse file")


class _Bounded:
    """What `ZipFile` needs of an archive's file. A read of more than `most` bytes at once is refused."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file, self._most = file, most
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > self._most:
            raise BadZipFile(f"a list of {size:,} bytes: expected at most {self._most:,}")
        return self._file.read(size)


def open_zip(file: IO[bytes], metadata_encoding: str | None = None, most: int | None = None) -> ZipFile:
    """Return the zip archive in an open file.

    Raises BadZipFile if its list has more than `most` bytes, by default MAX_LIST_BYTES.
    """
    return ZipFile(_Bounded(file, most or MAX_LIST_BYTES), metadata_encoding=metadata_encoding)
