"""TIFFs that Pillow opens but decodes to wrong pixels, recognised by their tags.

Pillow takes signed samples for unsigned ones, takes planes of 16 bits for planes of 8, and reads a camera's raw file as
its thumbnail. The rules here were found by decoding TIFFs of every kind with Pillow 11.0 and 13.0
(tests/formats/test_tiff.py). What Pillow does not open needs no rule.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO, NoReturn

from alexnet_infer.errors import shown
from alexnet_infer.formats import RefusedError

HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first bytes of a TIFF and of a BigTIFF, in either byte order."""

SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 254, 255, 256, 257, 258, 259, 262, 266
SAMPLES, PLANAR, PREDICTOR, COLOUR_MAP, SUB_DIRECTORIES, INK_SET, SAMPLE_FORMAT = 277, 284, 317, 320, 330, 332, 339
DNG_VERSION = 50706

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
UNCOMPRESSED, FAX = 1, (2, 3, 4)
"""Values of COMPRESSION. Fax files may lack PHOTOMETRIC; in them, zero is white."""
PLANES = 2
"""The value of PLANAR for channels that are stored one after the other."""
SAMPLE_FORMATS = {2: "signed", 3: "floating-point"}

MOST_DIRECTORIES = 8
"""The number of sub-directories that are looked at."""

MOST_ENTRIES = 2**16
"""The most tags in a directory: those that 16 bits can number. A BigTIFF may claim more."""

MOST_VALUES = 2**17
"""The most numbers in a tag, such as the offsets of strips. 33 million pixels in tiles of 16 x 16 have 128,907."""

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Type of a tag's values -> bytes of a value."""
BYTES = {1, 2, 7}
"""The types that Pillow keeps as they are stored. Of the others it makes Python numbers."""

Tags = Mapping[int, Any]
"""Pillow's `tag_v2`: tag -> a value, or a tuple of values."""


def check(tags: Tags, stream: BinaryIO | None) -> None:
    """Refuse a TIFF that Pillow would decode to wrong pixels.

    `tags` are those of the first image. `stream` is the file, if it is still open. Raises RefusedError.
    """
    if text := _thumbnail(tags, stream):
        raise RefusedError(f"{text}; convert it to JPEG first")
    if PHOTOMETRIC not in tags and tags.get(COMPRESSION) not in FAX:
        raise RefusedError("damaged, incomplete or unsupported (a TIFF without PhotometricInterpretation)")
    if kind := _misread(tags):
        raise RefusedError(f"a TIFF with {kind}, which isn't read; save it as PNG with 8 or 16 bits per channel")


