"""JPEG 2000 files that Pillow opens but decodes to wrong pixels, recognised by their headers.

Pillow scales samples wrong unless they have 8 bits: white becomes grey below, and black above. It takes three channels
for RGB and a fourth for alpha, whatever the file says. Sections are those of ISO/IEC 15444-1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from alexnet_infer.errors import printable
from alexnet_infer.formats import RefusedError

CMYK, SRGB, GREY, SYCC = 12, 16, 17, 18
"""Colour spaces that Pillow converts. The numbers are a file's (I.5.3.3, and part 2 for CMYK)."""
ICC_SPACES = {b"RGB ": SRGB, b"GRAY": GREY}
OPACITY = 1
"""The type of a channel (I.5.3.6) that Pillow's alpha is."""


@dataclass(frozen=True, kw_only=True)
class Codestream:
    """What a codestream says about its picture (A.5.1: marker SIZ)."""

    width: int
    height: int
    bits: tuple[int, ...]
    """Bits per sample of each channel."""
    subsampled: bool
    """Whether a channel has fewer samples than the picture has pixels."""


def codestream(stream: BinaryIO) -> Codestream:
    """Read the header of the codestream in a file, which a decoder makes room for.

    The file's own header, which Pillow reports, may say otherwise. Raises ValueError, OverflowError or struct.error if
    there is no codestream.
    """
    start = 0 if _is_plain(stream) else next(_boxes(stream, b"jp2c"), None)
    if start is None:
        raise ValueError("no codestream")
    stream.seek(start + 8)  # behind two markers, SIZ's length and the capabilities
    right, bottom, left, top, *_, count = struct.unpack(">8IH", stream.read(34))
    channels = list(struct.iter_unpack("3B", stream.read(3 * count)))
    return Codestream(
        width=right - left,
        height=bottom - top,
        bits=tuple((depth & 0x7F) + 1 for depth, _, _ in channels),
        subsampled=any((across, down) != (1, 1) for _, across, down in channels),
    )


def check(stream: BinaryIO) -> None:
    """Refuse a file that Pillow would decode to wrong pixels. Raises RefusedError, and the errors of `codestream`."""
    if kind := _misread(stream):
        raise RefusedError(f"a JPEG 2000 {kind}, which isn't read; convert it to PNG with 8 bits per channel")


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
