"""Images whose samples Pillow misreads are read right all the same, or refused.

TIFF and JPEG 2000 have tests of their own.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.decode import read_rgb
from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.formats.samples import Samples, samples_of
from tests.test_decode import png, png16


def rgb(data: bytes) -> np.ndarray:
    return np.asarray(read_rgb(data, name="photo")).astype(int)


def refusal(data: bytes) -> str:
    with pytest.raises(UnreadableInputError) as caught:
        rgb(data)
    return str(caught.value).removeprefix("photo: ")


def test_an_image_without_a_file_has_the_usual_samples():
    assert samples_of(Image.new("RGB", (3, 2))) == Samples(bits=16, white_is_zero=False, key=None)


# PNG


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_each_transparent_value_of_grey_becomes_white_and_no_other_does(depth):
    highest = 2**depth - 1
    values = np.arange(256 if depth == 8 else highest + 1) & highest
    bits = (values[:, None] >> np.arange(depth)[::-1]) & 1
    rows = np.packbits(bits.astype(np.uint8)).tobytes()
    for key in range(0, highest + 1, 1 if depth < 8 else 51):
        data = png(rows, len(values), 1, depth, 0, (b"tRNS", struct.pack(">H", key)))
        expected = np.where(values == key, 255, values * 255 // highest)
        assert rgb(data)[0, :, 0].tolist() == expected.tolist(), key


def test_a_transparent_value_survives_rotation():
    turned = Image.Exif()
    turned[274] = 6
    block = (b"eXIf", turned.tobytes().removeprefix(b"Exif\0\0"))
    data = png(bytes([0b00011011]), 4, 1, 2, 0, (b"tRNS", struct.pack(">H", 1)), block)
    assert rgb(data)[:, 0, 0].tolist() == [0, 255, 170, 255]


def test_a_transparent_colour_of_16_bit_rgb_is_refused_and_without_it_the_png_is_read():
    values = np.array([[[0x1000, 0x2000, 0x3000], [0x1001, 0x2000, 0x3000]]])
    message = refusal(png16(values, 2, (b"tRNS", struct.pack(">HHH", 0x1001, 0x2000, 0x3000))))
    assert message.startswith("a PNG of 16-bit RGB with a transparent colour, which isn't read; save it with 8 bits")
    assert rgb(png16(values, 2)).tolist() == [[[0x10, 0x20, 0x30]] * 2]


# BMP


def bmp(bits: int, masks: tuple[int, int, int, int], pixels: np.ndarray) -> bytes:
    """A BMP with header version 4 and bit fields, of unsigned [height, width] pixels whose rows are multiples of 4."""
    height, width = pixels.shape
    data = pixels[::-1].astype(f"<u{bits // 8}").tobytes()
    assert width * bits % 32 == 0
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, bits, 3, len(data), 0, 0, 0, 0)
    header += struct.pack("<4I4s48x", *masks, b"BGRs")
    return b"BM" + struct.pack("<IHHI", 14 + 108 + len(data), 0, 0, 14 + 108) + header + data


PIXELS = np.random.default_rng(0).integers(0, 2**32, (5, 8))
MASKS = {
    16: [
        *((0x7C00, 0x3E0, 0x1F, 0), (0xF800, 0x7E0, 0x1F, 0), (0x1F, 0x3E0, 0x7C00, 0), (0xF00, 0xF0, 0xF, 0xF000)),
        *((0x7C00, 0x3E0, 0x1F, 0x8000), (0xF800, 0x7C0, 0x3E, 1), (0x1F, 0x7E0, 0xF800, 0)),
    ],
    32: [
        *((0xFF0000, 0xFF00, 0xFF, 0), (0xFF0000, 0xFF00, 0xFF, 0xFF000000), (0xFF, 0xFF00, 0xFF0000, 0)),
        *((0xFF, 0xFF00, 0xFF0000, 0xFF000000), (0xFF000000, 0xFF0000, 0xFF00, 0), (0x3FF00000, 0xFFC00, 0x3FF, 0)),
        *((0xFF000000, 0xFF0000, 0xFF00, 0xFF), (0xFF00, 0xFF0000, 0xFF000000, 0xFF)),
    ],
}


def field(pixels: np.ndarray, mask: int) -> np.ndarray:
    """The values under a mask, from 0 to 1. All 1 if there is no mask."""
    return (pixels & mask) / mask if mask else np.ones(pixels.shape)


@pytest.mark.parametrize(("bits", "masks"), [(bits, masks) for bits, all_ in MASKS.items() for masks in all_])
def test_a_bmp_with_bit_fields_is_read_right_or_refused(bits, masks):
    pixels = PIXELS & (2**bits - 1)
    alpha = field(pixels, masks[3])[..., None]
    expected = 255 * (np.dstack([field(pixels, mask) for mask in masks[:3]]) * alpha + 1 - alpha)
    try:
        array = rgb(bmp(bits, masks, pixels))
    except UnreadableInputError:
        assert masks not in (MASKS[16][0], MASKS[16][1], MASKS[32][0], MASKS[32][1])  # what programs write
        return
    assert np.abs(array - expected).max() <= (2 if bits == 32 else 8)


def test_a_bmp_of_16_bits_with_alpha_is_refused_by_name():
    message = refusal(bmp(16, (0x7C00, 0x3E0, 0x1F, 0x8000), PIXELS & 0xFFFF))
    assert message.startswith("a BMP of 16 bits per pixel with transparency, which isn't read; save it as PNG")