def check_directory(stream: BinaryIO, offset: int | None = None) -> bool:
    """Return whether a directory is complete, up to its last tag. None is the first of a TIFF or of an EXIF block.

    Raises RefusedError if Pillow would need too much time or memory for it. Values that are not in the file don't
    count: Pillow ignores their tags.
    """
    head = _read(stream, 0, 16)
    if len(head) < 8 or head[:4] not in HEADS:
        return False
    order, big = "<" if head[:2] == b"II" else ">", 43 in head[2:4]
    if offset is None:
        (offset,) = struct.unpack_from(f"{order}{'8xQ' if big else '4xI'}", head.ljust(16, b"\0"))
    length = stream.seek(0, os.SEEK_END)
    if offset > length:
        return False
    counter, entry = struct.Struct(order + ("Q" if big else "H")), struct.Struct(order + ("HHQQ" if big else "HHII"))
    (count,) = counter.unpack(_read(stream, offset, counter.size).ljust(counter.size, b"\0"))
    if count > MOST_ENTRIES:
        raise RefusedError(f"damaged (a directory of {count:,} tags: expected at most {MOST_ENTRIES:,})")
    entries = stream.read(count * entry.size)
    total = 0
    for _, kind, values, place in entry.iter_unpack(entries[: len(entries) // entry.size * entry.size]):
        size = values * SIZES.get(kind, 0)
        if size <= 8 or place + size > length:
            continue
        if kind not in BYTES and values > MOST_VALUES:
            raise RefusedError(f"damaged (a tag of {values:,} numbers: expected at most {MOST_VALUES:,})")
        total += size
    if total > 4 * length:
        raise RefusedError("damaged (tags that share their values, and so take more memory than the file)")
    return 0 < len(entries) == count * entry.size


def refuse_unopened(stream: BinaryIO) -> NoReturn:
    """Raise RefusedError with the kind of a TIFF that Pillow does not open."""
    try:
        if _read(stream, 0, 4) == b"MM\0+":
            raise RefusedError("a big-endian BigTIFF, which isn't read; save it as a classic TIFF or as PNG")
        tags = _directory(stream, None)
        if WIDTH not in tags:
            raise RefusedError("a TIFF that is damaged at its start")
        check(tags, stream)
        bits = max(_all(tags.get(BITS, 1)))
        kind = shown(tags.get(PHOTOMETRIC))
        found = f"{shown(tags.get(SAMPLES, 1))} x {bits} bits, PhotometricInterpretation {kind}"
    except RefusedError:
        raise
    except Exception:  # of any type, as in `decode.read_rgb`
        raise RefusedError("a TIFF that is damaged at its start") from None
    raise RefusedError(f"a TIFF of a kind that isn't read ({found}); save it as PNG with 8 bits per channel")


def grey_bits(tags: Tags) -> tuple[int, bool]:
    """Return the number of bits of a grey image's samples, and whether zero is white."""
    return _all(tags.get(BITS, 1))[0], tags.get(PHOTOMETRIC) == WHITE_IS_ZERO


def _thumbnail(tags: Tags, stream: BinaryIO | None) -> str | None:
    """Name what a TIFF is whose first image is not the picture."""
    if DNG_VERSION in tags:
        return "a camera's raw file (DNG), which isn't read"
    if stream is not None and _read(stream, 8, 2) == b"CR":
        return "a camera's raw file (CR2), which isn't read"
    subfile = tags.get(SUBFILE, 0)
    if subfile & 1 or tags.get(OLD_SUBFILE) == 2:
        return "a TIFF whose first image is a thumbnail, as in a camera's raw file"
    if subfile & 4:
        return "a TIFF whose first image is a transparency mask"
    area = tags.get(WIDTH, 0) * tags.get(HEIGHT, 0)
    offsets = _all(tags.get(SUB_DIRECTORIES, ())) if stream is not None else ()
    for directory in (_directory(stream, offset) for offset in offsets[:MOST_DIRECTORIES]):
        if directory.get(WIDTH, 0) * directory.get(HEIGHT, 0) > area:
            return f"a TIFF whose first image is a thumbnail ({tags.get(WIDTH)} x {tags.get(HEIGHT)} pixels)"
    return None


def _misread(tags: Tags) -> str | None:
    """Name the property of a TIFF that makes Pillow decode it to wrong pixels."""
    bits, photometric = set(_all(tags.get(BITS, 1))), tags.get(PHOTOMETRIC)
    raw = tags.get(COMPRESSION, UNCOMPRESSED) == UNCOMPRESSED
    if other := set(_all(tags.get(SAMPLE_FORMAT, 1))) & SAMPLE_FORMATS.keys():
        return f"{SAMPLE_FORMATS[other.pop()]} samples (they have no fixed range)"
    if max(bits) > 16:
        return f"{max(bits)}-bit samples (they have no fixed range)"
    if photometric == CMYK and tags.get(INK_SET, 1) != 1:
        return "inks other than CMYK"
    if photometric == PALETTE and 0 < max(_all(tags.get(COLOUR_MAP, 0))) < 256:
        return "a palette of 8 instead of 16 bits"
    if tags.get(PLANAR, 1) == PLANES and not _planes_are_read(tags, bits, photometric, raw):
        return f"separate planes of {max(bits)}-bit samples (PlanarConfiguration 2)"
    if photometric == YCBCR and raw:
        return "uncompressed YCbCr"
    if tags.get(PREDICTOR, 1) != 1 and raw:  # ignored by libtiff, applied by others
        return "a predictor but no compression"
    return None


def _planes_are_read(tags: Tags, bits: set[int], photometric: int, raw: bool) -> bool:
    """Whether Pillow decodes planes. It takes the kind of an uncompressed plane from one letter of the image's kind."""
    if raw:
        return bits == {8} and tags.get(FILL_ORDER, 1) == 1 and photometric in (BLACK_IS_ZERO, RGB, PALETTE, CMYK)
    return photometric in (RGB, CMYK, YCBCR) or tags.get(SAMPLES, 1) == 1


def _directory(stream: BinaryIO, offset: int | None) -> Tags:
    """Return the tags of the directory at an offset of a TIFF. None for the first."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    check_directory(stream, offset)
    head = _read(stream, 0, 16)
    tags = ImageFileDirectory_v2(head if head[2] == 43 else head[:8])  # 43: little-endian BigTIFF, with 8-byte offsets
    stream.seek(tags.next if offset is None else offset)
    tags.load(stream)
    return tags


def _read(stream: BinaryIO, offset: int, count: int) -> bytes:
    stream.seek(offset)
    return stream.read(count)


def _all(value: Any) -> tuple:
    return value if isinstance(value, tuple) else (value,)
