"""The images in a large row group of Parquet, one at a time.

pyarrow reads pages as a whole, and writers put all images of a row group into one page: 600 photos of 5 MB take it 4 GB
or more. Here, a page is decompressed as a stream. The format is that of https://parquet.apache.org/docs/file-format/.
What writers don't use for images is refused.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Any, BinaryIO

import numpy as np

from alexnet_infer.decode import MAX_BYTES

LARGE, MOST = 32_000_000, 256_000_000
"""Above LARGE bytes, compressed and decompressed, a row group's images are read here. pyarrow takes up to four times as
much. What can't be read here is left to it up to MOST."""

MOST_FOOTER, MOST_VALUES = 1 << 24, 1 << 19
"""The largest footer in bytes, and the most values in it: 6,000 row groups of four columns. pyarrow takes about 1 KB
for an empty record."""
_HEADERS = 1 << 12, 1 << 24
"""The usual and the largest size of a page's header. It may contain the extremes of the page's values."""
_MOST_PAGES = 1 << 14
"""Pages of a row group that are looked at to know its size."""
_MOST_RESTARTS = 16
"""Times that a dictionary is read again because an image is repeated."""
_MOST_HEADER_VALUES, _DEEPEST = 1000, 16
_GROUPS = 1 << 12
"""Groups of eight numbers that are decoded at once."""
_WINDOW = 1 << 16
"""Snappy refers to at most this number of the previous bytes: encoders work on blocks of 64 KB."""

_DATA, _DICTIONARY, _DATA_2 = 0, 2, 3
_ABOUT = {_DATA: 5, _DICTIONARY: 7, _DATA_2: 8}
"""Kind of a page -> the header's field about it."""
_NEEDED = {_DATA: (1, 2, 3), _DATA_2: (1, 4, 5)}
"""The fields in it that are needed. All are whole numbers."""
_PLAIN, _RUNS, _REFERENCES = 0, 3, (2, 8)
_ENCODINGS = {_PLAIN, _RUNS, 4, *_REFERENCES}  # 4: an older one than _RUNS, listed by writers that don't use it
_CODECS = {0: "UNCOMPRESSED", 1: "SNAPPY", 2: "GZIP", 3: "LZO", 4: "BROTLI", 5: "LZ4", 6: "ZSTD", 7: "LZ4_RAW"}
_STREAMED = {"UNCOMPRESSED": None, "SNAPPY": None, "ZSTD": "zstd", "GZIP": "gzip", "BROTLI": "brotli"}
"""Codec that is read as a stream -> pyarrow's name, if pyarrow does it."""


class PageError(ValueError):
    """A footer or a page is damaged, or of a kind that isn't read."""


def footer(file: BinaryIO) -> dict[int, Any]:
    """Return the record `FileMetaData` at the end of a shard.

    pyarrow takes gigabytes for some footers, and ends the process for others. Raises PageError for the former.
    """
    end = file.seek(0, io.SEEK_END)
    file.seek(max(0, end - 8))
    size = int.from_bytes(file.read(4), "little")
    if size > min(end, MOST_FOOTER):
        raise PageError(f"its footer has {size:,} bytes; expected at most {min(end, MOST_FOOTER):,}")
    file.seek(max(0, end - 8 - size))
    return _Records(io.BytesIO(file.read(size)), MOST_VALUES).record()


@dataclass(frozen=True, kw_only=True)
class _Page:
    kind: int
    place: int
    """Offset of its content."""
    packed: int
    """Size of its content in the file, in bytes."""
    size: int
    """Size of its content when decompressed."""
    about: dict[int, Any]
    """The header of its kind: field -> value."""


