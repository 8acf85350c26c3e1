"""Images of every kind are decoded in the right colours or refused in one line, within limits of memory and time.

The images are made here: with Pillow's encoders if it has one, byte by byte (`png`, `tiff`) otherwise.
"""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import textwrap
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, UnidentifiedImageError, features

from alexnet_infer import decode
from alexnet_infer.decode import read_rgb
from alexnet_infer.errors import UnreadableInputError, printable
from alexnet_infer.formats import FIXES
from alexnet_infer.formats.quiet import quiet_pillow

ROOT = Path(__file__).parents[1]
COLOURS = np.array([[(230, 20, 30), (20, 200, 40), (240, 240, 240)], [(30, 40, 220), (10, 10, 10), (230, 220, 20)]])
"""Two rows, three columns: all fields differ, so that every rotation and swap of channels is detected."""


def fields(side: int = 32) -> np.ndarray:
    """uint8 [2 side, 3 side, 3]: COLOURS as large fields."""
    return COLOURS.astype(np.uint8).repeat(side, 0).repeat(side, 1)


def encoded(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(stream, kind, **options)
    return stream.getvalue()


def png(rows: bytes, width: int, height: int, depth: int, colour_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of unfiltered rows: what Pillow can't write, such as 16-bit colour or a header that promises too much."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    length = (width * depth * channels + 7) // 8
    lines = b"".join(b"\0" + rows[i : i + length] for i in range(0, len(rows), length))
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def png16(values: np.ndarray, colour_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """uint16 [height, width] or [height, width, channels] as a PNG of 16 bits per channel."""
    return png(values.astype(">u2").tobytes(), values.shape[1], values.shape[0], 16, colour_type, *chunks)


def tiff(strip: bytes, tags: dict[int, int]) -> bytes:
    """A little-endian TIFF of one strip or tile; the value of StripOffsets (273) or TileOffsets (324) is filled in."""
    entries = [(tag, 8 if tag in (273, 324) else value) for tag, value in sorted(tags.items())]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + struct.pack("<H", len(entries)) + directory + bytes(4)


def rgb(source, **options) -> np.ndarray:
    image = read_rgb(source, name="photo", **options)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def middles(array: np.ndarray) -> np.ndarray:
    """The colour in the middle of each of the 2 x 3 fields."""
    height, width = array.shape[0] // 2, array.shape[1] // 3
    return array[height // 2 :: height, width // 2 :: width]


def refusal(source, **options) -> str:
    """Return the one-line message with which an image is refused, without the name."""
    with pytest.raises(UnreadableInputError) as caught:
        read_rgb(source, name="photo", **options)
    message = str(caught.value)
    assert message.startswith("photo: ")
    assert message.isprintable()
    return message.removeprefix("photo: ")


def child(code: str, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run Python code in a separate process, with warnings as Python shows them to a user."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)


def made(kind: str, make: Callable[[], bytes]) -> bytes:
    """Make an image, or skip the test if this Pillow has no encoder for its kind."""
    if "AVIF" in kind and not ("AVIF" in decode.FORMATS and features.check("avif")):
        pytest.skip("this Pillow has no AVIF")
    if ("JPEG 2000" in kind or kind == "JPEG2000") and not features.check("jpg_2000"):
        pytest.skip("this Pillow has no JPEG 2000")
    return make()


# Colours

KINDS = {
    "JPEG": lambda: encoded(fields(), "JPEG", quality=95),
    "progressive JPEG": lambda: encoded(fields(), "JPEG", quality=95, progressive=True),
    "RGB PNG": lambda: encoded(fields(), "PNG"),
    "palette PNG": lambda: encoded(Image.fromarray(fields()).quantize(6), "PNG"),
    "16-bit RGB PNG": lambda: png16(fields().astype(np.uint16) * 257, 2),
    "16-bit RGBA PNG": lambda: png16(np.dstack([fields(), np.full((64, 96), 255)]).astype(np.uint16) * 257, 6),
    "GIF": lambda: encoded(fields(), "GIF"),
    "lossless WebP": lambda: encoded(fields(), "WEBP", lossless=True),
    "lossy WebP": lambda: encoded(fields(), "WEBP", quality=95),
    "BMP": lambda: encoded(fields(), "BMP"),
    "PPM": lambda: encoded(fields(), "PPM"),
    "16-bit PPM": lambda: b"P6 96 64 65535\n" + (fields().astype(">u2") * 257).tobytes(),
    "plain PPM": lambda: f"P3 96 64 255\n{' '.join(map(str, fields().ravel()))}\n".encode(),
    "raw TIFF": lambda: encoded(fields(), "TIFF"),
    "LZW TIFF": lambda: encoded(fields(), "TIFF", compression="tiff_lzw"),
    "deflate TIFF": lambda: encoded(fields(), "TIFF", compression="tiff_adobe_deflate"),
    "JPEG TIFF": lambda: encoded(fields(), "TIFF", compression="jpeg", quality=95),
    "CMYK TIFF": lambda: encoded(Image.fromarray(fields()).convert("CMYK"), "TIFF"),
    "CMYK JPEG": lambda: encoded(Image.fromarray(fields()).convert("CMYK"), "JPEG", quality=95),
    "MPO": lambda: encoded(fields(), "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))], quality=95),
    "AVIF": lambda: encoded(fields(), "AVIF", quality=95),
    "JPEG 2000": lambda: encoded(fields(), "JPEG2000"),
    "JPEG 2000 codestream": lambda: encoded(fields(), "JPEG2000", no_jp2=True),
    "tiled JPEG 2000": lambda: encoded(fields(), "JPEG2000", tile_size=(32, 32)),
    "lossy JPEG 2000": lambda: encoded(fields(), "JPEG2000", irreversible=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_colours_survive_every_kind_of_file(kind):
    array = rgb(made(kind, KINDS[kind]))
    assert array.shape == (64, 96, 3)
    np.testing.assert_allclose(middles(array), COLOURS, atol=6)


def with_marker(jpeg: bytes, transform: int) -> bytes:
    """A four-channel JPEG made by Pillow, with its Adobe marker set to 0 (CMYK) or 2 (YCCK)."""
    place = jpeg.index(b"Adobe") + 11
    return jpeg[:place] + bytes([transform]) + jpeg[place + 1 :]


@pytest.mark.parametrize("black", [0, 90, 255])
@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (40, 90, 200), (255, 255, 255), (128, 128, 128)])
def test_a_cmyk_jpeg_is_ink_on_white_as_adobe_stores_it(colour, black):
    inks = (*(255 - c for c in colour), black)
    data = encoded(Image.new("CMYK", (16, 16), inks), "JPEG", quality=100, subsampling=0)
    assert data[data.index(b"Adobe") + 11] == 0
    expected = [c * (255 - black) / 255 for c in colour]  # what the inks leave of white, then what black leaves of it
    np.testing.assert_allclose(rgb(data)[8, 8], expected, atol=3)


@pytest.mark.parametrize("black", [0, 90, 255])
@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (40, 90, 200), (255, 255, 255), (128, 128, 128)])
def test_a_ycck_jpeg_is_the_same_photo_after_one_more_conversion(colour, black):
    # Adobe's YCCK: Y, Cb and Cr (JFIF's formulas) of the inks' amounts, and black inverted.
    r, g, b = (255 - c for c in colour)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    stored = [y, 128 + (b - y) / 1.772, 128 + (r - y) / 1.402, 255 - black]
    inks = tuple(255 - round(min(max(v, 0), 255)) for v in stored)  # Pillow inverts all four when it writes
    data = with_marker(encoded(Image.new("CMYK", (16, 16), inks), "JPEG", quality=100, subsampling=0), 2)
    expected = [c * (255 - black) / 255 for c in colour]
    np.testing.assert_allclose(rgb(data)[8, 8], expected, atol=4)


WIDE = np.array([[0, 255, 256, 1000], [32767, 32768, 60000, 65535]], np.uint16)

WIDE_GREY = {
    "PNG": lambda: png16(WIDE, 0),
    "little-endian TIFF": lambda: tiff(
        WIDE.astype("<u2").tobytes(), {256: 4, 257: 2, 258: 16, 259: 1, 262: 1, 273: 0, 277: 1, 278: 2, 279: 16}
    ),
    "big-endian TIFF": lambda: (
        b"MM\0*"
        + struct.pack(">I", 24)
        + WIDE.astype(">u2").tobytes()
        + struct.pack(">H", 9)
        + b"".join(
            struct.pack(">HHII", tag, 4, 1, value)
            for tag, value in (
                *((256, 4), (257, 2), (258, 16), (259, 1), (262, 1)),
                *((273, 8), (277, 1), (278, 2), (279, 16)),
            )
        )
        + bytes(4)
    ),
    "PGM": lambda: b"P5 4 2 65535\n" + WIDE.astype(">u2").tobytes(),
}


@pytest.mark.parametrize("kind", WIDE_GREY)
def test_16_bit_grey_is_scaled_and_not_clipped(kind):
    array = rgb(WIDE_GREY[kind]())
    assert (array[..., 0] == array[..., 1]).all()
    assert (array[..., 0] == array[..., 2]).all()
    np.testing.assert_allclose(array[..., 0], WIDE / 257, atol=1)


def test_10_bit_grey_spans_the_whole_range():
    array = rgb(b"P5 3 1 1023\n" + np.array([0, 512, 1023], ">u2").tobytes())
    np.testing.assert_allclose(array[0, :, 0], [0, 128, 255], atol=1)


def test_grey_and_bilevel_images_have_three_equal_channels():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (rgb(encoded(grey, "PNG")) == grey[..., None]).all()
    bits = (grey % 3 == 0) & (grey > 40)
    assert (rgb(encoded(Image.fromarray(bits), "PNG")) == 255 * bits[..., None]).all()
    assert (rgb(encoded(Image.fromarray(bits), "TIFF", compression="group4")) == 255 * bits[..., None]).all()


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "JPEG"])
def test_one_pixel_is_an_image(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    array = rgb(encoded(np.array([[[200, 100, 100]]], np.uint8), kind, **options))
    np.testing.assert_allclose(array, [[[200, 100, 100]]], atol=3)


# Transparency


def over_white(colour, alpha) -> np.ndarray:
    alpha = np.asarray(alpha, float)[..., None] / 255
    return np.asarray(colour) * alpha + 255 * (1 - alpha)


ALPHA = np.linspace(0, 255, 64 * 96).reshape(64, 96).astype(np.uint8)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {}), ("JPEG2000", {})],
)
def test_transparent_colours_are_blended_with_white(kind, options):
    array = rgb(made(kind, lambda: encoded(np.dstack([fields(), ALPHA]), kind, **options)))
    np.testing.assert_allclose(array, over_white(fields(), ALPHA), atol=1)


