"""Decode an image from an untrusted source to 8-bit RGB.

Every defect raises an UnreadableInputError with a one-line message. Nothing is printed. What Pillow would decode to
wrong pixels is refused (`alexnet_infer.samples`).
"""

from __future__ import annotations

import importlib.util
import io
import logging
import os
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
from PIL import ExifTags, Image, UnidentifiedImageError, features

from alexnet_infer.errors import SpecError, UnreadableInputError, one_line, printable, shown
from alexnet_infer.files import open_regular
from alexnet_infer.formats import FIXES, HEAD_BYTES, RefusedError, avif, format_of, jpeg, netpbm, tiff
from alexnet_infer.formats.jpeg2000 import codestream, costly
from alexnet_infer.formats.metered import Metered
from alexnet_infer.formats.quiet import quiet_pillow, silence_libtiff
from alexnet_infer.formats.samples import Samples, samples_of
from alexnet_infer.preprocess import Rescaling, square_of

_log = logging.getLogger("alexnet_infer")


def _pillow_has(plugin: str) -> bool:
    return importlib.util.find_spec(f"PIL.{plugin}ImagePlugin") is not None


NAMES = {"JPEG": "JPEG", "PNG": "PNG", "GIF": "GIF", "WEBP": "WebP", "BMP": "BMP", "TIFF": "TIFF", "PPM": "PPM"}
NAMES |= {"JPEG2000": "JPEG 2000"} if _pillow_has("Jpeg2K") else {}
NAMES |= {"AVIF": "AVIF"} if _pillow_has("Avif") else {}
"""Pillow's name of a format that is read -> the name that users know. Pillow has AVIF since 11.3."""

_FEATURES = {"JPEG 2000": "jpg_2000", "AVIF": "avif"}
"""A format that Pillow can be built without -> what Pillow calls its decoder."""

FORMATS = tuple(NAMES)
"""The Pillow decoders that an input may reach. JPEG includes MPO: several JPEGs, of which the first is used. Other
decoders are excluded: EPS would run Ghostscript on the file, and rare formats are the least tested against malicious
files."""

MAX_PIXELS = 33_000_000
"""The largest image that is decoded. Reading takes at most 8 bytes per pixel, 264 MB, for the decoded image and its RGB
or rotated copy. Python, NumPy and Pillow add 31 MB, so reading a photo file takes less than 300 MB. Some decoders take
more, in bytes per pixel: libjpeg 7 to 12 for a progressive JPEG, because it keeps all coefficients, AVIF's 9 to 14,
WebP's 16 (550 MB in all, 600 with a file of 60 MB), and JPEG 2000's 24 per pixel of a tile, for which see
`jpeg2000.MOST_MEMORY`."""

MAX_BYTES = 8 * MAX_PIXELS
"""The largest file that is read: MAX_PIXELS of uncompressed 16-bit RGBA. It also limits streams that never end."""

