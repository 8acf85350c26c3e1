"""The images in a large row group of Parquet, one at a time.

pyarrow reads pages as a whole, and writers put all images of a row group into one page: 600 photos of 5 MB take it 4 GB
or more. Here, a page is decompressed as a stream. The format is that of https://parquet.apache.org/docs/file-format/.
What writers don't use for images is refused.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Any, BinaryIO

import numpy as np

from alexnet_infer.decode import MAX_BYTES

LARGE, MOST = 200_000_000, 500_000_000
"""Bytes that pyarrow takes for a row group (`Column.sizes`). Above LARGE, its images are read here. What can't be read
here, or only slowly (Snappy, in Python), is left to pyarrow up to MOST."""

MOST_FOOTER, MOST_VALUES = 1 << 24, 1 << 21
"""The largest footer in bytes, and the most values in it, of which a record counts as _WEIGHT. pyarrow's own footers of
6,000 row groups of four columns are within both."""
_WEIGHT = 4
"""pyarrow takes about 1 KB for an empty record."""
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
"""The fields in it that are needed. All are numbers of 32 bits."""
_PLAIN, _RUNS, _PREFIXES, _REFERENCES = 0, 3, 7, (2, 8)
_ENCODINGS = {_PLAIN, _RUNS, 4, *_REFERENCES}  # 4: an older one than _RUNS, listed by writers that don't use it
_CODECS = {0: "UNCOMPRESSED", 1: "SNAPPY", 2: "GZIP", 3: "LZO", 4: "BROTLI", 5: "LZ4", 6: "ZSTD", 7: "LZ4_RAW"}
_STREAMED = {"UNCOMPRESSED": None, "SNAPPY": None, "ZSTD": "zstd", "GZIP": "gzip", "BROTLI": "brotli"}
"""Codec that is read as a stream -> pyarrow's name, if pyarrow does it."""

_BOOL, _I32, _I64, _TEXT, _LIST, _STRUCT = (1, 2), 5, 6, 8, 9, 12
"""Kinds of values. A boolean's kind says whether it is true (1)."""
Record = dict[tuple[int, int], Any]
"""(Field, kind of value) -> value. pyarrow passes over a known field that has a value of another kind."""
CHUNKS, CHUNK, PATH = (1, _LIST), (3, _STRUCT), (3, _LIST)
"""Of a row group: its columns. Of a column: its `ColumnMetaData`, and in it the column's path."""
GROUPS = (4, _LIST)
"""Of the footer: its row groups."""
_LISTS = {
    **dict.fromkeys([(2,), (4,), (5,), (7,), (4, 1), (4, 4), (4, 1, 3, 8), (4, 1, 3, 13)], _STRUCT),
    **dict.fromkeys([(4, 1, 3, 2), (4, 1, 3, 17, 2)], _I32),
    **dict.fromkeys([(4, 1, 3, 16, 2), (4, 1, 3, 16, 3)], _I64),
    **dict.fromkeys([(4, 1, 3, 3), (4, 1, 8, 2, 1)], _TEXT),
}
"""The footer's lists, by the fields on the way to them -> the kind of their values. pyarrow reads values of this kind,
whatever the list says."""


class PageError(ValueError):
    """A footer or a page is damaged, or of a kind that isn't read."""


def footer(file: BinaryIO) -> Record:
    """Return the record `FileMetaData` at the end of a shard.

    pyarrow takes gigabytes for some footers, and ends the process for others. Raises PageError for the former.
    """
    end = file.seek(0, io.SEEK_END)
    file.seek(max(0, end - 8))
    size = int.from_bytes(file.read(4), "little")
    most = min(end, MOST_FOOTER)
    if size > most:
        raise PageError(f"its footer has {size:,} bytes; expected at most {most:,}; write it in larger row groups")
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

    @property
    def encoding(self) -> int | None:
        """How the values of a data page are encoded."""
        return self.about.get(4 if self.kind == _DATA_2 else 2)


