"""TIFFs of every kind are decoded to the right pixels or refused, never to others.

`tests.tiffs` writes the files. The right pixels are known before they are written.
"""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.decode import read_rgb
from alexnet_infer.errors import UnreadableInputError
from tests.formats.tiffs import DEFLATE, tiff

HEIGHT, WIDTH = 37, 45
Y, X = np.mgrid[:HEIGHT, :WIDTH]
COLOURS = np.clip(np.dstack([X / 40, Y / 33, (X + Y) / 80]) * 1.1 - 0.05, 0, 1)
"""Three channels from 0 to 1, in which black and white occur."""
GREY = COLOURS[..., 2:]
ALPHA = np.broadcast_to(X[..., None] / (WIDTH - 1), (HEIGHT, WIDTH, 1))

LAYOUTS = [
    {"order": order, "planar": planar, "compression": compression, "tile": tile, "rows": rows}
    for order, planar, compression in itertools.product("<>", (1, 2), (1, DEFLATE))
    for tile, rows in ((None, None), (None, 10), ((16, 32), None))
]
PLAIN = {"order": "<", "planar": 1, "compression": 1, "tile": None, "rows": None}


def stored(values: np.ndarray, bits: int) -> np.ndarray:
    return np.rint(values * (2**bits - 1)).astype(np.int64)


def white_is_zero(values: np.ndarray, bits: int) -> np.ndarray:
    return 2**bits - 1 - stored(values, bits)


