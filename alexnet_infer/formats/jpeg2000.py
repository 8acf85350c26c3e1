"""JPEG 2000 files that Pillow decodes to wrong pixels, or in gigabytes of memory, recognised by their headers.

Pillow scales samples wrong unless they have 8 bits: white becomes grey below, and black above. It takes three channels
for RGB and a fourth for alpha, whatever the file says. OpenJPEG makes room for all tiles of a picture, and for all
blocks of a tile, whether or not the file has their data. Sections are those of ISO/IEC 15444-1.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from alexnet_infer.errors import printable
from alexnet_infer.formats import RefusedError

CMYK, SRGB, GREY, SYCC = 12, 16, 17, 18
"""Colour spaces that Pillow converts. The numbers are a file's (I.5.3.3, and part 2 for CMYK)."""
ICC_SPACES = {b"RGB ": SRGB, b"GRAY": GREY}
_SOT, _SOD, _COD, _COC = 0x90, 0x93, 0x52, 0x53
"""Second bytes of markers: start of a tile's part and of its data, coding style and that of a channel (A.2)."""
OPACITY = 1
"""The type of a channel (I.5.3.6) that Pillow's alpha is."""


MOST_BYTES = 40_000_000
"""The largest file that is read, in about 5 s."""
MOST_TILES = 8_192
"""Of a picture: 13 KB of memory each. 33 million pixels have 8,057 tiles of 64 x 64."""
MOST_MEMORY, _SAMPLE, _BLOCK = 500_000_000, 8, 500
"""The most bytes that a tile may take: 8 per sample, and 500 per code block or precinct."""
MOST_PACKETS = 2**22
"""Of a tile, layers included."""


@dataclass(frozen=True, kw_only=True)
class Codestream:
    """What a codestream says about its picture (A.5.1: marker SIZ)."""

    width: int
    height: int
    tile: tuple[int, int]
    """Width and height of a tile, at most those of the picture."""
    bits: tuple[int, ...]
    """Bits per sample of each channel."""
    subsampled: bool
    """Whether a channel has fewer samples than the picture has pixels."""


def codestream(stream: BinaryIO) -> Codestream:
    """Read the header of the codestream in a file, which a decoder makes room for.

    The file's own header, which Pillow reports, may say otherwise. Raises ValueError, OverflowError or struct.error if
    there is no codestream.
    """
    stream.seek(_start(stream) + 8)  # behind two markers, SIZ's length and the capabilities
    right, bottom, left, top, across, down, *_, count = struct.unpack(">8IH", stream.read(34))
    channels = list(struct.iter_unpack("3B", stream.read(3 * count)))
    width, height = right - left, bottom - top
    return Codestream(
        width=width,
        height=height,
        tile=(min(across, width), min(down, height)),
        bits=tuple((depth & 0x7F) + 1 for depth, _, _ in channels),
        subsampled=any((across, down) != (1, 1) for _, across, down in channels),
    )


def check(stream: BinaryIO, halvings: int = 0) -> None:
    """Refuse a file that Pillow would decode to wrong pixels, or in too much time or memory.

    It is decoded at 1 / 2**`halvings` of its size. Raises RefusedError, and the errors of `codestream`.
    """
    if kind := _misread(stream):
        raise RefusedError(f"a JPEG 2000 {kind}, which isn't read; convert it to PNG with 8 bits per channel")
    if cost := costly(stream, halvings):
        raise RefusedError(f"a JPEG 2000 {cost}; convert it to PNG first")


