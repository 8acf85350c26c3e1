"""Unpack archives of images into a new folder, without trusting them.

The format is told by the content: a zip file, or a tar file that may be compressed (several sets call a plain tar file
".tar.gz", or a compressed one ".tar"). Only folders and regular files inside the new folder are made. Everything else
is refused: absolute names, "..", links, devices, encrypted files, and more bytes or files than expected.
"""

from __future__ import annotations

import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from alexnet_infer.containers import Header, open_zip
from alexnet_infer.errors import UnreadableInputError, one_line, shown

CHUNK = 2**20

MAX_DEPTH = 64
"""The largest number of folders in each other in an archive."""

TAR_BUFFER = 2**16
"""Bytes of a tar file per read. tarfile copies the rest of its buffer at each read, so a larger one takes longer."""

OnBytes = Callable[[int], None]

_Member = tuple[str, int, Callable[[], IO[bytes]] | None]
"""Name, size in bytes, and a function that opens the file; None for a folder."""


def unpack(
    archive: Path, folder: Path, *, max_bytes: int, max_files: int, on_bytes: OnBytes = lambda count: None
) -> None:
    """Unpack `archive` into `folder`, which must not exist.

    The files that macOS adds to archives are left out. `on_bytes` is called with the number of bytes of the archive
    that were read since the last call.

    Raises UnreadableInputError, which names the archive and the member, if it is damaged, not an archive or not safe,
    or has more than `max_bytes` bytes of content or more than `max_files` files and folders. The folder then has part
    of the content. Raises OSError if `folder` can't be written.
    """
    folder.mkdir()
    made = {folder}
    try:
        with archive.open("rb") as file:
            source = _Source(file, archive, on_bytes)
            count = size = 0
            for name, length, opener in _members(source):
                count, size = count + 1, size + length
                if size > max_bytes or count > max_files:
                    raise _RefusedError(
                        f"has more than {max_bytes:,} bytes or {max_files:,} files: not the expected images"
                    )
                path = _inside(name, folder)
                if path is None:
                    continue
                parent = path if opener is None else path.parent
                if parent not in made:
                    parent.mkdir(parents=True, exist_ok=True)
                    made.add(parent)
                if opener is not None:
                    _write(name, length, opener, path)
    except _RefusedError as error:
        raise UnreadableInputError(f"{archive}: {error}") from None
    except _DAMAGE as error:
        raise UnreadableInputError(f"{archive}: damaged, or not a tar or zip file ({one_line(error)})") from None


class _RefusedError(Exception):
    """The archive is damaged or not safe. The message is the cause."""


_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError,
    ValueError, NotImplementedError, RuntimeError,  # zipfile's, for unknown compression, wrong fields and passwords
    NotADirectoryError, IsADirectoryError, FileExistsError,  # one name as both a file and a folder
)  # fmt: skip


class _Source:
    """The open archive, which counts the bytes read.

    A failure to read it must not look like a failure to write its content: both would be an OSError.
    """

    def __init__(self, file: IO[bytes], path: Path, on_bytes: OnBytes) -> None:
        self._file, self._path, self._on_bytes = file, path, on_bytes
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable  # for zipfile

    def read(self, size: int = -1) -> bytes:
        try:
            block = self._file.read(size)
        except OSError as error:
            raise UnreadableInputError(f"{self._path}: {error.strerror or error}") from None
        self._on_bytes(len(block))
        return block


class _Header(Header):
    """The header of a member. tarfile takes a damaged one for the end of the archive; here it is an error."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(tarfile_)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # the real end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


def _members(source: Any) -> Iterator[_Member]:
    begin = source.read(4)
    source.seek(0)
    return _zip_members(source) if begin[:2] == b"PK" else _tar_members(source)


def _tar_members(source: Any) -> Iterator[_Member]:
    with tarfile.open(fileobj=source, mode="r|*", bufsize=TAR_BUFFER, tarinfo=_Header) as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # tarfile would keep a kilobyte for each of up to a million files
            if member.size < 0:
                raise _RefusedError(f"{shown(member.name)} has {member.size} bytes: damaged")
            if member.isdir():
                yield member.name, 0, None
            elif member.isreg():
                yield member.name, member.size, lambda member=member: archive.extractfile(member)
            else:
                raise _RefusedError(f"{shown(member.name)} is neither a folder nor a regular file: expected only these")


def _zip_members(source: Any) -> Iterator[_Member]:
    with open_zip(source) as archive:
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0 if the archive was made on Windows
            if member.is_dir():
                yield member.filename, 0, None
            elif kind in (0, stat.S_IFREG):
                yield member.filename, member.file_size, lambda member=member: archive.open(member)
            else:
                raise _RefusedError(
                    f"{shown(member.filename)} is neither a folder nor a regular file: expected only these"
                )


def _inside(name: str, folder: Path) -> Path | None:
    """The path of a member in `folder`, or None if it is a file of macOS or the folder itself."""
    windows = PureWindowsPath(name)  # also splits at "\\", and knows drives
    if name.startswith("/") or windows.anchor or ".." in windows.parts or not name.isprintable():
        raise _RefusedError(f"has a member {shown(name)}: expected a printable name inside the new folder")
    parts = PurePosixPath(name).parts
    if len(parts) > MAX_DEPTH:
        raise _RefusedError(f"has a member {shown(name)}: expected at most {MAX_DEPTH} folders in each other")
    if not parts or "__MACOSX" in parts or parts[-1] == ".DS_Store" or parts[-1].startswith("._"):
        return None
    return folder.joinpath(*parts)


def _write(name: str, length: int, opener: Callable[[], IO[bytes]], path: Path) -> None:
    left = length
    with opener() as content, path.open("wb") as file:
        while left and (block := content.read(min(CHUNK, left))):
            file.write(block)
            left -= len(block)
        if left or content.read(1):  # the last read makes zipfile compare the checksum
            raise _RefusedError(f"{shown(name)} has another size than the archive says: damaged")
