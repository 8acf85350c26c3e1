"""PPM files of the kinds that Pillow decodes slowly: the same pixels as Pillow's, quickly."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.decode import read_rgb
from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.formats import netpbm


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(read_rgb(data, name="photo"))


def by_pillow(data: bytes) -> np.ndarray:
    """Pillow's pixels, grey of more than 8 bits scaled as 16 bits are."""
    image = Image.open(io.BytesIO(data))
    assert netpbm.is_slow(image)
    image.load()
    if image.mode == "I":
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.asarray(image.convert("RGB"))


def binary(kind: str, maximum: int, width: int = 37, height: int = 29) -> bytes:
    rng = np.random.default_rng(maximum)
    values = rng.integers(0, min(2 * maximum, 65536), width * height * (3 if kind == "P6" else 1))
    values = values.astype(">u2" if maximum > 255 else np.uint8)  # some are above the maximum
    return f"{kind} {width} {height} {maximum}\n".encode() + values.tobytes()


def text(kind: str, maximum: int, between: bytes = b" ", width: int = 17, height: int = 11) -> bytes:
    rng = np.random.default_rng(maximum)
    values = rng.integers(0, maximum + 1, width * height * (3 if kind == "P3" else 1))
    head = f"{kind} {width} {height}" + (f" {maximum}" if kind != "P1" else "")
    return head.encode() + b"\n" + between.join(str(value).encode() for value in values) + b"\n"


@pytest.mark.parametrize("maximum", [1, 7, 100, 254, 256, 1023, 4095, 65534])
@pytest.mark.parametrize("kind", ["P5", "P6"])
def test_binary_values_of_any_maximum_are_scaled_as_by_pillow(kind, maximum):
    data = binary(kind, maximum)
    assert (pixels(data) == by_pillow(data)).all()


def test_colour_of_16_bits_keeps_8_of_them():
    data = binary("P6", 65535)
    assert (pixels(data) == by_pillow(data)).all()


@pytest.mark.parametrize("between", [b" ", b"\n", b"\t \r\n ", b"\v", b" # a comment, 1 2 3\n", b"\n#\r"], ids=repr)
@pytest.mark.parametrize(("kind", "maximum"), [("P1", 1), ("P2", 9), ("P2", 255), ("P2", 999), ("P3", 255), ("P3", 31)])
def test_text_is_read_as_by_pillow(kind, maximum, between):
    data = text(kind, maximum, between)
    assert (pixels(data) == by_pillow(data)).all()


def test_bits_need_no_space_between_them():
    assert pixels(b"P1 4 2\n0110#x\n10 01")[..., 0].tolist() == [[255, 0, 0, 255], [0, 255, 255, 0]]


@pytest.mark.parametrize("kind", ["P1", "P2"])
def test_numbers_and_comments_across_the_borders_of_blocks_are_joined(kind, monkeypatch):
    data = text(kind, 1 if kind == "P1" else 255, b" # a comment of some length\n  ")
    expected = pixels(data)
    for block in (1, 2, 3, 7, 30):
        monkeypatch.setattr(netpbm, "_BLOCK", block)
        assert (pixels(data) == expected).all()


@pytest.mark.parametrize(
    "data",
    [
        b"P3 2 1 255\n1 2 3 4 5",
        b"P3 2 1 255\n1 2 3 4 5 256",
        b"P3 2 1 255\n1 2 3 4 5 -6",
        b"P3 2 1 255\n1 2 3 4 5 6_0",
        b"P3 2 1 255\n1 2 3 4 5 x",
        b"P3 2 1 255\n1 2 3 4 5 " + b"9" * 9000,
        b"P3 2 1 255\n1 2 3 4 5 " + b"9" * 30,
        b"P1 2 1\n02",
        b"P1 2 1\n0 # 1",
        b"P6 2 1 99\n12345",
        b"P6 2 1 999\n12345678901",
        b"P5 60000 500 999\n1",
    ],
    ids=repr,
)
def test_damaged_values_are_refused(data):
    with pytest.raises(UnreadableInputError, match="photo: damaged") as caught:
        pixels(data)
    assert str(caught.value).isprintable()


def test_too_many_numbers_in_text_are_refused(monkeypatch):
    monkeypatch.setattr(netpbm, "MOST_NUMBERS", 12)
    assert pixels(b"P3 2 2 255\n" + b"1 " * 12).shape == (2, 2, 3)
    with pytest.raises(UnreadableInputError, match="more than 12 numbers in plain text; convert it to PNG first"):
        pixels(b"P3 5 1 255\n" + b"1 " * 15)


@pytest.mark.parametrize(
    "data",
    [
        binary("P6", 1023, 2000, 2000),
        b"P2 1000 1000 255\n" + b"7 " * 1_000_000,
        b"P2 1000 1000 255\n" + b"#\n" * 500_000 + b"7 " * 1_000_000,
        b"P2 1000 1000 255\n" + b"#" * 5_000_000 + b"\n" + b"7 " * 1_000_000,
    ],
    ids=["binary", "text", "comments", "a long comment"],
)
def test_photos_are_read_in_seconds(data):
    started = time.process_time()
    pixels(data)
    assert time.process_time() - started < 3  # with Pillow, 6 s for the first and 27 s for the third