def palette(bits: int, unit: int = 257) -> list[int]:
    steps = np.arange(2**bits) * 255 // (2**bits - 1) * unit
    return [*map(int, steps), *map(int, 255 * unit - steps), *map(int, steps // 2)]


def painted(bits: int) -> np.ndarray:
    index = stored(GREY, bits)[..., 0]
    return np.moveaxis(np.array(palette(bits)).reshape(3, -1)[:, index], 0, -1) / 65535


OVER_WHITE = COLOURS * ALPHA + 1 - ALPHA
INKS = np.dstack([1 - COLOURS, GREY * 0.4])
INKS_ON_PAPER = (1 - INKS[..., :3]) * (1 - INKS[..., 3:])

# Kind -> samples, photometric interpretation, bits, further tags, and the right pixels from 0 to 1 (or None).
READ = {
    **{f"{b}-bit grey": (stored(GREY, b), 1, b, {}, stored(GREY, b) / (2**b - 1)) for b in (1, 2, 4, 8, 12, 16)},
    **{
        f"{b}-bit grey, white is zero": (white_is_zero(GREY, b), 0, b, {}, stored(GREY, b) / (2**b - 1))
        for b in (1, 2, 4, 8, 16)
    },
    **{f"{b}-bit palette": (stored(GREY, b), 3, b, {320: palette(b)}, painted(b)) for b in (1, 2, 4, 8)},
    **{f"{b}-bit RGB": (stored(COLOURS, b), 2, b, {}, COLOURS) for b in (8, 16)},
    **{f"{b}-bit CMYK": (stored(INKS, b), 5, b, {}, INKS_ON_PAPER) for b in (8, 16)},
    **{
        f"{b}-bit RGB and alpha": (stored(np.dstack([COLOURS, ALPHA]), b), 2, b, {338: [2]}, OVER_WHITE)
        for b in (8, 16)
    },
    **{
        f"{b}-bit RGB multiplied by alpha": (
            stored(np.dstack([COLOURS * ALPHA, ALPHA]), b),
            *(2, b, {338: [1]}, OVER_WHITE),
        )
        for b in (8, 16)
    },
    "8-bit RGB and an unknown channel": (stored(np.dstack([COLOURS, ALPHA]), 8), 2, 8, {338: [0]}, COLOURS),
    "8-bit grey and alpha": (stored(np.dstack([GREY, ALPHA]), 8), 1, 8, {338: [2]}, GREY * ALPHA + 1 - ALPHA),
}
OTHER = {
    **{f"{b}-bit grey": (stored(GREY, b), 1, b, {}, GREY) for b in (3, 6, 10, 14, 24, 32)},
    **{f"{b}-bit grey, white is zero": (white_is_zero(GREY, b), 0, b, {}, GREY) for b in (6, 10, 12, 14, 24, 32)},
    **{f"{b}-bit RGB": (stored(COLOURS, b), 2, b, {}, COLOURS) for b in (2, 4, 5, 10, 12, 32)},
    **{f"signed {b}-bit grey": (stored(GREY, b) - 2 ** (b - 1), 1, b, {339: [2]}, GREY) for b in (8, 16, 32)},
    **{f"signed {b}-bit RGB": (stored(COLOURS, b) - 2 ** (b - 1), 2, b, {339: [2] * 3}, COLOURS) for b in (8, 16)},
    **{f"{b}-bit floats": (GREY.astype(f"f{b // 8}"), 1, b, {339: [3]}, GREY) for b in (16, 32, 64)},
    **{f"{b}-bit palette of 8-bit colours": (stored(GREY, b), 3, b, {320: palette(b, 1)}, painted(b)) for b in (4, 8)},
    **{
        f"{b}-bit grey and {name}": (stored(np.dstack([GREY, ALPHA]), b), photometric, b, {338: [extra]}, right)
        for b in (8, 16)
        for extra, name, over in ((0, "an unknown channel", GREY), (2, "alpha", GREY * ALPHA + 1 - ALPHA))
        for photometric, right in ((1, over),)
    },
    "grey multiplied by alpha": (
        stored(np.dstack([GREY * ALPHA, ALPHA]), 8),
        *(1, 8, {338: [1]}, GREY * ALPHA + 1 - ALPHA),
    ),
    "CMYK and alpha": (stored(np.dstack([INKS, ALPHA]), 8), 5, 8, {338: [2]}, INKS_ON_PAPER * ALPHA + 1 - ALPHA),
    "other inks": (stored(INKS, 8), 5, 8, {332: 2}, None),
    "no PhotometricInterpretation": (stored(GREY, 8), None, 8, {262: None}, GREY),
    "a transparency mask": (stored(GREY, 1), 4, 1, {254: 4}, None),
    "YCbCr": (
        np.asarray(Image.fromarray(stored(COLOURS, 8).astype(np.uint8)).convert("YCbCr")).astype(int),
        *(6, 8, {530: [1, 1]}, stored(COLOURS, 8) / 255),
    ),
}


def read(data: bytes) -> np.ndarray:
    return np.asarray(read_rgb(data, name="photo")).astype(float)


def read_or_refused(data: bytes) -> np.ndarray | None:
    try:
        return read(data)
    except UnreadableInputError:
        return None


def refusal(data: bytes) -> str:
    with pytest.raises(UnreadableInputError) as caught:
        read(data)
    message = str(caught.value)
    assert message.isprintable()
    return message.removeprefix("photo: ")


def files(kind: tuple, **more) -> Iterator[tuple[dict, bytes]]:
    samples, photometric, bits, tags, _ = kind
    for layout in LAYOUTS:
        yield layout, tiff(samples, photometric or 0, bits, tags=tags, **layout, **more)


def check(data: bytes, right: np.ndarray, what: object) -> None:
    compare(read(data), right, what)


def compare(array: np.ndarray, right: np.ndarray | None, what: object) -> None:
    # Three levels: 16-bit channels lose their lower byte before alpha and black are applied, YCbCr is rounded.
    assert right is not None, what
    assert array.shape == (HEIGHT, WIDTH, 3), what
    assert np.abs(array - 255 * right).max() <= 3, what


@pytest.mark.parametrize("name", READ)
def test_the_kinds_that_programs_write_have_the_right_pixels(name):
    samples, photometric, bits, tags, right = READ[name]
    check(tiff(samples, photometric, bits, tags=tags, **PLAIN), right, name)
    # 16-bit grey keeps its upper byte, and other grey is exact.
    if samples.shape[2] == 1 and photometric in (0, 1):
        exact = np.abs(read(tiff(samples, photometric, bits, tags=tags)) - 255 * right).max()
        assert exact <= (1 if bits > 8 else 0.001)


@pytest.mark.parametrize("name", READ)
def test_every_layout_has_the_right_pixels_or_is_refused(name):
    right, decoded = READ[name][-1], 0
    for layout, data in files(READ[name]):
        if (array := read_or_refused(data)) is not None:
            compare(array, right, layout)
            decoded += 1
    assert decoded >= 3


@pytest.mark.parametrize("name", OTHER)
def test_rare_kinds_have_the_right_pixels_or_are_refused_in_every_layout(name):
    for layout, data in files(OTHER[name]):
        if (array := read_or_refused(data)) is not None:
            compare(array, OTHER[name][-1], layout)


@pytest.mark.parametrize("name", READ | OTHER)
def test_reversed_bits_have_the_right_pixels_or_are_refused(name):
    kind = (READ | OTHER)[name]
    for layout, data in files(kind, fill=2):
        if (array := read_or_refused(data)) is not None:
            compare(array, kind[-1], layout)


@pytest.mark.parametrize(("bits", "photometric"), [(8, 1), (16, 1), (16, 0), (8, 2), (16, 2)])
def test_a_predictor_is_undone_and_one_without_compression_is_refused(bits, photometric):
    values = COLOURS if photometric == 2 else GREY
    samples = white_is_zero(values, bits) if photometric == 0 else stored(values, bits)
    check(tiff(samples, photometric, bits, compression=DEFLATE, predictor=2), values, bits)
    assert "a predictor but no compression" in refusal(tiff(samples, photometric, bits, predictor=2))


@pytest.mark.parametrize(
    ("name", "layout", "expected"),
    [
        ("signed 8-bit grey", {}, "a TIFF with signed samples"),
        ("32-bit floats", {}, "a TIFF with floating-point samples"),
        ("32-bit grey", {}, "a TIFF with 32-bit samples"),
        ("other inks", {}, "a TIFF with inks other than CMYK"),
        ("8-bit palette of 8-bit colours", {}, "a TIFF with a palette of 8 instead of 16 bits"),
        ("YCbCr", {}, "a TIFF with uncompressed YCbCr"),
        ("10-bit grey", {}, "a TIFF of a kind that isn't read (1 x 10 bits, PhotometricInterpretation 1)"),
        ("5-bit RGB", {}, "a TIFF of a kind that isn't read (3 x 5 bits, PhotometricInterpretation 2)"),
        ("a transparency mask", {}, "a TIFF whose first image is a transparency mask"),
    ],
)
def test_the_message_says_what_is_not_read_and_the_fix(name, layout, expected):
    samples, photometric, bits, tags, _ = OTHER[name]
    message = refusal(tiff(samples, photometric or 0, bits, tags=tags, **layout))
    assert message.startswith(expected)
    assert "; save it as PNG" in message or "; convert it to JPEG" in message


def test_a_tiff_that_does_not_say_what_its_samples_are_is_refused_unless_it_is_a_fax():
    samples, _, bits, tags, _ = OTHER["no PhotometricInterpretation"]
    assert refusal(tiff(samples, 0, bits, tags=tags)) == (
        "damaged, incomplete or unsupported (a TIFF without PhotometricInterpretation)"
    )
    stream = io.BytesIO()
    Image.fromarray(GREY[..., 0] > 0.5).save(stream, "TIFF", compression="group4")
    tag = struct.pack("<HHI", 262, 3, 1)
    assert tag in stream.getvalue()
    without = stream.getvalue().replace(tag, struct.pack("<HHI", 263, 3, 1))  # 263: the scanner's threshold
    # Zero is white in a fax. Pillow writes the opposite.
    compare(read(without), np.repeat(GREY <= 0.5, 3, 2), "a fax")


def test_planes_of_16_bits_are_refused_uncompressed_and_read_compressed():
    samples = stored(COLOURS, 16)
    assert "separate planes of 16-bit samples" in refusal(tiff(samples, 2, 16, planar=2))
    check(tiff(samples, 2, 16, planar=2, compression=DEFLATE), COLOURS, "deflate")
    check(tiff(stored(COLOURS, 8), 2, 8, planar=2), COLOURS, "8 bits")


def test_cielab_is_converted():
    """Reds, greens and blues by the formula of CIE 15 with the white point D50, in sRGB."""
    for lab, rgb in (((60, 40, 20), (215, 114, 112)), ((70, -30, 30), (127, 185, 114)), ((50, 0, 0), (119, 119, 119))):
        samples = np.array([[[round(lab[0] * 2.55), *lab[1:]]]])
        assert np.abs(read(tiff(samples, 8, 8))[0, 0] - rgb).max() <= 1


# Thumbnails


def with_directory(data: bytes, width: int, height: int) -> bytes:
    """The TIFF with a sub-directory of this size. Its tag 330 must be there, and its value is filled in."""
    entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (278, height), (279, 1)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    place = data.index(struct.pack("<HHI", 330, 4, 1)) + 8
    start = struct.pack("<I", len(data))
    return data[:place] + start + data[place + 4 :] + struct.pack("<H", len(entries)) + directory + bytes(4)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({50706: 0x00000401}, "a camera's raw file (DNG), which isn't read; convert it to JPEG first"),
        ({50706: 0x00000401, 254: 1}, "a camera's raw file (DNG)"),
        ({254: 1}, "a TIFF whose first image is a thumbnail, as in a camera's raw file; convert it to JPEG first"),
        ({255: 2}, "a TIFF whose first image is a thumbnail"),
        ({254: 4}, "a TIFF whose first image is a transparency mask"),
    ],
)
@pytest.mark.parametrize("compression", [1, DEFLATE])
def test_a_raw_file_is_not_classified_by_its_thumbnail(tags, expected, compression):
    samples = stored(COLOURS, 8)
    assert refusal(tiff(samples, 2, tags=tags, compression=compression)).startswith(expected)