def test_transparent_colours_of_an_avif_are_blended_with_white():
    data = made("AVIF", lambda: encoded(np.dstack([fields(), ALPHA]), "AVIF", quality=95, subsampling="4:4:4"))
    difference = np.abs(rgb(data) - over_white(fields(), ALPHA))
    assert difference.mean() < 2  # and more at the edges of the fields
    assert np.median(difference) <= 2


def test_transparent_grey_is_blended_with_white():
    grey = fields()[..., 1]
    expected = over_white(grey[..., None].repeat(3, 2), ALPHA)
    np.testing.assert_allclose(rgb(encoded(np.dstack([grey, ALPHA]), "PNG")), expected, atol=1)
    wide = np.dstack([grey, ALPHA]).astype(np.uint16) * 257
    np.testing.assert_allclose(rgb(png16(wide, 4)), expected, atol=1)


def test_a_palette_with_transparent_entries_is_blended_with_white():
    indices = np.arange(6, dtype=np.uint8).reshape(2, 3)
    palette = (b"PLTE", COLOURS.astype(np.uint8).tobytes())
    alpha = np.array([[0, 128, 255], [255, 64, 255]])
    data = png(indices.tobytes(), 3, 2, 8, 3, palette, (b"tRNS", bytes([0, 128, 255, 255, 64])))
    np.testing.assert_allclose(rgb(data), over_white(COLOURS, alpha), atol=1)
    data = png(indices.tobytes(), 3, 2, 8, 3, palette, (b"tRNS", bytes([255, 255, 0])))
    np.testing.assert_allclose(rgb(data), over_white(COLOURS, [[255, 255, 0], [255, 255, 255]]), atol=1)


