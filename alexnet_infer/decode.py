"""From an encoded image, which anyone may have made, to 8-bit RGB.

Every defect becomes an UnreadableInputError of one line, and nothing is printed.
"""

from __future__ import annotations

import functools
import io
import logging
import os
import stat
import threading
import warnings
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from alexnet_infer.errors import UnreadableInputError, one_line
from alexnet_infer.preprocess import Rescaling, square_of

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
"""Pillow's decoders that an input may reach. MPO (several JPEGs, the first counts) comes with JPEG. The others stay
out: EPS would run Ghostscript on the file, and rare formats are the least tested against hostile bytes."""

MAX_PIXELS = 33_000_000
"""Reading takes at most 8 bytes a pixel, 264 MB: the decoded image, and beside it its RGB or turned copy. Python, NumPy
and Pillow add 31, so reading a photo stays under 300. Exceptions: Pillow's WebP decoder alone takes 16 bytes a pixel,
and libjpeg 7 to 12 for a progressive JPEG, which keeps all its coefficients."""

MAX_BYTES = 8 * MAX_PIXELS
"""The largest file: MAX_PIXELS of uncompressed 16-bit RGBA. What is larger isn't a photo, or never ends."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Without a handler for Pillow's log records, Python would print them to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def read_square(
    source: Path | bytes | BinaryIO | Image.Image, *, name: str, rescaling: Rescaling, apply_exif: bool = True
) -> np.ndarray:
    """Decodes an image and rescales it to the square that patches are cut from: uint8 [S, S, 3] RGB.

    Arguments and errors are those of `read_rgb` and `square_of`.
    """
    return square_of(read_rgb(source, name=name, shrink_to=rescaling.size, apply_exif=apply_exif), rescaling)


def read_rgb(
    source: Path | bytes | BinaryIO | Image.Image,
    *,
    name: str,
    shrink_to: int | None = None,
    apply_exif: bool = True,
) -> Image.Image:
    """Decodes an image (the first frame of several) to 8-bit RGB.

    Transparency is laid over white, 16-bit channels keep their upper 8 bits, colour profiles are not applied.
    `apply_exif` turns the image as its EXIF orientation says; a damaged EXIF block is passed over. With `shrink_to`,
    the S to which the shorter side will be rescaled, a JPEG of more than MAX_PIXELS may come out at 1/2, 1/4 or 1/8 of
    its size (but at least 2 S) instead of being refused; no other image is touched by it.

    Raises UnreadableInputError, which begins with `name`, for whatever is wrong.
    """
    try:
        with _quiet:
            if isinstance(source, Image.Image):
                source.load()
                return _to_rgb(source, apply_exif)
            return _to_rgb(_load(source, shrink_to), apply_exif)
    except Exception as error:  # on hostile bytes Pillow raises nearly every exception there is
        raise UnreadableInputError(f"{printable(name)}: {_reason(error)}") from error


def printable(text: str) -> str:
    """`text` on one line and harmless to a terminal: whatever isn't a visible character or a space is escaped.

    This covers line breaks, terminal escape sequences, right-to-left overrides and bytes that aren't UTF-8.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _RefusedError(Exception):
    """Says in the user's words why an image is not read."""


def _reason(error: Exception) -> str:
    match error:
        case _RefusedError():
            return str(error)
        case Image.DecompressionBombError():
            return f"too many pixels: expected at most {MAX_PIXELS:,}; shrink it first"
        case UnidentifiedImageError():
            return "not an image, or damaged at its start; expected JPEG, PNG, GIF, WebP, BMP, TIFF or PPM"
        case MemoryError():
            return "not enough memory to decode it; shrink it first"
        case OSError(strerror=str(text)):
            return f"can't be read ({text})"
    return f"damaged, incomplete or unsupported ({one_line(error) or type(error).__name__})"


def _load(source: Path | bytes | BinaryIO, shrink_to: int | None) -> Image.Image:
    with ExitStack() as stack:
        stream = stack.enter_context(_opened(source)) if isinstance(source, Path) else _buffered(source)
        image = stack.enter_context(Image.open(stream, formats=FORMATS))
        if image.format == "TIFF":
            _silence_libtiff()
        _keep_small(image, shrink_to)
        image.load()
        return image