class Column:
    """A column of one row group, such as the images: `image.bytes`."""

    def __init__(self, file: BinaryIO, about: Record, depth: int) -> None:
        """`file` is the shard, `about` is its record `ColumnMetaData`, and `depth` is the level of a value."""
        codec, self._values, size, first = (about.get(key) for key in ((4, _I32), (5, _I64), (7, _I64), (9, _I64)))
        dictionary = about.get((11, _I64), 0)
        if not _are_sizes(codec, self._values, size, first):
            raise PageError("the footer is damaged")
        self._file, self._depth = file, depth
        self.codec = _CODECS.get(codec, f"codec {codec}")
        self.is_streamed = self.codec in _STREAMED and {*about.get((2, _LIST), ())} <= _ENCODINGS
        """Whether `images` can read it."""
        self._begin = dictionary if 0 < dictionary < first else first  # as pyarrow does
        self._end = self._begin + size

    def sizes(self) -> tuple[float, int]:
        """Return the bytes that pyarrow takes for its pages, and the most bytes that it takes for a repeated value.

        The former are the compressed pages and three times the decompressed ones. A value is repeated if it is in a
        dictionary, or begins as the one before it: a few bytes in a page may stand for as many as a page has.
        """
        total, repeated = self._end - self._begin, 0
        for number, page in enumerate(self._pages()):
            if number > _MOST_PAGES:
                return math.inf, 0
            total += 3 * page.size
            if page.kind == _DICTIONARY or page.encoding == _PREFIXES:
                repeated = max(repeated, 4 * page.size)
        return total, repeated

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
        return (_numbers(levels, width) if width else repeat(0)), stream, page.encoding

    def opened(self, page: _Page, skip: int = 0, packed: bool = True) -> BinaryIO:
        """Open the content of a page, decompressed, from byte `skip` on. The column must be `is_streamed`."""
        section = io.BufferedReader(_Section(self._file, page.place + skip, page.packed - skip), _WINDOW)
        codec = self.codec if packed else "UNCOMPRESSED"
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
            page, size, packed = (header.get((field, _I32)) for field in (1, 2, 3))
            values = header.get((_ABOUT.get(page), _STRUCT), {})
            about = {field: value for (field, kind), value in values.items() if kind in (_I32, *_BOOL)}
            if not _are_sizes(page, size, packed, *map(about.get, _NEEDED.get(page, ()))):
                raise PageError("the header of a page is damaged")
            yield _Page(kind=page, place=place + length, packed=packed, size=size, about=about)
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
    """Read a number of up to 63 bits, 7 in each byte, the lowest first."""
    value = 0
    for shift in range(0, 70, 7):
        byte = _exactly(stream, 1)[0]
        value |= (byte & 127) << shift
        if byte < 128 and not value >> 63:
            return value
    raise PageError("a number of more than 63 bits")


def _header(file: BinaryIO, place: int) -> tuple[Record, int]:
    """Return a page's header and its length."""
    for size in _HEADERS:
        file.seek(place)
        stream = io.BytesIO(file.read(size))
        with suppress(PageError):
            return _Records(stream, _MOST_HEADER_VALUES).record(), stream.tell()
    raise PageError("the header of a page is damaged")


class _Records:
    """Reads records in Thrift's compact protocol (thrift-compact-protocol.md in github.com/apache/thrift).

    What pyarrow would read in another way is refused.
    """

    def __init__(self, stream: BinaryIO, values: int) -> None:
        """`values` is the most values that are read."""
        self._stream, self._left = stream, values

    def record(self, way: tuple[int, ...] = ()) -> Record:
        """Return the next record. `way` are the fields that lead to it."""
        self._count(_WEIGHT - 1)
        values, field = {}, 0
        while head := _exactly(self._stream, 1)[0]:
            step, kind = divmod(head, 16)
            field = field + step if step else self._number(16)
            if (field, kind) in values or field >= 1 << 15:  # pyarrow may use parts of both, or another field
                raise PageError("a field occurs twice, or has no possible number")
            self._count(1)
            values[field, kind] = kind == 1 if kind in _BOOL else self._value(kind, (*way, field))
        return values

    def _count(self, values: int) -> None:
        self._left -= values
        if self._left < 0:
            raise PageError("its footer has too many values; write it in larger row groups")

    def _value(self, kind: int, way: tuple[int, ...]) -> Any:
        if len(way) > _DEEPEST:
            raise PageError("too many records in each other")
        match kind:
            case 3:
                return _exactly(self._stream, 1)[0]
            case 4 | 5 | 6:
                return self._number(1 << kind)  # 16, 32 or 64 bits
            case 7:
                return _exactly(self._stream, 8)
            case 8:
                return _exactly(self._stream, min(_varint(self._stream), MOST_FOOTER))
            case 9 | 10:
                count, kind = divmod(_exactly(self._stream, 1)[0], 16)
                return self._list(_varint(self._stream) if count == 15 else count, kind, way)
            case 12:
                return self.record(way)
        raise PageError(f"a footer or header has a value of kind {kind}")

    def _list(self, count: int, kind: int, way: tuple[int, ...]) -> list[Any]:
        if (kind in (9, 10) or kind != _LISTS.get(way, kind)) and count:
            raise PageError(f"a list of values of kind {kind}")
        self._count(count)
        if kind in _BOOL:
            return [*_exactly(self._stream, count)]
        return [self._value(kind, way) for _ in range(count)]

    def _number(self, bits: int) -> int:
        """Read a number with a sign. pyarrow would use only the last `bits` of a larger one."""
        value = _varint(self._stream)
        if value >> bits:
            raise PageError(f"a number of more than {bits} bits")
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