def test_a_transparent_key_colour_becomes_white_and_no_other_does():
    pixels = COLOURS.astype(np.uint8)
    expected = COLOURS.copy()
    expected[1, 0] = 255
    key = (b"tRNS", struct.pack(">HHH", *COLOURS[1, 0]))
    assert (rgb(png(pixels.tobytes(), 3, 2, 8, 2, key)) == expected).all()
    grey = rgb(png(bytes([7, 8, 9]), 3, 1, 8, 0, (b"tRNS", struct.pack(">H", 8))))
    assert grey[0, :, 0].tolist() == [7, 255, 9]
    wide = rgb(png16(np.array([[0x1000, 0x1001, 0x2000]]), 0, (b"tRNS", struct.pack(">H", 0x1001))))
    assert wide[0, :, 0].tolist() == [0x10, 255, 0x20]


def test_a_transparent_gif_is_blended_with_white():
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3), "L").convert("P")
    image.putpalette(COLOURS.astype(np.uint8).tobytes())
    expected = COLOURS.copy()
    expected[0, 1] = 255
    assert (rgb(encoded(image, "GIF", transparency=1)) == expected).all()


# Several frames


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_the_first_of_several_frames_is_used(kind, options):
    frames = [Image.new("RGB", (12, 8), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
    assert (rgb(data) == (255, 0, 0)).all()


# EXIF

# From the upright image to the stored one. The comments say where EXIF 2.32 places row 0 and column 0 in the scene.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],  # row 0 top, column 0 right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.transpose(1, 0, 2),  # row 0 left, column 0 top
    6: lambda a: a.transpose(1, 0, 2)[::-1],  # row 0 right, column 0 top
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],  # row 0 right, column 0 bottom
    8: lambda a: a.transpose(1, 0, 2)[:, ::-1],  # row 0 left, column 0 bottom
}
TURNABLE = {"JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[274] = orientation
    return block


@pytest.mark.parametrize("apply_exif", [True, False])
@pytest.mark.parametrize("orientation", STORED)
def test_avifs_own_rotation_is_applied_once_whatever_the_caller_asks(orientation, apply_exif):
    """It is part of the picture (boxes `irot` and `imir`), unlike EXIF. Pillow writes it in place of EXIF's."""
    stored = np.ascontiguousarray(STORED[orientation](fields()))
    data = made("AVIF", lambda: encoded(stored, "AVIF", exif=exif(orientation), quality=95))
    assert (b"irot" in data or b"imir" in data) == (orientation > 1)
    array = rgb(data, apply_exif=apply_exif)
    assert array.shape == (64, 96, 3)
    np.testing.assert_allclose(middles(array), COLOURS, atol=6)


@pytest.mark.parametrize("kind", TURNABLE)
@pytest.mark.parametrize("orientation", STORED)
def test_every_exif_orientation_is_rotated_upright(orientation, kind):
    stored = np.ascontiguousarray(STORED[orientation](fields()))
    array = rgb(encoded(stored, kind, exif=exif(orientation), **TURNABLE[kind]))
    assert array.shape == (64, 96, 3)
    np.testing.assert_allclose(middles(array), COLOURS, atol=6)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_exif_orientation_is_ignored_if_the_caller_asks(kind):
    stored = np.ascontiguousarray(STORED[6](fields()))
    array = rgb(encoded(stored, kind, exif=exif(6), **TURNABLE[kind]), apply_exif=False)
    assert array.shape == (96, 64, 3)
    np.testing.assert_allclose(array[16::32, 16::32], STORED[6](COLOURS), atol=6)


def test_transparent_and_palette_images_are_rotated_as_well():
    stored = np.ascontiguousarray(STORED[6](fields()))
    rgba = np.dstack([stored, np.full(stored.shape[:2], 200, np.uint8)])
    expected = over_white(COLOURS, np.full((2, 3), 200))
    np.testing.assert_allclose(middles(rgb(encoded(rgba, "PNG", exif=exif(6)))), expected, atol=1)
    palette = encoded(Image.fromarray(stored).quantize(6), "PNG", exif=exif(6))
    np.testing.assert_allclose(middles(rgb(palette)), COLOURS, atol=1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0garbage",
        b"Exif\0\0MM\0*\0\0\0\x08",
        b"Exif\0\0" + struct.pack("<2sHIHHHII", b"II", 42, 8, 1, 274, 3, 1, 99),
    ],
    ids=["no TIFF", "ends early", "orientation 99"],
)
def test_a_damaged_exif_block_is_ignored_with_a_note(block, kind, caplog):
    data = encoded(fields(), kind, exif=block, **TURNABLE[kind])
    np.testing.assert_allclose(middles(rgb(data, apply_exif=False)), COLOURS, atol=6)
    assert caplog.messages == []
    np.testing.assert_allclose(middles(rgb(data)), COLOURS, atol=6)
    (note,) = caplog.messages
    assert note.startswith("note: photo: its EXIF block is damaged (")
    assert note.endswith("), so it is not rotated")
    assert note.isprintable()