_EXIF = b"Exif\0\0"
"""What an EXIF block begins with in a JPEG."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Encoded = Path | bytes | BinaryIO
"""An encoded image: a file, its content or a stream."""

Squares = Mapping[Rescaling, np.ndarray]
"""The square uint8 [S, S, 3] RGB of one image for each rescaling."""

Timed = Callable[[str], AbstractContextManager[object]]


def read_square(
    source: Encoded | Image.Image,
    *,
    name: str,
    rescaling: Rescaling,
    apply_exif: bool = True,
    max_pixels: int | None = None,
) -> np.ndarray:
    """Decode an image and rescale it to the square that patches are cut from: uint8 [S, S, 3] RGB.

    Arguments and errors are those of `read_rgb` and `square_of`.
    """
    squares = read_squares(source, name=name, rescalings=[rescaling], apply_exif=apply_exif, max_pixels=max_pixels)
    return squares[rescaling]


def read_squares(
    source: Encoded | Image.Image,
    *,
    name: str,
    rescalings: Collection[Rescaling],
    apply_exif: bool = True,
    max_pixels: int | None = None,
    timed: Timed = nullcontext,
) -> Squares:
    """Decode an image once, and rescale it to the squares that patches are cut from.

    `timed` makes the contexts in which the image is decoded, `timed("decode")`, and rescaled, `timed("resize")`. Other
    arguments and errors are those of `read_rgb`, with the largest S as `shrink_to`, and of `square_of`.
    """
    largest = max(rescaling.size for rescaling in rescalings)
    with timed("decode"):
        image = read_rgb(source, name=name, shrink_to=largest, apply_exif=apply_exif, max_pixels=max_pixels)
    with timed("resize"):
        return {rescaling: square_of(image, rescaling) for rescaling in rescalings}


def read_rgb(
    source: Encoded | Image.Image,
    *,
    name: str,
    shrink_to: int | None = None,
    apply_exif: bool = True,
    max_pixels: int | None = None,
) -> Image.Image:
    """Decode an image, or the first of several frames, to 8-bit RGB.

    Transparent pixels are blended with white, 16-bit channels keep their upper 8 bits, and colour profiles are not
    applied. With `apply_exif`, the image is rotated according to its EXIF orientation. A damaged EXIF block is ignored,
    with a warning of the logger `alexnet_infer`, which Python prints to stderr unless the program says otherwise.
    AVIF's own rotation is always applied, and its EXIF orientation never, as its standard says. An image whose samples
    Pillow would misread is refused.

    `max_pixels` is the largest image that is decoded, by default MAX_PIXELS, which it may not exceed.

    `shrink_to` is the S to which the shorter side will be rescaled. With it, a JPEG of more than `max_pixels` may be
    decoded at 1/2, 1/4 or 1/8 of its size instead of being refused, if the shorter side stays at least 2 S. So may a
    JPEG 2000 whose tiles are too large, at 1/2. Other images are not affected.

    Raises UnreadableInputError for any defect. Its message begins with `name`.
    """
    try:
        with quiet_pillow:
            if isinstance(source, Image.Image):
                decoded = _Decoded(source, samples_of(source))
                source.load()
            else:
                decoded = _load(source, shrink_to, MAX_PIXELS if max_pixels is None else max_pixels)
            return _to_rgb(decoded, apply_exif, name)
    except Exception as error:  # on malicious bytes Pillow raises exceptions of nearly every type
        raise UnreadableInputError(_reason(error, name), name=printable(name)) from error


def _reason(error: Exception, name: str) -> str:
    match error:
        case RefusedError():
            return one_line(error)
        case Image.DecompressionBombError():
            return f"too many pixels: expected at most {MAX_PIXELS:,}; shrink it first"
        case UnidentifiedImageError() if name.lower().endswith((".heic", ".heif", ".hif")):
            return f"not HEIC, whatever its name says, or damaged at its start; HEIC isn't read: {FIXES['HEIC']}"
        case UnidentifiedImageError():
            *most, last = NAMES.values()
            return f"not an image, or damaged at its start; expected {', '.join(most)} or {last}"
        case MemoryError():
            return "not enough memory to decode it; shrink it first"
        case OSError(strerror=str(text)):
            return f"can't be read ({text})"
    return f"damaged, incomplete or unsupported ({one_line(error) or type(error).__name__})"


@dataclass
class _Decoded:
    image: Image.Image | None
    samples: Samples


def _load(source: Encoded, shrink_to: int | None, max_pixels: int) -> _Decoded:
    with ExitStack() as stack:
        stream = stack.enter_context(_opened(source) if isinstance(source, Path) else _buffered(source))
        streamed = _check_structure(stream)
        try:
            image = stack.enter_context(Image.open(stream, formats=FORMATS))
        except UnidentifiedImageError:
            _name_format(stream)
            raise
        if image.format == "TIFF":
            silence_libtiff()
        elif (kind := NAMES.get(image.format)) in _FEATURES:
            _check_decoder(kind)
        _keep_small(image, shrink_to if streamed else None, max_pixels)
        if image.format == "JPEG2000" and _may_shrink(image, 2, shrink_to) and costly(image.fp):
            image.reduce = 1  # its levels, each of half the size
        if netpbm.is_slow(image):
            return _Decoded(netpbm.decode(image), Samples())
        samples = samples_of(image)
        image.load()
        return _Decoded(image, samples)


def _name_format(stream: BinaryIO) -> None:
    """Refuse a file that Pillow doesn't open with the name of its format, if it is a known one."""
    stream.seek(0)
    head = stream.read(HEAD_BYTES)
    if head.startswith(tiff.HEADS):
        tiff.refuse_unopened(stream)
    kind = format_of(head)
    if kind in _FEATURES:
        _check_decoder(kind)
        raise RefusedError(f"damaged, incomplete or unsupported ({kind})")
    if kind is not None:
        raise RefusedError(f"{kind}, which isn't read; {FIXES.get(kind, 'convert it to JPEG first')}")


def _check_decoder(kind: str) -> None:
    """Refuse a format that Pillow may lack if this Pillow lacks it."""
    if kind not in NAMES.values() or not features.check(_FEATURES[kind]):
        pillow = f"this Pillow ({PIL.__version__})"
        raise RefusedError(f"{kind}, which {pillow} doesn't read; pip install -U pillow, or convert it to JPEG first")


def _check_structure(stream: BinaryIO) -> bool:
    """Refuse a file that Pillow would take too long to open. Returns whether a JPEG is decoded as a stream."""
    head = stream.read(HEAD_BYTES)
    streamed = False
    if head.startswith(jpeg.HEAD):
        streamed = jpeg.check(stream)
    elif head[:4] in tiff.HEADS:
        tiff.check_directory(stream)
    elif format_of(head) == "AVIF":
        avif.check(stream)
    stream.seek(0)
    return streamed


