"""JPEG 2000 files have the right pixels or are refused."""

from __future__ import annotations

import io
import struct
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, features

from alexnet_infer.decode import FORMATS, read_rgb
from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.formats import RefusedError, jpeg2000
from alexnet_infer.formats.jpeg2000 import Codestream, codestream
from tests.test_decode import COLOURS, fields

needs_jpeg_2000 = pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow has no JPEG 2000")


def rgb(data: bytes) -> np.ndarray:
    return np.asarray(read_rgb(data, name="photo")).astype(int)


def refusal(data: bytes) -> str:
    with pytest.raises(UnreadableInputError) as caught:
        rgb(data)
    assert str(caught.value).isprintable()
    return str(caught.value).removeprefix("photo: ")


# Headers


def stream(width: int, height: int, *channels: tuple[int, int, int], corner: tuple[int, int] = (0, 0)) -> bytes:
    """The header of a codestream. Each channel has bits, and the distance of its samples across and down."""
    size = struct.pack(">H8IH", 0, width, height, *corner, width, height, 0, 0, len(channels))
    size += b"".join(bytes([bits - 1, across, down]) for bits, across, down in channels)
    return b"\xff\x4f\xff\x51" + struct.pack(">H", 2 + len(size)) + size


def box(kind: bytes, content: bytes, long: bool = False) -> bytes:
    if long:
        return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content
    return struct.pack(">I4s", 8 + len(content), kind) + content


def test_the_header_of_a_codestream_is_found_alone_and_in_a_box():
    plain = stream(700, 500, (8, 1, 1), (12, 2, 1), corner=(100, 50))
    expected = Codestream(width=600, height=450, tile=(600, 450), bits=(8, 12), subsampled=True)
    assert codestream(io.BytesIO(plain)) == expected
    decoy = stream(1, 1, (8, 1, 1))
    for long in (False, True):
        before = box(b"jP  ", b"\r\n\x87\n") + box(b"uuid", decoy, long)
        assert codestream(io.BytesIO(before + box(b"jp2c", plain, long))) == expected
        assert codestream(io.BytesIO(before + struct.pack(">I4s", 0, b"jp2c") + plain)) == expected


def test_a_file_without_a_codestream_is_an_error_and_no_endless_search():
    first = box(b"jP  ", b"\r\n\x87\n")
    to_the_end, too_short = (first + struct.pack(">I4s", length, b"uuid") + bytes(9) for length in (0, 7))
    for data in (b"", first, to_the_end, too_short):
        with pytest.raises((ValueError, struct.error)):
            codestream(io.BytesIO(data))


def test_the_header_is_the_one_that_an_encoder_wrote():
    pytest.importorskip("PIL.Jpeg2KImagePlugin")
    for mode, bits in (("RGB", (8, 8, 8)), ("L", (8,)), ("RGBA", (8,) * 4)):
        for plain in (False, True):
            file = io.BytesIO()
            Image.new(mode, (50, 40)).save(file, "JPEG2000", no_jp2=plain)
            assert codestream(file) == Codestream(width=50, height=40, tile=(50, 40), bits=bits, subsampled=False)


# Structure


def coding(
    levels: int = 5, block: int = 6, precinct: int | None = None, layers: int = 1, channel: int | None = None
) -> bytes:
    """The marker segment COD, or COC of a channel. Blocks and precincts are exponents of 2."""
    values = bytes([levels, block - 2, block - 2, 0, 1])
    values += b"" if precinct is None else bytes([17 * precinct] * (levels + 1))
    style = bytes([precinct is not None])
    content = style + struct.pack(">BHB", 0, layers, 0) if channel is None else bytes([channel]) + style
    code = b"\xff\x52" if channel is None else b"\xff\x53"
    return code + struct.pack(">H", 2 + len(content) + len(values)) + content + values


def tile_part(header: bytes, data: bytes = bytes(40)) -> bytes:
    length = 14 + len(header) + len(data)
    return b"\xff\x90" + struct.pack(">HHIBB", 10, 0, length, 0, 1) + header + b"\xff\x93" + data


def picture(side: int, tile: int, *segments: bytes) -> bytes:
    size = stream(side, side, *[(8, 1, 1)] * 3)
    return size[:24] + struct.pack(">II", tile, tile) + size[32:] + b"".join(segments) + b"\xff\xd9"