class Column:
    """A column of one row group, such as the images: `image.bytes`."""

    def __init__(self, file: BinaryIO, about: dict[int, Any], depth: int) -> None:
        """`file` is the shard, `about` is its record `ColumnMetaData`, and `depth` is the level of a value."""
        codec, self._values, size, *places = (about.get(field) for field in (4, 5, 7, 9, 11))
        if not _are_sizes(codec, self._values, size, *(place or 0 for place in places)):
            raise PageError("the footer is damaged")
        self._file, self._depth = file, depth
        self._codec = _CODECS.get(codec, f"codec {codec}")
        self.is_streamed = self._codec in _STREAMED and {*about.get(2, ())} <= _ENCODINGS
        """Whether `images` can read it."""
        self._begin = min(filter(None, places), default=0)
        self._end = self._begin + size

    def fits(self, most: int) -> bool:
        """Return whether its pages, compressed and decompressed, have at most `most` bytes. The footer may be wrong."""
        total = self._end - self._begin
        for number, page in enumerate(self._pages()):
            total += page.size
            if total > most or number > _MOST_PAGES:
                return False
        return total <= most

    def images(self) -> Iterator[bytes | int | None]:
        """Yield each row's image: its bytes, its size if that is more than MAX_BYTES, or None if there is none.

        After the last, and where the file is damaged, raises PageError, OSError or pyarrow's errors.
        """
        dictionary, left = None, self._values
        for page in self._pages():
            if page.kind == _DICTIONARY:
                dictionary = _Dictionary(self, page)
                continue
            if page.kind not in (_DATA, _DATA_2):
                continue  # an index
            count = min(left, page.about[1])
            left -= count
            levels, stream, encoding = self._parts(page)
            if encoding == _PLAIN:
                values = _images(stream)
            elif encoding in _REFERENCES and dictionary is not None:
                values = map(dictionary.image, _indices(stream))
            else:
                raise PageError(f"images are encoded in a way that isn't read (encoding {encoding})")
            for level in islice(levels, count):
                yield next(values) if level == self._depth else None
        raise PageError("images are missing")

    def _parts(self, page: _Page) -> tuple[Iterator[int], BinaryIO, int]:
        """Return the level of each row, a stream of the values, and how they are encoded."""
        width = self._depth.bit_length()
        if page.kind == _DATA_2:
            if page.about.get(6):
                raise PageError("images in lists")
            length, packed = page.about[5], page.about.get(7, True)
            stream, head = self.opened(page, skip=length, packed=packed), self.opened(page, packed=False)
        else:
            stream = head = self.opened(page)
            if width and page.about[3] != _RUNS:
                raise PageError(f"levels are encoded in a way that isn't read ({page.about[3]})")
            length = int.from_bytes(_exactly(stream, 4), "little") if width else 0
        if length > LARGE:
            raise PageError("damaged levels")
        levels = _exactly(head, length)
        return (_numbers(levels, width) if width else repeat(0)), stream, page.about[4 if page.kind == _DATA_2 else 2]

    def opened(self, page: _Page, skip: int = 0, packed: bool = True) -> BinaryIO:
        """Open the content of a page, decompressed, from byte `skip` on. The column must be `is_streamed`."""
        section = io.BufferedReader(_Section(self._file, page.place + skip, page.packed - skip), _WINDOW)
        codec = self._codec if packed else "UNCOMPRESSED"
        if codec == "UNCOMPRESSED":
            return section
        if codec == "SNAPPY":
            return io.BufferedReader(_Snappy(section), _WINDOW)
        import pyarrow

        return pyarrow.CompressedInputStream(pyarrow.PythonFile(section, "r"), _STREAMED[codec])

    def _pages(self) -> Iterator[_Page]:
        place = self._begin
        while place < self._end:
            header, length = _header(self._file, place)
            kind, size, packed = (header.get(field) for field in (1, 2, 3))
            if not _are_sizes(kind, size, packed):
                raise PageError("the header of a page is damaged")
            about = header.get(_ABOUT.get(kind), {})
            if not isinstance(about, dict) or not _are_sizes(*map(about.get, _NEEDED.get(kind, ()))):
                raise PageError("the header of a page is damaged")
            yield _Page(kind=kind, place=place + length, packed=packed, size=size, about=about)
            place += length + packed


def _are_sizes(*values: object) -> bool:
    return all(isinstance(value, int) and value >= 0 for value in values)


class _Dictionary:
    """A page of images to which other pages refer by number, nearly always in ascending order."""

    def __init__(self, column: Column, page: _Page) -> None:
        self._open = lambda: _images(column.opened(page))
        self._restarts = -1
        self._restart()

    def _restart(self) -> None:
        self._restarts += 1
        if self._restarts > _MOST_RESTARTS:
            raise PageError(f"images are repeated more than {_MOST_RESTARTS} times; write it without a dictionary")
        self._images, self._number, self._image = self._open(), -1, None

    def image(self, number: int) -> bytes | int | None:
        if number < self._number:
            self._restart()
        while self._number < number:
            self._image = next(self._images)
            self._number += 1
        return self._image


def _images(stream: BinaryIO) -> Iterator[bytes | int]:
    """Yield the values of a stream in which each has its size before it. Raises PageError where it ends."""
    while True:
        size = int.from_bytes(_exactly(stream, 4), "little")
        if size <= MAX_BYTES:
            yield _exactly(stream, size)
            continue
        for start in range(0, size, _WINDOW):
            _exactly(stream, min(_WINDOW, size - start))
        yield size


def _indices(stream: BinaryIO) -> Iterator[int]:
    width = _exactly(stream, 1)[0]
    content = stream.read(LARGE + 1)
    if width > 32 or len(content) > LARGE:
        raise PageError("damaged references to a dictionary")
    return _numbers(content, width)


def _numbers(content: bytes, width: int) -> Iterator[int]:
    """Decode Parquet's mixture of repeated numbers and groups of eight, each of `width` bits.

    Raises PageError at its end.
    """
    return chain.from_iterable(_runs(io.BytesIO(content), width))