@pytest.mark.parametrize("kind", TURNABLE)
def test_no_note_is_made_about_an_intact_exif_block_or_none(kind, caplog):
    unknown = Image.Exif()
    unknown[271] = "a camera"
    for options in ({}, {"exif": exif(0)}, {"exif": exif(1)}, {"exif": exif(6)}, {"exif": unknown}):
        rgb(encoded(fields(), kind, **options, **TURNABLE[kind]))
    assert caplog.messages == []


def test_a_note_is_printed_on_one_line_whatever_the_name(tmp_path):
    path = tmp_path / "two\nlines\x1b[2J.png"
    path.write_bytes(encoded(fields(), "PNG", exif=b"Exif\0\0garbage"))
    code = """
        import sys
        from pathlib import Path
        from alexnet_infer.decode import read_rgb
        read_rgb(Path(sys.argv[1]), name=Path(sys.argv[1]).name)
    """
    result = child(code, str(path))
    assert (
        result.stderr
        == "note: two\\nlines\\x1b[2J.png: its EXIF block is damaged (it ends early), so it is not rotated\n"
    )


def test_the_exif_block_of_an_avif_does_not_count(caplog):
    camera = Image.Exif()
    camera[271] = "a camera"
    block = camera.tobytes().removeprefix(b"Exif\0\0")
    sound = made("AVIF", lambda: encoded(fields(), "AVIF", exif=camera, quality=95))
    assert block in sound
    data = sound.replace(block, block[:8] + b"\xff" * len(block[8:]))
    np.testing.assert_allclose(middles(rgb(data)), COLOURS, atol=6)
    assert caplog.messages == []


def test_a_damaged_colour_profile_is_ignored():
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        array = rgb(encoded(fields(), kind, icc_profile=b"no profile" * 50))
        np.testing.assert_allclose(middles(array), COLOURS, atol=20 if kind in ("JPEG", "WEBP") else 0)
    cut = png(fields().tobytes(), 96, 64, 8, 2, (b"iCCP", b"name\0\0" + b"no deflate stream"))
    assert (rgb(cut) == fields()).all()


# Kinds of sources


def test_a_path_bytes_an_open_file_and_a_pillow_image_give_the_same(tmp_path):
    data = encoded(np.ascontiguousarray(STORED[6](fields())), "PNG", exif=exif(6))
    path = tmp_path / "photo of no suffix"
    path.write_bytes(data)
    with path.open("rb") as file, Image.open(io.BytesIO(data)) as image:
        for source in (path, data, file, io.BytesIO(data), image):
            assert (rgb(source) == fields()).all()


def test_a_pillow_image_of_the_caller_is_not_modified():
    image = Image.open(io.BytesIO(encoded(Image.fromarray(fields()).quantize(6), "PNG", exif=exif(6))))
    read_rgb(image, name="photo")
    assert (image.mode, image.size) == ("P", (96, 64))
    assert image.getexif()[274] == 6


def test_a_pillow_image_that_cannot_be_decoded_is_refused():
    with Image.open(io.BytesIO(encoded(photograph(), "JPEG")[:-300])) as image:
        assert "damaged" in refusal(image)


def test_an_endless_stream_is_refused_at_the_limit(monkeypatch):
    monkeypatch.setattr(decode, "MAX_BYTES", 1000)

    class Endless(io.RawIOBase):
        taken = 0

        def readable(self):
            return True

        def readinto(self, buffer):
            self.taken += len(buffer)
            return len(buffer)

    stream = Endless()
    assert "too large: expected at most 1,000 bytes" in refusal(io.BufferedReader(stream))
    assert stream.taken < 100_000