COSTLY = {
    "tiles": (picture(255, 1, coding()), "in 65,025 tiles (expected at most 8,192)"),
    "a tile": (picture(5000, 5000, coding()), "in tiles of 5000 x 5000 pixels (expected at most 20,833,333)"),
    "precincts": (
        picture(1200, 1200, coding(precinct=1)),
        "blocks per tile of 1200 x 1200 pixels (expected at most 930,880)",
    ),
    "tiny precincts": (picture(1000, 1000, coding(precinct=0, levels=0)), "blocks per tile of 1000 x 1000"),
    "blocks": (picture(3000, 3000, coding(block=2)), "in 1,690,056 blocks"),
    "layers": (picture(1000, 1000, coding(precinct=8, layers=65535)), "packets per tile (expected at most 4,194,304)"),
    "a channel's blocks": (picture(3000, 3000, coding(), coding(block=2, channel=2)), "blocks per tile"),
    "a tile's blocks": (picture(3000, 3000, coding(), tile_part(coding(block=2))), "blocks per tile"),
    "the second tile's": (
        picture(2400, 1200, coding(), tile_part(b""), tile_part(coding(precinct=1))),
        "blocks per tile",
    ),
    "behind an empty part": (picture(3000, 3000, coding(), tile_part(b"", b""), tile_part(coding(block=2))), "blocks"),
}


@needs_jpeg_2000
@pytest.mark.parametrize("kind", COSTLY)
def test_a_jpeg_2000_for_which_openjpeg_would_take_gigabytes_is_refused(kind):
    data, message = COSTLY[kind]
    assert message in refusal(data)
    assert refusal(data).startswith("a JPEG 2000 in ")
    assert refusal(data).endswith("; convert it to PNG first")


@needs_jpeg_2000
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tile_size": (64, 64)},
        {"codeblock_size": (32, 32), "precinct_size": (128, 128)},
        {"quality_layers": [*range(60, 0, -1)], "num_resolutions": 6, "progression": "RPCL"},
    ],
    ids=str,
)
def test_what_encoders_write_is_read(options):
    image = Image.new("RGB", (1200, 900), (200, 100, 50))
    file = io.BytesIO()
    image.save(file, "JPEG2000", **options)
    assert (rgb(file.getvalue())[::100, ::100] == (200, 100, 50)).all()


@needs_jpeg_2000
def test_a_tile_that_is_too_large_is_decoded_at_half_its_size_if_that_is_enough(monkeypatch):
    image = Image.linear_gradient("L").resize((1200, 900)).convert("RGB")
    files = {resolutions: io.BytesIO() for resolutions in (1, 2, 6)}
    for resolutions, file in files.items():
        image.save(file, "JPEG2000", num_resolutions=resolutions)
    monkeypatch.setattr(jpeg2000, "MOST_MEMORY", 8 * 3 * 1200 * 900)
    for resolutions in (2, 6):
        half = read_rgb(files[resolutions].getvalue(), name="photo", shrink_to=225)
        assert half.size == (600, 450)
        assert np.abs(np.asarray(half, float) - np.asarray(image.resize((600, 450)), float)).max() < 4
        for shrink_to in (None, 226):
            with pytest.raises(
                UnreadableInputError, match=r"in [0-9,]+ blocks per tile of 1200 x 900 .* convert it to PNG"
            ):
                read_rgb(files[resolutions].getvalue(), name="photo", shrink_to=shrink_to)
    with pytest.raises(UnreadableInputError, match="a JPEG 2000 in a single resolution; convert it to PNG first"):
        read_rgb(files[1].getvalue(), name="photo", shrink_to=225)


@needs_jpeg_2000
def test_a_jpeg_2000_of_too_many_bytes_is_refused(monkeypatch):
    monkeypatch.setattr(jpeg2000, "MOST_BYTES", 5000)
    assert "a JPEG 2000 of more than 5,000 bytes; convert it" in refusal(picture(8, 8, coding()) + bytes(5000))


@needs_jpeg_2000
def test_any_damage_to_the_headers_is_passed_to_the_decoder_or_refused():
    sound = picture(64, 32, coding(), coding(channel=1), tile_part(coding(precinct=5)), tile_part(b""))
    rng = np.random.default_rng(0)
    for _ in range(2000):
        data = bytearray(sound)
        for place in rng.integers(4, len(data), rng.integers(1, 4)):
            data[place] = rng.choice([0, 1, 255, rng.integers(256)])
        with suppress(RefusedError, ValueError, OverflowError, struct.error, IndexError):
            jpeg2000.check(io.BytesIO(data))


# Samples