def _opened(path: Path) -> BinaryIO:
    try:
        file = open_regular(path)
    except IsADirectoryError:
        raise RefusedError("a directory, not an image") from None
    except SpecError:
        raise RefusedError("a pipe or device, not a file; use - to read an image from a pipe") from None
    stream = Metered(file.detach())
    try:
        _check_bytes(stream.seek(0, os.SEEK_END))
    except BaseException:
        stream.close()
        raise
    stream.seek(0)
    return stream


def _buffered(source: bytes | BinaryIO) -> BinaryIO:
    data = source if isinstance(source, bytes) else source.read(MAX_BYTES + 1)
    _check_bytes(len(data))
    return Metered(io.BytesIO(data))


def _check_bytes(count: int) -> None:
    if count == 0:
        raise RefusedError("empty (0 bytes)")
    if count > MAX_BYTES:
        raise RefusedError(f"too large: expected at most {MAX_BYTES:,} bytes; shrink it first")


def _keep_small(image: Image.Image, shrink_to: int | None, max_pixels: int) -> None:
    """Set an image of more than `max_pixels` to be decoded at a smaller scale, or refuse it. Nothing is decoded yet.

    `shrink_to` is that of `read_rgb`, or None if the decoder would keep the complete image at full scale anyway.
    """
    width, height = image.size
    if image.format == "JPEG2000":
        picture = codestream(image.fp)
        width, height = max(width, picture.width), max(height, picture.height)
    if image.format == "TIFF":  # its decoder unpacks complete tiles, even if the image covers only a small part of them
        width = max(width, image.tag_v2.get(ExifTags.Base.TileWidth, 0))
        height = max(height, image.tag_v2.get(ExifTags.Base.TileLength, 0))
    if width * height <= max_pixels:
        return
    scale = next((s for s in (2, 4, 8) if width * height <= max_pixels * s * s), None)
    if scale and _may_shrink(image, scale, shrink_to):
        image.draft(None, (width // scale, height // scale))
    else:
        raise RefusedError(f"{width} x {height} pixels: expected at most {max_pixels:,}; shrink it first")


def _may_shrink(image: Image.Image, scale: int, shrink_to: int | None) -> bool:
    """Whether the rescaling to `shrink_to` then still shrinks by 2 or more, which hides the decoder's filter."""
    return shrink_to is not None and min(image.size) // scale >= 2 * shrink_to


def _to_rgb(decoded: _Decoded, apply_exif: bool, name: str) -> Image.Image:
    # Each assignment to `image` frees its previous form, so that there are never more than two in memory.
    image, samples, decoded.image = decoded.image, decoded.samples, None
    if image.mode == "I" and image.format == "PPM":  # a PGM of more than 8 bits, which Pillow scales to 16
        image = image.convert("I;16")
    if apply_exif or image.format == "AVIF":  # AVIF's own rotation, which Pillow reports as EXIF
        image = _turned(image, name)
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255 in some versions
        image = _upper_bits(image, samples)
    if image.mode in ("I", "F"):
        raise RefusedError("32-bit pixels have no fixed range; save it with 8 or 16 bits per channel")
    if samples.key is not None:
        image = image.copy()
        image.info["transparency"] = samples.key
    if image.mode == "La":  # which can't become RGBA in one step
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _turned(image: Image.Image, name: str) -> Image.Image:
    try:
        orientation = _orientation(image)
    except Exception as error:  # of any type, as in `read_rgb`, but here the pixels may be intact
        if image.format != "AVIF":  # whose EXIF orientation doesn't count
            reason = one_line(error)
            _log.warning("note: %s: its EXIF block is damaged (%s), so it is not rotated", printable(name), reason)
        return image
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """Return an image's EXIF orientation. 0 and 1 are upright, and 0 is that of an image without one.

    Raises an exception of any type if the EXIF block is damaged.
    """
    block = image.info.get("exif", b"").removeprefix(_EXIF).removeprefix(_EXIF)
    if block and not tiff.check_directory(io.BytesIO(block)):
        raise ValueError("it ends early")
    orientation = image.getexif().get(ExifTags.Base.Orientation, 0)
    if orientation not in range(9):
        raise ValueError(f"orientation {shown(orientation)}: expected 1 to 8")
    return orientation


def _upper_bits(image: Image.Image, samples: Samples) -> Image.Image:
    """Convert grey of more than 8 bits to 8 bits, and the transparent value (PNG has at most one) to white."""
    wide = np.asarray(image)
    grey = (wide >> (samples.bits - 8)).astype(np.uint8)
    if samples.white_is_zero:
        grey = 255 - grey
    if (key := image.info.get("transparency")) is not None:
        grey[wide == key] = 255
    return Image.fromarray(grey)
