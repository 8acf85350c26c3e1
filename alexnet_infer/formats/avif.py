"""The size of the pictures in an AVIF, read from their AV1 streams.

The file's own header, which Pillow reports, may say less, and the decoder makes room for what the streams say. Boxes
are those of ISO/IEC 14496-12 and 23008-12, and streams are those of the AV1 specification, section 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from alexnet_infer.formats import RefusedError

MOST_PIXELS = 70_000_000
"""The most pixels of all pictures in a file: the largest photo, its transparency and thumbnails. Streams of 12 bits in
full colour take 7 bytes per pixel."""
MOST_PARTS = 100_000
"""The most boxes, items and units that are looked at."""
_PARENTS = {b"meta": 4, b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0}
"""A box of boxes -> the bytes before the first."""
_SEQUENCE = 1
"""The type of the unit that has the size."""


def check(stream: BinaryIO) -> None:
    """Refuse a file whose streams have too many pixels. What can't be read is left to the decoder."""
    stream.seek(0)
    if (count := _File(memoryview(stream.read())).pixels()) > MOST_PIXELS:
        raise RefusedError(f"an AVIF whose pictures have {count:,} pixels: expected at most {MOST_PIXELS:,}")


class _File:
    def __init__(self, data: memoryview) -> None:
        self._data, self._left = data, MOST_PARTS
        self._boxes = list(self._boxes_in(data))

    def pixels(self) -> int:
        """Return the pixels of all items or, if they are more, of the first frames of all tracks."""
        items, tracks = (
            sum(max(self._sizes(picture), default=0) for picture in pictures)
            for pictures in (self._items(), self._tracks())
        )
        return max(items, tracks)

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise RefusedError(f"an AVIF of more than {MOST_PARTS:,} parts; save it again")

    def _boxes_in(self, data: memoryview, depth: int = 0) -> Iterator[tuple[bytes, memoryview]]:
        """Yield (kind, content) of each box, and of those inside it."""
        place = 0
        while place + 8 <= len(data):
            self._count()
            size, kind, begin = int.from_bytes(data[place : place + 4]), bytes(data[place + 4 : place + 8]), 8
            if size == 1:
                size, begin = int.from_bytes(data[place + 8 : place + 16]), 16
            content = data[place + begin : place + size if size else None]
            yield kind, content
            if kind in _PARENTS and depth < 6:
                yield from self._boxes_in(content[_PARENTS[kind] :], depth + 1)
            if size < begin:  # 0: the box reaches to the end of the file
                return
            place += size

    def _named(self, *names: bytes) -> Iterator[memoryview]:
        return (content for name, content in self._boxes if name in names)

    def _items(self) -> Iterator[bytes]:
        """Yield the stream of each picture that is an item."""
        inside = next(self._named(b"idat"), memoryview(b""))
        kinds = {item: kind for content in self._named(b"iinf") for item, kind in self._kinds(content)}
        read = 0
        for content in self._named(b"iloc"):
            for item, method, extents in self._extents(content):
                if kinds.get(item) == b"av01":
                    whole = inside if method == 1 else self._data
                    parts = [whole[begin : begin + size if size else None] for begin, size in extents]
                    read += sum(map(len, parts))
                    if read > 2 * len(self._data):
                        raise RefusedError("damaged (pictures that share their bytes)")
                    yield b"".join(parts)

    def _tracks(self) -> Iterator[memoryview]:
        """Yield the first frame of each track."""
        for track in self._named(b"trak"):
            boxes = [*self._boxes_in(track)]
            sizes = [_number(box, 4) or _number(box, 12) for kind, box in boxes if kind == b"stsz"]  # of all, of each
            for kind, box in boxes:
                if kind in (b"stco", b"co64"):
                    begin = _number(box, 8, 4 if kind == b"stco" else 8)
                    yield self._data[begin : begin + max(sizes, default=len(self._data))]

    def _kinds(self, iinf: memoryview) -> Iterator[tuple[int, bytes]]:
        """Yield (item, its kind)."""
        for name, content in self._boxes_in(iinf[6 if iinf[:1] == b"\0" else 8 :]):
            if name == b"infe" and content:
                wide = 2 if content[0] == 2 else 4
                yield int.from_bytes(content[4 : 4 + wide]), bytes(content[6 + wide : 10 + wide])

    def _extents(self, iloc: memoryview) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
        """Yield (item, how it is stored, its parts: (offset, size))."""
        bits = _Bits(iloc)
        version = bits.read(8)
        bits.read(24)
        offset, length, base, index = (8 * bits.read(4) for _ in range(4))
        wide = 32 if version == 2 else 16
        for _ in range(bits.read(wide)):
            item = bits.read(wide)
            method = bits.read(16) & 15 if version else 0
            bits.read(16)
            start, parts = bits.read(base), []
            for _ in range(bits.read(16)):
                self._count()
                bits.read(index if version else 0)
                parts.append((start + bits.read(offset), bits.read(length)))
            if bits.ended:
                return
            yield item, method, parts

    def _sizes(self, stream: bytes | memoryview) -> Iterator[int]:
        """Yield the pixels of each sequence in a stream of units (5.3)."""
        place = 0
        while place < len(stream):
            self._count()
            head = stream[place]
            place += 2 if head & 4 else 1
            size = len(stream) - place
            if head & 2:
                size = 0
                for shift in range(0, 56, 7):
                    byte = stream[place] if place < len(stream) else 0
                    place += 1
                    size |= (byte & 127) << shift
                    if byte < 128:
                        break
            if head >> 3 & 15 == _SEQUENCE:
                yield _sequence(_Bits(memoryview(stream)[place : place + min(size, 1000)]))
            place += size


def _number(box: memoryview, place: int, wide: int = 4) -> int:
    return int.from_bytes(box[place : place + wide])


def _sequence(bits: _Bits) -> int:
    """Return the pixels that a sequence's header says (5.5.1)."""
    bits.read(4)
    if bits.read(1):
        bits.read(5)
    else:
        delay = _timing(bits) if bits.read(1) else 0
        display = bits.read(1)
        for _ in range(bits.read(5) + 1):
            bits.read(12)
            if bits.read(5) > 7:
                bits.read(1)
            if delay and bits.read(1):
                bits.read(2 * delay + 1)
            if display and bits.read(1):
                bits.read(4)
    across, down = bits.read(4) + 1, bits.read(4) + 1
    return (bits.read(across) + 1) * (bits.read(down) + 1)


def _timing(bits: _Bits) -> int:
    """Skip the timing information (5.5.3). Returns the number of bits of a delay, or 0 if there are none."""
    bits.read(64)
    if bits.read(1):  # a number whose length is told by zeros before it
        zeros = 0
        while zeros < 32 and not bits.ended and not bits.read(1):
            zeros += 1
        bits.read(zeros if zeros < 32 else 0)
    if not bits.read(1):
        return 0
    delay = bits.read(5) + 1
    bits.read(32 + 5 + 5)
    return delay


class _Bits:
    """Numbers of any number of bits, the highest first. Behind the end there are zeros."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._place = data, 0

    @property
    def ended(self) -> bool:
        """Whether more bits were read than there are."""
        return self._place > 8 * len(self._data)

    def read(self, count: int) -> int:
        begin, end = self._place // 8, -(-(self._place + count) // 8)
        self._place += count
        part = bytes(self._data[begin:end]).ljust(end - begin, b"\0")
        return int.from_bytes(part) >> (8 * end - self._place) & ((1 << count) - 1)