def _runs(stream: BinaryIO, width: int) -> Iterator[Iterable[int]]:
    while True:
        count, grouped = divmod(_varint(stream), 2)
        if not count:
            raise PageError("an empty run")
        if not grouped:
            yield repeat(int.from_bytes(_exactly(stream, (width + 7) // 8), "little"), count)
            continue
        for start in range(0, count, _GROUPS):
            groups = min(_GROUPS, count - start)
            content = np.frombuffer(_exactly(stream, groups * width), np.uint8)
            bits = np.unpackbits(content, bitorder="little").reshape(8 * groups, width)
            yield (bits @ (1 << np.arange(width, dtype=np.int64))).tolist()


def _exactly(stream: BinaryIO, size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise PageError("a page ends early")
    return content


def _varint(stream: BinaryIO) -> int:
    """Read a number of up to 64 bits, 7 in each byte, the lowest first."""
    value = 0
    for shift in range(0, 70, 7):
        byte = _exactly(stream, 1)[0]
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise PageError("a number of more than 64 bits")


def _header(file: BinaryIO, place: int) -> tuple[dict[int, Any], int]:
    """Return a page's header and its length."""
    for size in _HEADERS:
        file.seek(place)
        stream = io.BytesIO(file.read(size))
        with suppress(PageError):
            return _Records(stream, _MOST_HEADER_VALUES).record(), stream.tell()
    raise PageError("the header of a page is damaged")


class _Records:
    """Reads records in Thrift's compact protocol (thrift-compact-protocol.md in github.com/apache/thrift)."""

    def __init__(self, stream: BinaryIO, values: int) -> None:
        """`values` is the most values that are read."""
        self._stream, self._left = stream, values

    def record(self, depth: int = 0) -> dict[int, Any]:
        """Return field -> value of the next record."""
        values, field = {}, 0
        while head := _exactly(self._stream, 1)[0]:
            step, kind = divmod(head, 16)
            field = field + step if step else _signed(self._stream)
            values[field] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return values

    def _value(self, kind: int, depth: int) -> Any:
        self._left -= 1
        if self._left < 0 or depth > _DEEPEST:
            raise PageError("too many values in a footer or header")
        match kind:
            case 1 | 2 | 3:  # in a list
                return _exactly(self._stream, 1)[0]
            case 4 | 5 | 6:
                return _signed(self._stream)
            case 7:
                return _exactly(self._stream, 8)
            case 8:
                return _exactly(self._stream, min(_varint(self._stream), MOST_FOOTER))
            case 9 | 10:
                count, kind = divmod(_exactly(self._stream, 1)[0], 16)
                return [self._value(kind, depth + 1) for _ in range(_varint(self._stream) if count == 15 else count)]
            case 12:
                return self.record(depth + 1)
        raise PageError(f"a footer or header has a value of kind {kind}")


def _signed(stream: BinaryIO) -> int:
    value = _varint(stream)
    return (value >> 1) ^ -(value & 1)


class _Section(io.RawIOBase):
    """A part of a file, as a stream."""

    def __init__(self, file: BinaryIO, place: int, size: int) -> None:
        self._file, self._place, self._end = file, place, place + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self._file.seek(self._place)
        count = self._file.readinto(memoryview(buffer)[: max(0, self._end - self._place)])
        self._place += count
        return count


class _Snappy(io.RawIOBase):
    """The content of a stream that is compressed with Snappy (format_description.txt in github.com/google/snappy)."""

    def __init__(self, packed: BinaryIO) -> None:
        self._blocks, self._block = _unpacked(packed), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._block:
            self._block = memoryview(next(self._blocks, b""))
        part = self._block[: len(buffer)]
        buffer[: len(part)] = part
        self._block = self._block[len(part) :]
        return len(part)


def _unpacked(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the content of Snappy's elements, which are bytes or references to earlier ones, in blocks."""
    left, out = _varint(stream), bytearray()
    while left > 0:
        size, kind = divmod(_exactly(stream, 1)[0], 4)
        if kind == 0:
            extra = max(0, size - 59)
            size = 1 + (int.from_bytes(_exactly(stream, extra), "little") if extra else size)
            for start in range(0, size, _WINDOW):
                out += _exactly(stream, min(_WINDOW, size - start))
                yield from _full(out)
        else:
            if kind == 1:
                back, size = (size >> 3) << 8 | _exactly(stream, 1)[0], 4 + (size & 7)
            else:
                back, size = int.from_bytes(_exactly(stream, 2 * kind - 2), "little"), size + 1
            if not 0 < back <= len(out):
                raise PageError("a reference to bytes that are not there")
            begin = len(out) - back
            part = bytes(out[begin : begin + size])
            out += part if len(part) == size else (part * size)[:size]
            yield from _full(out)
        left -= size
    yield bytes(out)


def _full(out: bytearray) -> Iterator[bytes]:
    """Take the first bytes of `out` if it has many, and leave those that may be referred to."""
    if len(out) >= 16 * _WINDOW:
        yield bytes(out[:-_WINDOW])
        del out[:-_WINDOW]
