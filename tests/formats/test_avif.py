"""The size of an AVIF's pictures is that of its streams, whatever its header says."""

from __future__ import annotations

import io
import random
import struct
from contextlib import suppress

import pytest
from PIL import Image, features

from alexnet_infer import decode
from alexnet_infer.decode import read_rgb
from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.formats import RefusedError, avif

pytestmark = pytest.mark.skipif(
    "AVIF" not in decode.FORMATS or not features.check("avif"), reason="this Pillow has no AVIF"
)


def encoded(mode: str, size: tuple[int, int], **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, "AVIF", speed=10, **options)
    return stream.getvalue()


def pixels(data: bytes) -> int:
    return avif._File(memoryview(data)).pixels()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"subsampling": "4:4:4"},
        {"range": "limited"},
        {"autotiling": False, "tile_rows": 1, "tile_cols": 1},
        {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0", "icc_profile": b"x" * 200},
    ],
    ids=str,
)
def test_the_pixels_are_those_of_colour_and_transparency(options):
    for size in ((300, 17), (1, 1), (64, 48)):
        for mode, pictures in (("L", 1), ("RGB", 1), ("RGBA", 2)):
            assert pixels(encoded(mode, size, **options)) == pictures * size[0] * size[1], (size, mode)


def test_one_frame_of_an_animation_counts():
    for mode, pictures in (("RGB", 1), ("RGBA", 2)):
        data = encoded(mode, (300, 17), save_all=True, append_images=[Image.new(mode, (300, 17), "red")] * 3)
        assert pixels(data) == pictures * 300 * 17


def hidden(width: int, height: int) -> bytes:
    """An AVIF whose stream has this size, and whose header says 64 x 64."""
    data = encoded("L", (width, height))
    place = data.index(b"ispe") + 8
    return data[:place] + struct.pack(">II", 64, 64) + data[place + 8 :]


def test_a_stream_of_more_pixels_than_the_header_says_is_refused(monkeypatch):
    data = hidden(800, 500)
    assert read_rgb(encoded("L", (800, 500)), name="photo").size == (800, 500)
    monkeypatch.setattr(avif, "MOST_PIXELS", 800 * 500 - 1)
    with pytest.raises(
        UnreadableInputError, match="an AVIF whose pictures have 400,000 pixels: expected at most 399,999"
    ):
        read_rgb(data, name="photo")


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


START = box(b"ftyp", b"avif" + bytes(4) + b"avifmif1")


def track(*chunks: bytes, kind: bytes = b"stco", size: bytes | None = None) -> bytes:
    """A box `moov` with a track. Its chunks' offsets and its frames' sizes have the contents of the boxes' kinds."""
    content = b"".join(box(kind, chunk) for chunk in chunks) + (b"" if size is None else box(b"stsz", size))
    for outer in (b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        content = box(outer, content)
    return content


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (b"stco", None),
        (b"stco", struct.pack(">IIII", 0, 0, 2, 300_000)),
        (b"stco", struct.pack(">III", 0, 300_000, 2)),
        (b"co64", None),
    ],
)
def test_the_size_of_a_track_is_found_behind_any_padding(kind, size):
    unit = encoded("L", (800, 500))
    unit = unit[unit.index(b"\x0a", unit.index(b"mdat")) :]
    frame = b"\x7a" + bytes([200_000 & 127 | 128, 200_000 >> 7 & 127 | 128, 200_000 >> 14]) + bytes(200_000) + unit
    form = ">IIQ" if kind == b"co64" else ">III"
    begin = len(START) + len(track(struct.pack(form, 0, 1, 0), kind=kind, size=size))
    assert pixels(START + track(struct.pack(form, 0, 1, begin), kind=kind, size=size) + frame) == 800 * 500


@pytest.mark.parametrize(
    "content",
    [
        box(b"free", b"") * 120_000,
        box(b"meta", bytes(4) + box(b"iloc", b"\0\0\0\0\0\0\xff\xff" + b"\0\1\0\0\xff\xff" * 60_000)),
        box(b"meta", bytes(4) + box(b"iinf", b"\0\0\0\0\xff\xff" + box(b"infe", b"\2\0\0\0\0\1\0\0av01") * 110_000)),
        track(struct.pack(">III", 0, 1, len(START) + 4 * 60)) * 4 + b"\x12\0" * 60_000,
    ],
    ids=["boxes", "extents", "items", "units"],
)
def test_a_file_of_too_many_parts_is_refused(content):
    with pytest.raises(RefusedError, match="an AVIF of more than 100,000 parts"):
        avif.check(io.BytesIO(START + content))


def test_pictures_that_share_their_bytes_are_refused():
    entries = b"".join(struct.pack(">HHHII", i, 0, 1, 0, 0) for i in range(900))
    names = b"".join(box(b"infe", b"\2\0\0\0" + struct.pack(">HH", i, 0) + b"av01") for i in range(900))
    items = box(b"iinf", b"\0\0\0\0" + struct.pack(">H", 900) + names)
    places = box(b"iloc", b"\0\0\0\0\x44\0" + struct.pack(">H", 900) + entries)
    with pytest.raises(RefusedError, match="share their bytes"):
        avif.check(io.BytesIO(START + box(b"meta", bytes(4) + items + places) + bytes(9)))


def test_any_damage_is_passed_to_the_decoder_or_refused():
    rng = random.Random(0)
    files = [
        encoded("RGBA", (20, 10)),
        encoded("RGB", (20, 10), save_all=True, append_images=[Image.new("RGB", (20, 10))]),
    ]
    for _ in range(2000):
        data = bytearray(rng.choice(files))
        for _ in range(rng.choice((1, 5))):
            data[rng.randrange(min(len(data), 900))] = rng.choice((0, 1, 255, rng.randrange(256)))
        with suppress(RefusedError):
            avif.check(io.BytesIO(data[: rng.choice((len(data), rng.randrange(len(data))))]))