def _opened(path: Path) -> BinaryIO:
    status = path.stat()  # before opening, which would wait for ever on a FIFO
    if stat.S_ISDIR(status.st_mode):
        raise _RefusedError("a directory, not an image")
    if not stat.S_ISREG(status.st_mode):
        raise _RefusedError("a pipe or device, not a file; to read an image from a pipe, name -")
    _check_bytes(status.st_size)
    return path.open("rb")


def _buffered(source: bytes | BinaryIO) -> BinaryIO:
    data = source if isinstance(source, bytes) else source.read(MAX_BYTES + 1)
    _check_bytes(len(data))
    return io.BytesIO(data)


def _check_bytes(count: int) -> None:
    if count == 0:
        raise _RefusedError("empty (0 bytes)")
    if count > MAX_BYTES:
        raise _RefusedError(f"too large: expected at most {MAX_BYTES:,} bytes; shrink it first")


def _keep_small(image: Image.Image, shrink_to: int | None) -> None:
    """Refuses, or sets to be decoded at a smaller scale, an image of more than MAX_PIXELS. Nothing is decoded yet."""
    width, height = image.size
    if image.format == "TIFF":  # its decoder unpacks whole tiles, however little of them the image needs
        width = max(width, image.tag_v2.get(ExifTags.Base.TileWidth, 0))
        height = max(height, image.tag_v2.get(ExifTags.Base.TileLength, 0))
    if width * height <= MAX_PIXELS:
        return
    scale = next((s for s in (2, 4, 8) if width * height <= MAX_PIXELS * s * s), None)
    # The rescaling to S still shrinks by 2 or more after this, which hides how the decoder's filter differs from ours.
    if scale and shrink_to and min(width, height) // scale >= 2 * shrink_to and _has_one_scan(image):
        image.draft(None, (width // scale, height // scale))
    else:
        raise _RefusedError(f"{width} x {height} pixels: expected at most {MAX_PIXELS:,}; shrink it first")


def _has_one_scan(image: Image.Image) -> bool:
    """Whether this is a JPEG that libjpeg decodes as it comes.

    Of one in several scans libjpeg keeps the whole image's coefficients at full scale. It is one when the first scan
    doesn't hold all components (ISO/IEC 10918-1, B.2.3: marker, length, number of components, two bytes for each, ...).
    """
    if image.format not in ("JPEG", "MPO") or "progressive" in image.info:
        return False
    image.fp.seek(2)
    while len(head := image.fp.read(5)) == 5 and head[0] == 0xFF and head[1] != 0xDA:
        image.fp.seek(int.from_bytes(head[2:4]) - 3, os.SEEK_CUR)
    components = len(image.getbands())
    return head == bytes([0xFF, 0xDA, 0, 6 + 2 * components, components])


def _to_rgb(image: Image.Image, apply_exif: bool) -> Image.Image:
    # Giving `image` another value frees the form before: there are never more than two in memory.
    if image.mode == "I" and image.format == "PPM":  # a PGM of more than 8 bits, which Pillow scales to 16
        image = image.convert("I;16")
    if apply_exif:
        image = _turned(image)
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255 in some versions
        image = _upper_bits(image)
    if image.mode in ("I", "F"):
        raise _RefusedError("its 32-bit pixels have no fixed range; save it with 8 or 16 bits a channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _turned(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # as many kinds as in `read_rgb`, but here the pixels may be sound
        return image
    return image if turn is None else image.transpose(turn)


def _upper_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey, its transparent value (PNG has one at most) as white."""
    wide = np.asarray(image)
    grey = (wide >> 8).astype(np.uint8)
    if (key := image.info.get("transparency")) is not None:
        grey[wide == key] = 255
    return Image.fromarray(grey)


class _QuietPillow:
    """While any thread is inside, Pillow's warnings (odd metadata, large images) are not shown and never become errors.

    `warnings.catch_warnings` alone would not do: it saves and restores one list for the whole process, and threads that
    leave in another order than they entered would leave the wrong one behind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)


_quiet = _QuietPillow()


@functools.cache
def _silence_libtiff() -> None:
    """libtiff prints to stderr what Pillow then raises; asks it not to, where its library can be reached."""
    with suppress(ImportError, OSError, AttributeError):
        import ctypes

        set_handler = ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler
        set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        set_handler(None)
