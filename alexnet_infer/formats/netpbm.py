"""Pixels of the PPM files that Pillow decodes one number at a time: a minute for a large photo.

These are files in plain text (P1, P2, P3), and binary ones with another maximum than 255 (or 65,535, in grey).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

import numpy as np
from PIL import Image

from alexnet_infer.formats import RefusedError

MOST_NUMBERS = 20_000_000
"""The most numbers that are read from text: about 3 s."""

_BLOCK = 1 << 20
_LONGEST = 4_000
"""Characters of a number. Files may have zeros in front of it."""
_COMMENT = re.compile(rb"#[^\r\n]*")
_NUMBERS = re.compile(rb"[0-9\s]*")


def is_slow(image: Image.Image) -> bool:
    """Return whether an open image is of such a kind."""
    return image.format == "PPM" and bool(image.tile) and image.tile[0][0] in ("ppm", "ppm_plain")


def decode(image: Image.Image) -> Image.Image:
    """Return the pixels of an open image that `is_slow`, in the mode L or RGB. Values are rounded as by Pillow.

    Raises RefusedError if it is damaged, or if it is in text and too large.
    """
    decoder, _, offset, arguments = image.tile[0]
    width, height = image.size
    bands = 3 if image.mode == "RGB" else 1
    pixels, filled = np.empty(width * height * bands, np.uint8), 0
    image.fp.seek(offset)
    if image.mode == "1":
        blocks, levels = _bits(image.fp), np.array([255, 0], np.uint8)
    elif decoder == "ppm":
        size = 1 if arguments[1] < 256 else 2
        blocks, levels = _values(image.fp, size), _levels(arguments[1], 256**size, grey=bands == 1)
    elif len(pixels) > MOST_NUMBERS:
        raise RefusedError(f"a PPM of more than {MOST_NUMBERS:,} numbers in plain text; convert it to PNG first")
    else:
        blocks, levels = _numbers(image.fp), _levels(arguments[1], arguments[1] + 1, grey=bands == 1)
    for block in blocks:
        block = block[: len(pixels) - filled]
        if block.max(initial=0) >= len(levels):
            raise RefusedError(f"damaged (has the value {block.max()}, and the largest is {len(levels) - 1})")
        pixels[filled : filled + len(block)] = levels[block]
        filled += len(block)
        if filled == len(pixels):
            return Image.fromarray(pixels.reshape((height, width, bands) if bands > 1 else (height, width)))
    raise RefusedError("damaged or incomplete (not enough image data)")


def _levels(maximum: int, count: int, grey: bool) -> np.ndarray:
    """The 8 bits of the values 0 ... count - 1. Binary files may have values above the maximum."""
    values = np.arange(count) / maximum
    if grey and maximum > 255:
        return (np.rint(values * 65535).clip(max=65535).astype(np.uint16) >> 8).astype(np.uint8)
    return np.rint(values * 255).clip(max=255).astype(np.uint8)


def _values(stream: BinaryIO, size: int) -> Iterator[np.ndarray]:
    while block := stream.read(_BLOCK):
        yield np.frombuffer(block[: len(block) // size * size], f">u{size}")


def _numbers(stream: BinaryIO) -> Iterator[np.ndarray]:
    rest = b""
    for block in chain(_text(stream), (b" ",)):
        text = rest + block
        if not _NUMBERS.fullmatch(text):
            raise RefusedError("damaged (has text that is no whole number)")
        end = len(text.rstrip(b"0123456789"))
        numbers, rest = text[:end].split(), text[end:]
        if len(rest) > _LONGEST:
            raise RefusedError(f"damaged (has a number of more than {_LONGEST:,} digits)")
        yield np.fromiter(map(int, numbers), np.int64, len(numbers))


def _bits(stream: BinaryIO) -> Iterator[np.ndarray]:
    for block in _text(stream):
        yield np.frombuffer(b"".join(block.split()), np.uint8) - np.uint8(ord("0"))


def _text(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the text of a file in blocks, with a space for each comment."""
    comment = b""
    while block := stream.read(_BLOCK):
        block = comment + block
        line = max(block.rfind(b"\n"), block.rfind(b"\r")) + 1
        comment = b"#" if b"#" in block[line:] else b""
        yield _COMMENT.sub(b" ", block)