def jpeg_2000(image: np.ndarray, bits: int | None = None, step: int = 1) -> bytes:
    """A codestream made by Pillow, whose header then says other bits per sample, or a distance between samples."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG2000", no_jp2=True)
    data = bytearray(stream.getvalue())
    count = int.from_bytes(data[40:42])
    for place in range(42, 42 + 3 * count, 3):
        data[place] = data[place] if bits is None else bits - 1
        data[place + 1] = step
    return bytes(data)


@needs_jpeg_2000
@pytest.mark.parametrize("bits", [1, 4, 7, 9, 12, 16])
def test_a_jpeg_2000_whose_white_would_become_grey_or_black_is_refused(bits):
    message = refusal(jpeg_2000(fields(), bits))
    assert message.startswith(f"a JPEG 2000 of 3 x {bits} bits, which isn't read; convert it to PNG with 8 bits")
    assert (bits < 8) == ("which isn't read" in str_or_pixels(jpeg_2000(fields()[..., 0], bits)))


def str_or_pixels(data: bytes) -> str:
    try:
        return f"{rgb(data).shape}"
    except UnreadableInputError as error:
        return str(error)


@needs_jpeg_2000
def test_subsampled_channels_of_a_jpeg_2000_are_refused():
    assert rgb(jpeg_2000(fields())).shape == (64, 96, 3)
    assert refusal(jpeg_2000(fields(), step=2)).startswith("a JPEG 2000 with subsampled channels")


@needs_jpeg_2000
def test_grey_of_16_bits_in_a_jpeg_2000_keeps_its_upper_byte():
    wide = np.linspace(0, 65535, 64 * 96).reshape(64, 96).astype(np.uint16)
    array = rgb(jpeg_2000(wide))
    assert np.abs(array - (wide / 257)[..., None]).max() <= 1
    assert (array.min(), array.max()) == (0, 255)


@needs_jpeg_2000
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_a_jpeg_2000_of_8_bits_has_the_pixels_of_the_same_png(mode):
    assert "JPEG2000" in FORMATS
    image = Image.fromarray(fields()).convert(mode)
    if "A" in mode:
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    files = {}
    for kind in ("JPEG2000", "PNG"):
        files[kind] = io.BytesIO()
        image.save(files[kind], kind)
    assert np.abs(rgb(files["JPEG2000"].getvalue()) - rgb(files["PNG"].getvalue())).max() <= 1


# Channels and colour spaces


def encoded(image: Image.Image | np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(stream, "JPEG2000", **options)
    return stream.getvalue()


def with_space(data: bytes, number: int) -> bytes:
    """The file with another number of a colour space."""
    place = data.index(b"colr") + 7
    return data[:place] + struct.pack(">I", number) + data[place + 4 :]


@needs_jpeg_2000
def test_colours_of_a_space_that_pillow_would_take_for_rgb_are_refused():
    data = encoded(fields())
    assert (rgb(with_space(data, 16)) == fields()).all()
    for number in (0, 1, 3, 4, 9, 10, 11, 12, 13, 14, 15, 19, 20, 21, 22, 23, 24, 25, 2**32 - 1):
        assert refusal(with_space(data, number)).startswith(
            f"a JPEG 2000 of the colour space {number}, which isn't read"
        )


@needs_jpeg_2000
def test_luma_and_chroma_become_rgb():
    planes = np.asarray(Image.fromarray(fields()).convert("YCbCr"))
    assert np.abs(rgb(with_space(encoded(planes.copy()), 18)) - fields()).max() <= 2


@needs_jpeg_2000
def test_a_colour_profile_says_the_space():
    """Method 2 of the box `colr`: the space is at byte 16 of the profile (ICC.1, 7.2)."""
    data = encoded(fields())
    place = data.index(b"colr")
    for space, read in ((b"RGB ", True), (b"CMYK", False), (b"Lab ", False), (b"\x1b[1m", False)):
        profile = struct.pack(">I", 128) + bytes(12) + space + bytes(108)
        box = struct.pack(">I4s3B", 11 + len(profile), b"colr", 2, 0, 0) + profile
        header = data.index(b"jp2h") - 4
        length = int.from_bytes(data[header : header + 4]) + len(box) - 15
        changed = data[:header] + struct.pack(">I", length) + data[header + 4 : place - 4] + box + data[place + 11 :]
        if read:
            assert (rgb(changed) == fields()).all()
        else:
            assert refusal(changed).startswith("a JPEG 2000 of the colour space ")


@needs_jpeg_2000
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_further_channel_is_transparency_only_if_the_file_says_so(mode):
    data = encoded(Image.fromarray(fields()).convert(mode))
    assert rgb(data).shape == (64, 96, 3)
    last = len(mode) - 1
    entry = struct.pack(">3H", last, 1, 0)
    assert data.count(entry) == 1
    for other in (struct.pack(">3H", last, 2, 0), struct.pack(">3H", last, 65535, 65535)):  # multiplied, unspecified
        assert "not said to be transparency" in refusal(data.replace(entry, other))
    assert "not said to be transparency" in refusal(data.replace(b"cdef", b"free"))
    assert "not said to be transparency" in refusal(encoded(Image.fromarray(fields()).convert(mode), no_jp2=True))


@needs_jpeg_2000
def test_a_palette_is_applied():
    indices = np.arange(6, dtype=np.uint8).reshape(2, 3).repeat(32, 0).repeat(32, 1)
    colours = COLOURS.astype(np.uint8).tobytes()
    header = box(b"ihdr", struct.pack(">IIH4B", 64, 96, 1, 7, 7, 0, 0)) + box(b"colr", struct.pack(">3BI", 1, 0, 0, 16))
    header += box(b"pclr", struct.pack(">H4B", 6, 3, 7, 7, 7) + colours)
    header += box(b"cmap", b"".join(struct.pack(">HBB", 0, 1, column) for column in range(3)))
    data = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ") + box(b"jp2h", header)
    assert (rgb(data + box(b"jp2c", encoded(indices, no_jp2=True))) == fields()).all()
