"""JPEGs whose structure would take long to decode are refused at once. The thumbnails inside them don't count."""

from __future__ import annotations

import io
import random
import struct
import time
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.decode import read_rgb
from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.formats import RefusedError, jpeg

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
SCAN = b"\xff\xda\0\x08\1\1\0\1\x3f\0"
"""The header of a scan of the first component, without data."""
SEVERAL = b"\xff\xda\0\x08\1\1\0\0\x3f\0"
"""The same in a baseline JPEG."""


def encoded(image: Image.Image = NOISE, kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def segment(code: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(content) + 2) + content


PROGRESSIVE, BASELINE = encoded(progressive=True), encoded()
MPO = encoded(kind="MPO", progressive=True, save_all=True, append_images=[NOISE])


def with_scans(scan: bytes, count: int, jpeg: bytes = PROGRESSIVE) -> bytes:
    return jpeg[:-2] + scan * count + b"\xff\xd9"


def in_several_scans(jpeg: bytes) -> bytes:
    """A baseline JPEG whose first scan has one component."""
    return jpeg.replace(b"\xff\xda\0\x0c\3\1\0\2\x11\3\x11", b"\xff\xda\0\x08\1\1\0", 1)


def refusal(data: bytes) -> str:
    with pytest.raises(UnreadableInputError) as caught:
        read_rgb(data, name="photo")
    return str(caught.value)


HIDDEN = {
    "scans without data": with_scans(SCAN, 20_000),
    "scans with data": with_scans(SCAN + b"\x55\xff\0\x55", 20_000),
    "tables before each scan": with_scans(segment(0xC4, b"\0" + b"\0" * 16) + SCAN, 2000),
    "fill bytes": with_scans(b"\xff" * 9 + SCAN, 5000),
    "garbage between scans": with_scans(SCAN + b"garbage", 5000),
    "restarts between scans": with_scans(SCAN + b"\xff\xd0\xff\xd7", 5000),
    "a long garbage before them": PROGRESSIVE[:2] + segment(0xFE, b"") + b"x" * 9000 + with_scans(SCAN, 5000)[2:],
    "long fill bytes": with_scans(b"\xff" * 2**16 + SCAN, 301),
    "behind a marker without a length": with_scans(b"\xff\x02\xff\xff" + SCAN * 2000, 9),
    "behind a marker of its own": with_scans(b"\xff\x01" + SCAN, 5000),
    "baseline": with_scans(SEVERAL, 5000, in_several_scans(BASELINE)),
    "MPO": MPO.replace(b"\xff\xd9", SCAN * 5000 + b"\xff\xd9", 1),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_a_jpeg_of_thousands_of_scans_is_refused_at_once_however_they_are_stored(kind):
    started = time.process_time()
    assert refusal(HIDDEN[kind]) == (
        "photo: a JPEG of 64 x 48 pixels in more than 300 scans, which takes too long to decode; save it again"
    )
    assert time.process_time() - started < 10


def test_as_many_scans_as_programs_write_are_read():
    scans = PROGRESSIVE.count(b"\xff\xda")
    assert read_rgb(with_scans(SCAN, 300 - scans), name="photo").size == (64, 48)
    assert "more than 300 scans" in refusal(with_scans(SCAN, 301 - scans))


def test_the_number_of_scans_that_are_read_falls_with_the_number_of_pixels():
    def large(side: int, scans: int) -> bytes:
        data = with_scans(SCAN, scans - PROGRESSIVE.count(b"\xff\xda"))
        place = data.index(b"\xff\xc2") + 5
        return data[:place] + struct.pack(">HH", side, side) + data[place + 4 :]

    for side, most in ((1500, 300), (3000, 119), (5700, 33), (60_000, 32)):
        assert jpeg.check(io.BytesIO(large(side, most))) is False
        with pytest.raises(RefusedError, match=f"{side} x {side} pixels in more than {most} scans"):
            jpeg.check(io.BytesIO(large(side, most + 1)))


def test_scans_in_thumbnails_and_behind_the_end_do_not_count():
    thumbnail = with_scans(SCAN, 500)
    for code, head in ((0xE1, b"Exif\0\0"), (0xE2, b"ICC_PROFILE\0\1\1"), (0xFE, b"")):
        data = PROGRESSIVE[:2] + segment(code, head + thumbnail) + PROGRESSIVE[2:]
        assert read_rgb(data, name="photo", apply_exif=False).size == (64, 48)
    assert read_rgb(PROGRESSIVE + SCAN * 5000, name="photo").size == (64, 48)


def test_only_a_sequential_jpeg_with_all_components_in_its_first_scan_is_decoded_as_a_stream():
    for options in ({}, {"subsampling": 0}, {"restart_marker_blocks": 1}, {"optimize": True}):
        assert jpeg.check(io.BytesIO(encoded(**options)))
    assert jpeg.check(io.BytesIO(encoded(NOISE.convert("L"))))
    assert jpeg.check(io.BytesIO(encoded(NOISE.convert("CMYK"))))
    assert not jpeg.check(io.BytesIO(PROGRESSIVE))
    assert not jpeg.check(io.BytesIO(encoded(NOISE.convert("L"), progressive=True)))
    assert not jpeg.check(io.BytesIO(in_several_scans(BASELINE)))


def test_markers_are_found_across_the_borders_of_blocks(monkeypatch):
    monkeypatch.setattr(jpeg, "MOST_SCANS", 30)
    filling = b"\x55" * (2**16 - 2)
    for shift in range(8):
        data = with_scans(SCAN + filling[shift:], 31)
        with pytest.raises(RefusedError, match="more than 30 scans"):
            jpeg.check(io.BytesIO(data))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (segment(0xFE, b"") * 5001, "more than 5,000 segments"),
        (segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 17, "more than 16 segments of EXIF"),
        (segment(0xE2, b"x"), None),
        (segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 16, None),
    ],
    ids=["segments", "EXIF", "one segment", "as much EXIF as is read"],
)
def test_segments_that_pillow_reads_in_quadratic_time_are_limited(content, message):
    data = BASELINE[:2] + content + BASELINE[2:]
    if message is None:
        assert read_rgb(data, name="photo", apply_exif=False).size == (64, 48)
    else:
        assert message in refusal(data)


def test_any_damage_is_passed_to_the_decoder_or_refused():
    rng = random.Random(0)
    for _ in range(2000):
        data = bytearray(rng.choice((PROGRESSIVE, BASELINE)))
        for _ in range(rng.choice((1, 5))):
            data[rng.randrange(len(data))] = rng.choice((0, 255, 0xDA, 0xC0, rng.randrange(256)))
        with suppress(RefusedError):
            assert jpeg.check(io.BytesIO(data[: rng.randrange(len(data))])) in (True, False)
