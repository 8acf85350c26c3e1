"""The index of a zip archive, kept small: 300,000 images take 10 MB in it, and 200 MB in `zipfile`."""

from __future__ import annotations

import os
import stat
import struct
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from alexnet_infer.decode import MAX_BYTES
from alexnet_infer.errors import UnreadableInputError, shown

_END, _END_64, _LOCATOR_64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_ENTRY, _LOCAL = b"PK\x01\x02", b"PK\x03\x04"
_UNKNOWN = 0xFFFFFFFF
"""In the place of a number that doesn't fit in 32 bits, and is in the entry's extra field."""

_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _UTF8 = 0x1, 0x800


class Zip:
    """The members of a zip archive, as listed at its end.

    `names` and the columns are in the archive's order. Folders are not members. Raises UnreadableInputError if the list
    is damaged or cut short, if a member is encrypted or a link, or if the archive has several parts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        self.offsets, self.packed, self.sizes = array("Q"), array("Q"), array("Q")
        """Of each member: the position of its header, and its size in bytes in the archive and unpacked."""
        self.methods, self.checksums = array("H"), array("L")
        try:
            with path.open("rb") as file:
                self._read(file)
        except struct.error:
            raise self._damaged("its list of files is incomplete") from None

    def _damaged(self, reason: str) -> UnreadableInputError:
        return UnreadableInputError(f"{self.path}: damaged or cut short ({reason}); expected a complete zip archive")

    def _read(self, file: IO[bytes]) -> None:
        begin, size, count, shift = self._end(file)
        file.seek(begin)
        data = file.read(size)
        if len(data) < size:
            raise self._damaged("its list of files is incomplete")
        found = sum(1 for _ in self._entries(data, shift))
        if (found - count) % 0x10000:  # some programs count only to 65,535
            raise self._damaged(f"it lists {found} files and folders of {count}")

    def _end(self, file: IO[bytes]) -> tuple[int, int, int, int]:
        """The position and size of the list, its number of entries, and the number of bytes before the archive."""
        length = file.seek(0, os.SEEK_END)
        file.seek(tail_begin := max(0, length - (1 << 16) - 22))
        tail = file.read()
        at = tail.rfind(_END)
        if at < 0:
            raise self._damaged("the list of files at its end is missing")
        disk, first_disk, _, count, size, begin, comment = struct.unpack_from("<4H2LH", tail, at + 4)
        if at + 22 + comment > len(tail):
            raise self._damaged("its end is missing")
        end = tail_begin + at
        if tail[max(0, at - 20) : at].startswith(_LOCATOR_64):
            disk, where, disks = struct.unpack_from("<LQL", tail, at - 16)
            first_disk = disks > 1
            end, record = self._end_64(file, where, end - 20 - 56)
            count, size, begin = struct.unpack_from("<3Q", record, 32)
        if disk or first_disk:
            raise UnreadableInputError(f"{self.path}: one part of several; expected a zip archive in one file")
        shift = end - size - begin
        if shift < 0:
            raise self._damaged("its list of files is incomplete")
        return begin + shift, size, count, shift

    def _end_64(self, file: IO[bytes], *places: int) -> tuple[int, bytes]:
        """The position and content of the 64-bit end. It isn't where the locator says if data precede the archive."""
        for place in places:
            file.seek(max(0, place))
            if (record := file.read(56)).startswith(_END_64):
                return place, record
        raise self._damaged("its end is missing")

    def _entries(self, data: bytes, shift: int) -> Iterator[None]:
        """Add the members in the list `data`. Yields once per entry."""
        at = 0
        while at < len(data):
            if data[at : at + 4] != _ENTRY:
                raise self._damaged("its list of files is incomplete")
            made_by, _, flags, method, _, _, checksum, packed, size, name, extra, comment, _, _, mode, offset = (
                struct.unpack_from("<6H3L5H2L", data, at + 4)
            )
            begin = at + 46
            at = begin + name + extra + comment
            text = self._name(data[begin : begin + name], flags)
            if _UNKNOWN in (packed, size, offset):
                numbers = _extra_64(data[begin + name : begin + name + extra])
                size, packed, offset = (next(numbers) if n == _UNKNOWN else n for n in (size, packed, offset))
            if not text.endswith("/"):
                self._check(text, flags, made_by, mode)
                self.names.append(text)
                self.offsets.append(offset + shift)
                self.packed.append(packed)
                self.sizes.append(size)
                self.methods.append(method)
                self.checksums.append(checksum)
            yield

    def _name(self, name: bytes, flags: int) -> str:
        try:
            text = name.decode()
        except UnicodeDecodeError:
            if flags & _UTF8:
                raise self._damaged("a name is not UTF-8") from None
            text = name.decode("cp437")  # without the mark, names are UTF-8 (macOS) or in this character set
        return text.replace("\\", "/")

    def _check(self, name: str, flags: int, made_by: int, mode: int) -> None:
        if flags & _ENCRYPTED:
            raise UnreadableInputError(
                f"{self.path}: {shown(name)} is encrypted; unpack the archive and give the folder"
            )
        if made_by >> 8 == 3 and stat.S_ISLNK(mode >> 16):  # 3: Unix
            raise UnreadableInputError(
                f"{self.path}: {shown(name)} is a link; expected regular files. Unpack it and give the folder"
            )

    def read(self, member: int) -> bytes:
        """Return the content of a member. Raises OSError with the cause in `strerror`."""
        size, packed, method = self.sizes[member], self.packed[member], self.methods[member]
        if size > MAX_BYTES or packed > MAX_BYTES:
            raise OSError(0, f"too large: expected at most {MAX_BYTES:,} bytes")
        if method not in (_STORED, _DEFLATED):
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
        if method == _DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
            except zlib.error as error:
                raise OSError(0, f"can't be unpacked ({error})") from None
        if len(data) != size or zlib.crc32(data) != self.checksums[member]:
            raise OSError(0, "can't be unpacked (its checksum is wrong)")
        return data


def _extra_64(extra: bytes) -> Iterator[int]:
    """The 64-bit numbers in an entry's extra field. Raises struct.error if one is missing."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            yield from (number for (number,) in struct.iter_unpack("<Q", extra[4 : 4 + length // 8 * 8]))
        extra = extra[4 + length :]
    raise struct.error("a number is missing")


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