def test_a_file_that_is_too_large_is_refused_by_its_size(tmp_path):
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(decode.MAX_BYTES + 1)  # sparse: uses no disk space
    assert "too large" in refusal(path)


# Not an image


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty (0 bytes)"),
        (b"\0", "not an image"),
        (b"just some text\n" * 100, "not an image"),
        (b"\xff\xd8\xff", "not an image"),
    ],
    ids=["empty", "zero", "text", "start of a JPEG"],
)
def test_data_that_is_not_an_image_is_refused_with_the_formats_expected(data, expected):
    message = refusal(data)
    assert message.startswith(expected)
    assert "empty" in message or "expected JPEG, PNG, GIF, WebP, BMP, TIFF, PPM" in message


@pytest.mark.parametrize("suffix", ["heic", "HEIF", "hif"])
def test_what_is_called_heic_and_is_not_is_refused_with_the_fix(suffix):
    for data in (b"text", bytes(100), b"\xff\xd8"):
        with pytest.raises(UnreadableInputError) as caught:
            read_rgb(data, name=f"photo.{suffix}")
        expected = f"not HEIC, whatever its name says, or damaged at its start; HEIC isn't read: {FIXES['HEIC']}"
        assert str(caught.value) == f"photo.{suffix}: {expected}"


def test_a_jpeg_of_12_bits_is_refused_with_the_fix():
    data = bytearray(encoded(fields(), "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    assert refusal(bytes(data)) == (
        "a damaged JPEG, or one without 8 bits per channel, which isn't read; save it again with 8 bits"
    )


@pytest.mark.parametrize(("kind", "name"), [("AVIF", "AVIF"), ("JPEG2000", "JPEG 2000")])
def test_a_format_that_this_pillow_lacks_is_named_with_the_fix(kind, name, monkeypatch):
    data = made(kind, lambda: encoded(fields(), kind))
    assert rgb(data).shape == (64, 96, 3)
    expected = f"{name}, which this Pillow ({PIL.__version__}) doesn't read; pip install -U pillow, or convert it to"
    monkeypatch.setattr(features, "check", lambda feature: False)  # built without the decoder
    assert refusal(data).startswith(expected)
    monkeypatch.setattr(decode, "NAMES", {k: v for k, v in decode.NAMES.items() if k != kind})  # has no such plugin
    monkeypatch.setattr(decode, "FORMATS", tuple(decode.NAMES))
    assert refusal(data).startswith(expected)
    assert name not in refusal(b"no image")


def test_an_avif_or_jpeg_2000_that_is_damaged_is_named(monkeypatch):
    for kind, head in (("AVIF", b"\0\0\0\x1cftypavif"), ("JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n")):
        made(kind, bytes)
        assert refusal(head + bytes(40)) == f"damaged, incomplete or unsupported ({kind})"


def test_postscript_is_not_opened_because_pillow_would_run_ghostscript_on_it():
    postscript = encoded(Image.new("RGB", (8, 8)), "EPS")
    assert Image.open(io.BytesIO(postscript)).format == "EPS"
    assert refusal(postscript).startswith("PostScript, which isn't read")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused(kind, kept):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    data = made(kind, lambda: encoded(noise, kind))
    message = refusal(data[: int(len(data) * kept)])
    assert message.startswith(("damaged, incomplete or unsupported (", "not an image", "a TIFF that is damaged"))


@pytest.mark.parametrize("sample", [np.int32, np.float32])
def test_pixels_without_a_fixed_range_are_refused_with_the_fix(sample):
    values = np.array([[0, 1000], [70000, 255]], sample)
    message = refusal(encoded(values, "TIFF"))
    assert "have no fixed range" in message
    assert "save it as PNG with 8 or 16 bits" in message


def test_a_pfm_has_no_fixed_range_either():
    assert "no fixed range; save it with 8 or 16 bits" in refusal(b"Pf\n2 1\n-1.0\n" + struct.pack("<2f", 0, 900))


def test_a_directory_a_missing_file_and_impossible_names_are_refused(tmp_path):
    assert refusal(tmp_path).startswith("a directory")
    assert "No such file" in refusal(tmp_path / "absent.jpg")
    assert "Not a directory" in refusal(Path(__file__) / "photo.jpg")
    assert "too long" in refusal(tmp_path / ("x" * 5000))
    assert "null" in refusal(tmp_path / "a\0b.jpg")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path):
    path = tmp_path / "closed.png"
    path.write_bytes(encoded(fields(), "PNG"))
    path.chmod(0)
    assert "Permission denied" in refusal(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    code = """
        import sys
        from pathlib import Path
        from alexnet_infer.decode import read_rgb
        for name in sys.argv[1:]:
            try:
                read_rgb(Path(name), name=name)
            except Exception as error:
                print(type(error).__name__, error)
    """
    result = child(code, str(tmp_path / "fifo"), "/dev/zero", timeout=30)  # opening the FIFO would wait forever
    lines = result.stdout.splitlines()
    assert len(lines) == 2, result.stderr
    assert all(line.startswith("UnreadableInputError") and "a pipe or device, not a file" in line for line in lines)


@pytest.mark.parametrize(
    "error",
    [
        OSError("broken data stream"),
        SyntaxError("not a PNG file"),
        ValueError("bad"),
        struct.error("unpack requires 4 bytes"),
        EOFError(),
        ZeroDivisionError("division by zero"),
        IndexError("list index out of range"),
        KeyError("mode"),
        TypeError("an integer is required"),
        OverflowError("too large"),
        AttributeError("x"),
        NotImplementedError(),
        AssertionError(),
        RecursionError("deep"),
        SystemError("tile cannot extend outside image"),
        MemoryError(),
        zlib.error("Error -3"),
        UnidentifiedImageError("no"),
        Image.DecompressionBombError("bomb"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        ValueError("two\nlines and \x1b[31m colour"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_error_that_pillow_raises_becomes_a_one_line_error(error, monkeypatch):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr(Image, "open", broken)
    message = refusal(b"x")
    assert message
    assert not message.endswith("()")


def test_an_interruption_is_not_reported_as_a_bad_image(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Image, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_rgb(b"x", name="photo")


# Size and memory

VAST = 60_000


def vast_jpeg(progressive: bool, side: int = VAST) -> bytes:
    """A small JPEG whose header says `side` x `side`."""
    data = encoded(fields(), "JPEG", progressive=progressive)
    place = data.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", side, side) + data[place + 4 :]


def vast_webp() -> bytes:
    """A lossless WebP whose header says 16,383 x 16,383, the format's limit."""
    data = bytearray(encoded(fields(), "WEBP", lossless=True))
    place = data.index(b"VP8L") + 9
    bits = int.from_bytes(data[place : place + 4], "little")
    data[place : place + 4] = (bits & ~0xFFFFFFF | 16382 | 16382 << 14).to_bytes(4, "little")
    return bytes(data)


def vast_jpeg_2000(no_jp2: bool) -> bytes:
    """A small JPEG 2000 whose codestream says VAST x VAST, in one tile."""
    data = encoded(fields(), "JPEG2000", no_jp2=no_jp2)
    place = data.index(b"\xff\x4f\xff\x51") + 8
    size = struct.pack(">4I", VAST, VAST, 0, 0)
    return data[:place] + size + size + data[place + 32 :]


def test_an_avif_of_too_many_pixels_is_refused_before_it_is_decoded(monkeypatch):
    data = made("AVIF", lambda: encoded(fields(), "AVIF"))
    place = data.index(b"ispe") + 8
    assert data[place : place + 8] == struct.pack(">II", 96, 64)
    vast = data[:place] + struct.pack(">II", 10_000, 10_000) + data[place + 8 :]
    assert refusal(vast) == "10000 x 10000 pixels: expected at most 33,000,000; shrink it first"


def deflated_zeros(count: int) -> bytes:
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(count >> 20)) + packer.flush()


BOMBS = {
    "PNG": lambda: png(bytes(VAST // 8 * 100), VAST, VAST, 1, 0),
    "16-bit RGBA PNG": lambda: png(bytes(8 * VAST), VAST, VAST, 16, 6),
    "PNG of 89 to 179 million pixels, of which Pillow only warns": lambda: png(bytes(1250), 10_000, 10_000, 1, 0),
    "JPEG": lambda: vast_jpeg(False),
    "progressive JPEG": lambda: vast_jpeg(True),
    "progressive JPEG of 100 million pixels": lambda: vast_jpeg(True, 10_000),
    "GIF": lambda: b"GIF89a" + struct.pack("<HH", VAST, VAST) + encoded(fields(), "GIF")[10:],
    "WebP": vast_webp,
    "BMP": lambda: encoded(fields(), "BMP")[:18] + struct.pack("<ii", VAST, VAST) + encoded(fields(), "BMP")[26:],
    "PPM": lambda: b"P6 60000 60000 255\n" + bytes(1000),
    "plain PPM": lambda: b"P3 60000 60000 255\n" + b"0 " * 1000,
    "raw TIFF": lambda: tiff(
        bytes(8), {256: VAST, 257: VAST, 258: 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: VAST, 279: 8}
    ),
    "TIFF of 10 x 10 pixels in a tile of 400 million": lambda: tiff(
        deflated_zeros(400 * 2**20),
        {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 277: 1, 322: 20_000, 323: 20_000, 324: 0, 325: 2_000_000},
    ),
    "JPEG 2000": lambda: vast_jpeg_2000(no_jp2=True),
    "JPEG 2000 whose own header says 96 x 64": lambda: vast_jpeg_2000(no_jp2=False),
    "PNG text of 1 GB": lambda: png(bytes(3), 1, 1, 8, 2, (b"zTXt", b"a\0\0" + deflated_zeros(2**30))),
    "PNG profile of 1 GB": lambda: png(bytes(3), 1, 1, 8, 2, (b"iCCP", b"a\0\0" + deflated_zeros(2**30))),
}

READ = """
    import sys
    from pathlib import Path
    from alexnet_infer.decode import read_rgb
    for name in sys.argv[1:]:
        try:
            print("read", *read_rgb(Path(name), name="photo", shrink_to=256).size)
        except Exception as error:
            print(type(error).__name__, error)
    # Not ru_maxrss: after fork and exec it is at least the parent's.
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
proc_only = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read the peak memory from")


def read_in_child(*paths: Path) -> tuple[list[str], float]:
    """The result for each file, and the peak resident memory of a process that does nothing else, in MB (10^6)."""
    result = child(READ, *map(str, paths))
    *lines, peak = result.stdout.splitlines()
    assert result.stderr == ""
    return lines, int(peak) * 1024 / 1e6


@proc_only
def test_bombs_of_every_kind_are_refused_or_read_within_300_mb(tmp_path):
    paths = [tmp_path / str(i) for i in range(len(BOMBS))]
    for path, make in zip(paths, BOMBS.values(), strict=True):
        path.write_bytes(make())
    lines, peak = read_in_child(*paths)
    for kind, line in zip(BOMBS, lines, strict=True):
        assert line.startswith("UnreadableInputError photo: "), kind
        assert ("shrink it first" if "1 GB" not in kind else "data too large") in line, kind
    assert peak < 300


@proc_only
def test_the_largest_images_that_are_read_stay_within_300_mb(tmp_path):
    width, height = 6000, decode.MAX_PIXELS // 6000
    turned = (b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "palette").write_bytes(
        png(bytes(width * height), width, height, 8, 3, (b"PLTE", bytes(3)), (b"tRNS", b"\x80"), turned)
    )
    (tmp_path / "grey").write_bytes(encoded(Image.new("L", (width, height), 99), "JPEG", exif=exif(6)))
    (tmp_path / "draft").write_bytes(encoded(Image.new("L", (12_000, 9_000), 99), "JPEG", exif=exif(6)))
    lines, peak = read_in_child(*(tmp_path / name for name in ("palette", "grey", "draft")))
    assert lines == [f"read {height} {width}", f"read {height} {width}", "read 4500 6000"]
    assert peak < 300


def test_the_limit_itself_is_read_and_a_pixel_more_is_refused(monkeypatch):
    data = encoded(fields(), "PNG")
    monkeypatch.setattr(decode, "MAX_PIXELS", 96 * 64)
    assert rgb(data).shape == (64, 96, 3)
    monkeypatch.setattr(decode, "MAX_PIXELS", 96 * 64 - 1)
    assert refusal(data) == "96 x 64 pixels: expected at most 6,143; shrink it first"


def photograph(width: int = 900, height: int = 600) -> Image.Image:
    """Detail at every scale, as in a photo: noise of 2, 4, 8, ... cells across, fainter where it is finer."""
    rng = np.random.default_rng(5)
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(1, 9):
        cells = Image.fromarray(rng.integers(0, 256, (2**octave, 2**octave, 3), np.uint8))
        total += (np.asarray(cells.resize((width, height), Image.Resampling.BICUBIC)) - 127.5) / octave
    return Image.fromarray(np.clip(127.5 + total / 2, 0, 255).astype(np.uint8))


def test_an_image_within_the_limit_is_decoded_exactly_as_pillow_does():
    data = encoded(photograph(), "JPEG", quality=90)
    plain = np.asarray(Image.open(io.BytesIO(data)))
    assert (rgb(data, shrink_to=64) == plain).all()


@pytest.mark.parametrize("scale", [2, 4])
def test_a_jpeg_beyond_the_limit_is_decoded_smaller_and_gives_nearly_the_same_square(scale, monkeypatch):
    data = encoded(photograph(), "JPEG", quality=90)
    exact = Image.open(io.BytesIO(data)).resize((96, 64), Image.Resampling.BICUBIC)
    monkeypatch.setattr(decode, "MAX_PIXELS", 900 * 600 // scale**2)
    smaller = read_rgb(data, name="photo", shrink_to=64)
    assert smaller.size == (900 // scale, 600 // scale)
    difference = np.abs(np.asarray(smaller.resize((96, 64), Image.Resampling.BICUBIC)).astype(int) - exact)
    assert difference.mean() < 1
    assert difference.max() < 8


def test_a_large_mpo_is_decoded_smaller_and_rotated(monkeypatch):
    stored = Image.fromarray(np.ascontiguousarray(STORED[6](fields(100))))
    data = encoded(stored, "MPO", save_all=True, append_images=[stored], exif=exif(6), quality=95)
    assert Image.open(io.BytesIO(data)).format == "MPO"
    monkeypatch.setattr(decode, "MAX_PIXELS", 20_000)
    array = rgb(data, shrink_to=40)
    assert array.shape == (100, 150, 3)
    np.testing.assert_allclose(middles(array), COLOURS, atol=6)


def test_a_jpeg_beyond_the_limit_is_refused_if_it_would_be_too_small_or_save_no_memory(monkeypatch):
    image = photograph()
    data = encoded(image, "JPEG")
    monkeypatch.setattr(decode, "MAX_PIXELS", 900 * 600 // 4)
    read_rgb(data, name="photo", shrink_to=150)
    for source, shrink_to in (
        (data, 151),  # half of 600 is less than 2 x 151
        (data, None),
        (encoded(image, "JPEG", progressive=True), 64),
        (one_component_in_the_first_scan(data), 64),
        (encoded(image, "PNG"), 64),
    ):
        assert "900 x 600 pixels: expected at most 135,000" in refusal(source, shrink_to=shrink_to)


def one_component_in_the_first_scan(jpeg: bytes) -> bytes:
    """The header of a baseline JPEG in several scans."""
    place = jpeg.index(b"\xff\xda\0\x0c\x03")
    return jpeg[:place] + b"\xff\xda\0\x08\x01" + jpeg[place + 5 : place + 7] + jpeg[place + 11 :]


# Nothing is printed


def odd_metadata() -> bytes:
    """An intact TIFF with a tag whose data are beyond the end of the file."""
    tags = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: 1, 279: 1}
    data = bytearray(tiff(b"\x63\0", {**tags, 65000: 1_000_000}))
    place = data.rindex(struct.pack("<H", 65000))
    data[place + 2 : place + 8] = struct.pack("<HI", 2, 50)
    return bytes(data)


def test_warnings_about_metadata_are_neither_shown_nor_raised(capfd):
    with pytest.warns(UserWarning, match="Truncated"):
        Image.open(io.BytesIO(odd_metadata())).load()
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        assert rgb(odd_metadata()).tolist() == [[[99, 99, 99]]]
        warnings.simplefilter("error")
        assert rgb(odd_metadata()).tolist() == [[[99, 99, 99]]]
    assert shown == []
    assert capfd.readouterr() == ("", "")


def test_warnings_of_other_libraries_are_shown_as_usual():
    with pytest.warns(UserWarning, match="not Pillow's"), quiet_pillow:
        warnings.warn("not Pillow's", stacklevel=1)


def test_pillow_is_quiet_until_the_last_thread_has_left_and_the_filters_are_then_restored():
    before = list(warnings.filters)
    inside = threading.Barrier(3)

    def enter(leave: threading.Event) -> None:
        with quiet_pillow:
            inside.wait(10)
            leave.wait(10)

    leave = [threading.Event(), threading.Event()]
    threads = [threading.Thread(target=enter, args=(event,)) for event in leave]
    for thread in threads:
        thread.start()
    inside.wait(10)
    quiet = list(warnings.filters)
    assert quiet != before
    for event, thread, expected in zip(leave, threads, (quiet, before), strict=True):
        event.set()
        thread.join(10)
        assert warnings.filters == expected


WITH_PILLOW_ALONE = """
    import sys
    from PIL import Image
    try:
        Image.open(sys.argv[1]).load()
    except Exception:
        pass
"""


@proc_only
def test_nothing_reaches_stderr_where_pillow_and_libtiff_alone_would_print(tmp_path):
    broken = bytearray(encoded(fields(), "TIFF", compression="tiff_adobe_deflate"))
    broken[20:40] = bytes(20)
    files = {
        "damaged": bytes(broken),
        "metadata": odd_metadata(),
        "samples": tiff(bytes(9), {256: 1, 257: 1, 258: 8, 259: 1, 262: 2, 273: 0, 277: 99, 278: 1, 279: 9}),
        "large": BOMBS["PNG of 89 to 179 million pixels, of which Pillow only warns"](),
    }
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        assert child(WITH_PILLOW_ALONE, str(path)).stderr != "", name
        assert child(READ, str(path)).stderr == "", name


# Malicious bytes


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"exif": exif(6)}),
        ("JPEG", {"progressive": True}),
        ("PNG", {"exif": exif(6)}),
        ("GIF", {}),
        ("WEBP", {"exif": exif(6)}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"}),
        ("TIFF", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("MPO", {"save_all": True, "append_images": [Image.new("RGB", (9, 9))]}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "default",
)
def test_changed_bytes_give_an_image_or_a_one_line_error_and_no_output(kind, options, capfd):
    rng = np.random.default_rng(sum(map(ord, kind)))
    sound = encoded(fields(12), kind, **options)
    refused = 0
    for i in range(60):
        data = bytearray(sound)
        # Half of the changes in the first 200 bytes, where the headers are.
        for _ in range(rng.integers(1, 8)):
            data[rng.integers(min(len(data), 200) if i % 2 else len(data))] = rng.integers(256)
        if i % 5 == 0:
            data = data[: rng.integers(len(data))]
        try:
            image = read_rgb(bytes(data), name="photo", shrink_to=16)
        except UnreadableInputError as error:
            message = str(error)
        else:
            message = None
            assert image.mode == "RGB"
        assert message is None or (message.startswith("photo: ") and message.isprintable())
        refused += message is not None
    assert refused > 0
    assert capfd.readouterr() == ("", "")


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("holiday photo (1).jpg", "holiday photo (1).jpg"),
        ("Übung-雪-🐈.jpg", "Übung-雪-🐈.jpg"),
        ("two\nlines.jpg", r"two\nlines.jpg"),
        ("\x1b[2Jcleared.jpg", r"\x1b[2Jcleared.jpg"),
        ("\x9b31mcsi.jpg", r"\x9b31mcsi.jpg"),
        ("gnp.\u202egpj", r"gnp.\u202egpj"),
        ("caf\udce9.jpg", r"caf\udce9.jpg"),
        ("a\u2028b\x00c\x7f", r"a\u2028b\x00c\x7f"),
    ],
)
def test_names_are_printed_on_one_line_and_cannot_control_the_terminal(name, expected):
    assert printable(name) == expected
    assert printable(name).isprintable()
    printable(name).encode()  # always UTF-8
    with pytest.raises(UnreadableInputError) as caught:
        read_rgb(b"", name=name)
    assert str(caught.value) == f"{expected}: empty (0 bytes)"
