"""Zip archives, listed by `zipfile` and read in place.

`zipfile` keeps 700 bytes for each member, which is 900 MB for ILSVRC's training set. Here they are 40.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from array import array
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipInfo

from alexnet_infer.containers import open_zip
from alexnet_infer.decode import MAX_BYTES
from alexnet_infer.errors import UnreadableInputError, one_line, shown

_LOCAL = b"PK\x03\x04"
_ENCRYPTED = 0x1
_UNIX = 3


class Zip:
    """The members of a zip archive, in the order of its list. Folders are not members.

    Raises UnreadableInputError if the list is damaged or cut short, or if a member is encrypted or a link. Raises
    OSError if the file can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        self.offsets, self.packed, self.sizes = array("Q"), array("Q"), array("Q")
        """Of each member: the position of its header, and its size in bytes in the archive and unpacked."""
        self.methods, self.checksums = array("H"), array("L")
        for info in _listed(path):
            name = info.filename.replace("\\", "/")  # as some programs of Windows write it
            if not name.endswith("/"):
                self._add(name, info)

    def _add(self, name: str, info: ZipInfo) -> None:
        if info.volume:
            raise UnreadableInputError(f"{self.path}: one part of several; expected a zip archive in one file")
        if info.flag_bits & _ENCRYPTED:
            raise UnreadableInputError(
                f"{self.path}: {shown(name)} is encrypted; unpack the archive and give the folder"
            )
        if info.create_system == _UNIX and stat.S_ISLNK(info.external_attr >> 16):
            raise UnreadableInputError(
                f"{self.path}: {shown(name)} is a link; expected regular files. Unpack it and give the folder"
            )
        self.names.append(name)
        self.offsets.append(info.header_offset)
        self.packed.append(info.compress_size)
        self.sizes.append(info.file_size)
        self.methods.append(info.compress_type)
        self.checksums.append(info.CRC)

    def read(self, member: int) -> bytes:
        """Return the content of a member. Raises OSError with the cause in `strerror`."""
        size, packed, method = self.sizes[member], self.packed[member], self.methods[member]
        if size > MAX_BYTES or packed > MAX_BYTES:
            raise OSError(0, f"has {max(size, packed):,} bytes: expected at most {MAX_BYTES:,}")
        if method not in (ZIP_STORED, ZIP_DEFLATED):
            raise OSError(0, f"compressed with zip's method {method}, which is not supported; unpack the archive")
        with self.path.open("rb") as file:
            file.seek(self.offsets[member])
            header = file.read(30)
            if len(header) < 30 or not header.startswith(_LOCAL):
                raise OSError(0, "can't be unpacked (its header is damaged)")
            file.seek(sum(struct.unpack_from("<2H", header, 26)), os.SEEK_CUR)
            data = file.read(packed)
        if len(data) < packed:
            raise OSError(0, "the archive ends before the image does")
        if method == ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
            except zlib.error as error:
                raise OSError(0, f"can't be unpacked ({error})") from None
        if len(data) != size or zlib.crc32(data) != self.checksums[member]:
            raise OSError(0, "can't be unpacked (its checksum is wrong)")
        return data


def _listed(path: Path) -> list[ZipInfo]:
    """The archive's list. A name without the mark of UTF-8 is mostly UTF-8, too, or else of the oldest encoding."""
    try:
        with path.open("rb") as file:
            try:
                return open_zip(file, "utf-8").infolist()
            except UnicodeDecodeError:
                return open_zip(file).infolist()
    except (BadZipFile, ValueError, NotImplementedError, EOFError, struct.error) as error:
        reason = "a name is not UTF-8" if isinstance(error, UnicodeDecodeError) else one_line(error)
        raise UnreadableInputError(
            f"{path}: damaged or cut short ({reason}); expected a complete zip archive"
        ) from None


@dataclass(frozen=True, slots=True)
class ZipMember:
    """An encoded image in a zip archive."""

    archive: Zip
    member: int

    @property
    def path(self) -> str:
        return str(self.archive.path)

    def read(self) -> bytes:
        """Return the image's bytes. Raises OSError with the cause in `strerror`."""
        return self.archive.read(self.member)

    def bytes(self) -> int:
        """The image's size in bytes."""
        return self.archive.sizes[self.member]