def costly(stream: BinaryIO, halvings: int = 0) -> str | None:
    """Say what makes OpenJPEG take too much time or memory. Raises the errors of `codestream`."""
    if stream.seek(0, os.SEEK_END) > MOST_BYTES:
        return f"of more than {MOST_BYTES:,} bytes"
    picture = codestream(stream)
    width, height = picture.tile
    tiles = -(-picture.width // max(1, width)) * -(-picture.height // max(1, height))
    if tiles > MOST_TILES:
        return f"in {tiles:,} tiles (expected at most {MOST_TILES:,})"
    channels = len(picture.bits)
    samples = _parts(width, halvings) * _parts(height, halvings) * channels
    if samples * _SAMPLE > MOST_MEMORY:
        most = MOST_MEMORY // _SAMPLE // channels
        return f"in tiles of {width} x {height} pixels (expected at most {most:,})"
    most = (MOST_MEMORY - samples * _SAMPLE) // _BLOCK
    for coding in _codings(stream, channels):
        if len(coding.precincts) <= halvings:
            return "in a single resolution"
        if (blocks := coding.blocks(width, height) * channels) > most:
            return f"in {blocks:,} blocks per tile of {width} x {height} pixels (expected at most {most:,})"
        if (packets := coding.packets(width, height) * channels) > MOST_PACKETS:
            return f"in {packets:,} packets per tile (expected at most {MOST_PACKETS:,})"
    return None


@dataclass(frozen=True, kw_only=True)
class _Coding:
    """How the samples of a channel are divided (A.6.1, A.6.2)."""

    layers: int
    block: tuple[int, int]
    """Width and height of a code block, as exponents of 2."""
    precincts: tuple[tuple[int, int], ...]
    """The same of a precinct, for each resolution from the lowest to the highest."""

    def blocks(self, width: int, height: int) -> int:
        """Return the number of code blocks and precincts in a tile (B.6, B.7)."""
        count = 0
        for level, (across, down) in enumerate(self.precincts):
            halvings, bands, inner = len(self.precincts) - 1 - level, 3 if level else 1, int(level > 0)
            size = _parts(width, halvings), _parts(height, halvings)
            count += _parts(size[0], across) * _parts(size[1], down)
            columns = _parts(size[0], inner + min(self.block[0], max(0, across - inner)))
            count += bands * columns * _parts(size[1], inner + min(self.block[1], max(0, down - inner)))
        return count

    def packets(self, width: int, height: int) -> int:
        """Return the most packets that OpenJPEG looks for in a tile: it goes through all positions (B.12.1)."""
        highest = len(self.precincts) - 1
        across, down = (
            min(precinct[axis] + highest - level for level, precinct in enumerate(self.precincts)) for axis in (0, 1)
        )
        return self.layers * len(self.precincts) * _parts(width, across) * _parts(height, down)


def _parts(length: int, exponent: int) -> int:
    """Return the number of parts of 2 ** `exponent` in a length, rounded up."""
    return -(-length >> exponent)


def _codings(stream: BinaryIO, channels: int) -> Iterator[_Coding]:
    """Yield the coding styles in the headers of a codestream and of its tiles."""
    place = _start(stream) + 2
    layers, tile, end = 1, 0, None
    while True:
        stream.seek(place)
        head = stream.read(4)
        if len(head) < 4 or head[0] != 0xFF:
            return
        code, length = head[1], int.from_bytes(head[2:])
        content = stream.read(length - 2 if code != _SOD else 0)
        if code == _SOT:  # the tile's number, and its length from here
            tile, end = place, int.from_bytes(content[2:6])
        elif code == _SOD:
            if not end:
                return
            place, end = tile + max(end, 12), None
            continue
        elif code == _COD:
            layers = int.from_bytes(content[2:4])
            yield _coding(layers, content[0], content[5:])
        elif code == _COC:
            wide = 1 if channels < 257 else 2
            yield _coding(layers, content[wide], content[wide + 1 :])
        place += 2 + max(length, 2)


def _coding(layers: int, style: int, values: bytes) -> _Coding:
    levels, across, down = values[0], values[1] + 2, values[2] + 2
    sizes = values[5 : 6 + levels] if style & 1 else bytes([0xFF]) * (levels + 1)
    return _Coding(layers=layers, block=(across, down), precincts=tuple((size & 15, size >> 4) for size in sizes))


def _misread(stream: BinaryIO) -> str | None:
    """Say what makes Pillow decode a file to wrong pixels."""
    picture = codestream(stream)
    count = len(picture.bits)
    if set(picture.bits) != {8} and not (count == 1 and 8 < picture.bits[0] <= 16):
        return f"of {count} x {max(picture.bits, default=0)} bits"
    if picture.subsampled:
        return "with subsampled channels"
    space = None if _is_plain(stream) else _colour_space(stream)
    if space not in (None, SRGB, GREY, SYCC) and (space, count) != (CMYK, 4):
        return f"of the colour space {space}"
    if space != CMYK and count in (2, 4) and (_is_plain(stream) or _channels(stream).get(count - 1) != OPACITY):
        return f"of {count} channels, of which the last is not said to be transparency"
    return None


def _is_plain(stream: BinaryIO) -> bool:
    """Whether a file is a codestream without a header."""
    stream.seek(0)
    return stream.read(4) == b"\xff\x4f\xff\x51"


def _start(stream: BinaryIO) -> int:
    """Return the offset of the codestream. Raises ValueError if there is none."""
    start = 0 if _is_plain(stream) else next(_boxes(stream, b"jp2c"), None)
    if start is None:
        raise ValueError("no codestream")
    return start


def _colour_space(stream: BinaryIO) -> int | str | None:
    """Return the colour space that a file's header names: a number, or that of a colour profile."""
    for place in _boxes(stream, b"jp2h", b"colr"):
        stream.seek(place)
        method, _, _, number = struct.unpack(">3BI", stream.read(7))
        if method == 1:
            return number
        profile = stream.read(16)  # behind its size
        return ICC_SPACES.get(profile[12:], printable(profile[12:].decode("latin-1")))
    return None


def _channels(stream: BinaryIO) -> dict[int, int]:
    """Return channel -> type, of the channels that a file's header describes."""
    for place in _boxes(stream, b"jp2h", b"cdef"):
        stream.seek(place)
        (count,) = struct.unpack(">H", stream.read(2))
        return {channel: kind for channel, kind, _ in struct.iter_unpack(">3H", stream.read(6 * count))}
    return {}


def _boxes(stream: BinaryIO, *path: bytes, start: int = 0, end: int | None = None) -> Iterator[int]:
    """Yield the offset of the content of each box (I.4) of the kind path[-1], in boxes of the kinds before it."""
    place = start
    while end is None or place < end:
        stream.seek(place)
        header = stream.read(16)
        if len(header) < 8:
            return
        (length, kind), begin = struct.unpack_from(">I4s", header), 8
        if length == 1:
            (length,), begin = struct.unpack_from(">Q", header, 8), 16
        if kind == path[0]:
            inside = place + begin
            yield from _boxes(stream, *path[1:], start=inside, end=place + length) if path[1:] else [inside]
        if length < begin:  # 0: the box reaches to the end of the file
            return
        place += length
