"""How the samples of an image are stored, where Pillow's decoded image doesn't say it or is wrong about it."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from alexnet_infer.formats import RefusedError, jpeg2000, tiff


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What must be known to turn a decoded image of Pillow into RGB."""

    bits: int = 16
    """Of grey with more than 8 bits, which Pillow doesn't scale."""
    white_is_zero: bool = False
    """Whether 0 is white in grey with more than 8 bits. Pillow inverts other grey itself."""
    key: int | None = None
    """The value of the transparent pixels of 2- or 4-bit grey in a PNG. Pillow scales the pixels and not this value."""


def samples_of(image: Image.Image) -> Samples:
    """Return how samples are stored in an image that is open but not decoded yet.

    Raises RefusedError if Pillow would decode it to wrong pixels.
    """
    match image.format:
        case "TIFF":
            tiff.check(image.tag_v2, image.fp)
            bits, white_is_zero = tiff.grey_bits(image.tag_v2)
            return Samples(bits=bits, white_is_zero=white_is_zero)
        case "PNG" if "transparency" in image.info and image.tile:
            return _with_key(image)
        case "JPEG2000" if image.fp is not None:
            # It is a number if it was set, and a method of every image otherwise.
            jpeg2000.check(image.fp, image.reduce if isinstance(image.reduce, int) else 0)
        case "BMP" if image.fp is not None:
            _check_bmp(image)
    return Samples()


def _with_key(image: Image.Image) -> Samples:
    """The same for a PNG with one transparent value or colour, or a transparent palette."""
    match image.tile[0][3]:  # the samples in the file, in Pillow's words
        case "L;2":
            return Samples(key=85 * (image.info["transparency"] & 3))
        case "L;4":
            return Samples(key=17 * (image.info["transparency"] & 15))
        case "RGB;16B":  # Pillow compares the colour with the upper 8 bits
            raise RefusedError("a PNG of 16-bit RGB with a transparent colour, which isn't read; save it with 8 bits")
    return Samples()


def _check_bmp(image: Image.Image) -> None:
    """Refuse a BMP with 16 bits per pixel that have an alpha channel, which Pillow ignores."""
    image.fp.seek(14)
    header = image.fp.read(56)
    number = [int.from_bytes(header[i : i + 4], "little") for i in range(0, len(header), 4)]
    bits = int.from_bytes(header[14:16], "little")
    # The header's size tells whether it has an alpha mask. Compression 3 is "bit fields": the masks are used.
    if number[0] >= 56 and bits == 16 and number[4] == 3 and number[13]:
        raise RefusedError("a BMP of 16 bits per pixel with transparency, which isn't read; save it as PNG")