def test_a_raw_file_that_pillow_cannot_open_is_named_as_well():
    """Photometric interpretation 32803: samples behind a colour filter."""
    assert refusal(tiff(stored(GREY, 16), 32803, 16, tags={50706: 1})).startswith("a camera's raw file (DNG)")
    assert "PhotometricInterpretation 32803" in refusal(tiff(stored(GREY, 16), 32803, 16))


def test_a_canon_raw_file_is_named():
    data = tiff(stored(COLOURS, 8), 2)
    moved = bytearray(b"II*\0" + struct.pack("<I", len(data)) + b"CR\2\0" + data[12:])
    directory = struct.unpack_from("<I", data, 4)[0]
    assert refusal(bytes(moved) + data[directory:]).startswith("a camera's raw file (CR2)")


def test_an_image_that_is_smaller_than_one_of_its_sub_directories_is_a_thumbnail():
    data = tiff(stored(COLOURS, 8), 2, tags={330: 0})
    assert refusal(with_directory(data, 6000, 4000)).startswith(
        f"a TIFF whose first image is a thumbnail ({WIDTH} x {HEIGHT} pixels); convert"
    )
    check(with_directory(data, WIDTH // 2, HEIGHT // 2), COLOURS, "a pyramid, whose smaller levels are below")


def test_a_pillow_image_of_the_caller_is_checked_as_a_file_is():
    signed = tiff(stored(GREY, 8) - 128, 1, tags={339: [2]})
    with pytest.raises(UnreadableInputError, match="signed samples"):
        read_rgb(Image.open(io.BytesIO(signed)), name="photo")
    white = Image.open(io.BytesIO(tiff(white_is_zero(GREY, 16), 0, 16)))
    for _ in range(2):  # the second time, it is decoded already
        assert np.abs(np.asarray(read_rgb(white, name="photo")) - 255 * GREY).max() <= 1


# Damage


def test_a_tiff_that_is_damaged_at_its_start_is_called_so():
    data = tiff(stored(COLOURS, 8), 2)
    for damaged in (data[:8], data[:-200], data[:4] + bytes(4) + data[8:], b"II*\0", b"MM\0*garbage and more"):
        assert "damaged" in refusal(damaged)
    assert refusal(b"II*\0") == "a TIFF that is damaged at its start"


def directory(entries: list[tuple[int, int, int, int]], big: bool = False, more: bytes = b"") -> bytes:
    """A TIFF of nothing but a directory of (tag, type, number of values, offset), and bytes to which it may refer."""
    if big:
        head = b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, len(entries))
        return head + b"".join(struct.pack("<HHQQ", *entry) for entry in entries) + bytes(8) + more
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4) + more


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (directory([(273, 4, 200_000, 0)], more=bytes(800_000)), "a tag of 200,000 numbers: expected at most 131,072"),
        (directory([(999, 6, 200_000, 0)], more=bytes(800_000)), "a tag of 200,000 numbers: expected at most 131,072"),
        (directory([(i, 2, 90_000, 0) for i in range(900)], more=bytes(90_000)), "tags that share their values"),
        (directory([], True)[:16] + struct.pack("<Q", 70_000) + bytes(99), "a directory of 70,000 tags"),
        (directory([(i, 1, 9**5, 0) for i in range(40)], True, bytes(9**5)), "tags that share their values"),
    ],
    ids=["strips", "signed bytes", "shared values", "tags", "shared values of a BigTIFF"],
)
@pytest.mark.parametrize("place", ["TIFF", "EXIF of a JPEG"])
def test_a_directory_that_takes_more_than_its_file_is_refused_at_once(data, message, place):
    if place == "TIFF":
        assert refusal(data).startswith(f"damaged ({message}")
    elif len(data) < 65_000:
        jpeg = io.BytesIO()
        Image.new("RGB", (8, 8)).save(jpeg, "JPEG", exif=b"Exif\0\0" + data)
        assert message in refusal(jpeg.getvalue())


