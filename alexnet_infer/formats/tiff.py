"""TIFFs that Pillow opens but decodes to wrong pixels, recognised by their tags.

Pillow takes signed samples for unsigned ones, takes planes of 16 bits for planes of 8, and reads a camera's raw file as
its thumbnail. The rules here were found by decoding TIFFs of every kind with Pillow 11.0 and 13.0
(tests/formats/test_tiff.py). What Pillow does not open needs no rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO, NoReturn

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
        found = f"{tags.get(SAMPLES, 1)} x {bits} bits, PhotometricInterpretation {tags.get(PHOTOMETRIC)}"
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