def test_values_that_are_not_in_the_file_do_not_count():
    for data in (tiff(stored(COLOURS, 8), 2, tags={65000: 7}), tiff(stored(COLOURS, 8), 2, order=">", tags={65000: 7})):
        place = data.rindex(struct.pack("<H" if data[0] == 73 else ">H", 65000))
        claims = struct.pack("<HII" if data[0] == 73 else ">HII", 2, 2**31, 10)
        check(data[: place + 2] + claims + data[place + 12 :], COLOURS, "a tag of 2 GB")


def test_a_tall_tiff_of_one_row_per_strip_is_read():
    count = 60_000
    entries = [(256, 4, 1, 2), (257, 4, 1, count), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    entries += [(278, 4, 1, 1), (279, 4, count, 1000), (273, 4, count, 1000 + 4 * count)]
    begin = 1000 + 8 * count
    offsets = np.arange(begin, begin + 2 * count, 2, "<u4")
    data = directory(sorted(entries)).ljust(1000, b"\0") + np.full(count, 2, "<u4").tobytes() + offsets.tobytes()
    image = read_rgb(data + bytes(range(256)) * (count // 128 + 1), name="photo")
    assert image.size == (2, count)
    assert [image.getpixel((1, y))[0] for y in (0, 1, 130)] == [1, 3, 5]


def test_a_tag_of_odd_type_is_shown_on_one_line():
    data = bytearray(tiff(stored(COLOURS, 8), 2))
    place = data.rindex(struct.pack("<H", 262))
    data[place + 2 : place + 12] = struct.pack("<HI4s", 7, 4, b"\x1b[2J")
    assert refusal(bytes(data)).isprintable()


def test_a_big_endian_bigtiff_is_named():
    assert refusal(b"MM\0+\0\x08\0\0" + struct.pack(">Q", 16) + bytes(50))


@pytest.mark.parametrize("value", [0, 1, 2, 3, 4, 2**16, 2**31, 2**32 - 1])
@pytest.mark.parametrize("tag", [254, 255, 258, 262, 277, 284, 317, 320, 330, 332, 339, 50706])
def test_no_value_of_a_tag_that_is_checked_gives_an_error_of_another_type(tag, value):
    for listed in (value, [value] * 3):
        data = tiff(stored(COLOURS, 8), 2, tags={tag: listed if tag not in (258, 320, 339) else value % 2**16})
        read_or_refused(data)
