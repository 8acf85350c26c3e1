"""Hostile bodies: JSON, tensors, compression and photos."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import zlib

import numpy as np
from PIL import Image

from benchmarks.serving.client import post
from benchmarks.serving.target import ANY, TOO_LARGE, Case, Target, one

HUGE = (2**31, 2**63, 2**64, 10**30, 10**308, -1, -(2**63), 0)


def broken_json(target: Target, rng: random.Random) -> Case:
    """A right request with bytes missing, doubled or changed."""
    body = bytearray(target.json())
    start = rng.randrange(80)
    match rng.randrange(4):
        case 0:
            del body[rng.randrange(len(body)) :]
        case 1:
            del body[start : start + rng.randrange(1, 9)]
        case 2:
            body[start:start] = rng.randbytes(rng.randrange(1, 9))
        case 3:
            body[start] ^= 1 << rng.randrange(8)
    return one("broken JSON", post(target.path, bytes(body)), ANY)


def deep_nesting(target: Target, rng: random.Random) -> Case:
    depth = rng.choice((100, 1_000, 10_000, 100_000))
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
    ends = rng.choice((closing * depth, ""))
    inside = opening * depth + ("1" if opening != "[" and ends else "") + ends
    body = rng.choice(
        (inside, f'{{"inputs": {inside or "[]"}}}', f'{{"inputs": [{{"name": "images", "data": {inside}}}]}}')
    )
    return one("deep nesting", post(target.path, body.encode()), TOO_LARGE)


def wrong_json(target: Target, rng: random.Random) -> Case:
    """JSON of the wrong form, with numbers and names that parsers disagree on."""
    bad = rng.choice((*HUGE, None, True, "", "x" * 5_000, [], {}, 1.5, -0.0, 1e308, "\ud800", "\x00", [[[]]]))
    key = rng.choice(("name", "datatype", "shape", "data", "parameters"))
    text = json.dumps({"inputs": [target.tensor(**{"data": [7] * target.size, key: bad})]})
    # An object without parameters is right.
    fine = key == "parameters" and bad in ({}, None) and not isinstance(bad, (bool, int, float))
    return one("wrong JSON", post(target.path, text.encode()), ANY if fine else TOO_LARGE)


def odd_values(target: Target, rng: random.Random) -> Case:
    """A value of a tensor that is no whole number from 0 to 255."""
    data = ["7"] * target.size
    data[rng.randrange(target.size)] = rng.choice(
        (
            "NaN",
            "Infinity",
            "-Infinity",
            "1e999",
            "-1",
            "256",
            "1.5",
            "null",
            "true",
            '"7"',
            "[7]",
            "9" * 4_000,
            "07",
            "",
        )
    )
    text = json.dumps({"inputs": [target.tensor(data=0)]}).replace('"data": 0', f'"data": [{",".join(data)}]')
    return one("odd values", post(target.path, text.encode()))


def duplicate_keys(target: Target, rng: random.Random) -> Case:
    key = rng.choice(("name", "shape", "datatype", "data"))
    text = target.json().decode().replace('{"name"', f'{{"{key}": {rng.choice(("0", "null", "[1]"))}, "name"', 1)
    return one("duplicate keys", post(target.path, text.encode()))


def not_utf8(target: Target, rng: random.Random) -> Case:
    bad = rng.choice((b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\x80", b"\xef\xbb\xbf"))
    body = target.json()
    begin = rng.choice((0, body.index(b"images")))
    return one("not UTF-8", post(target.path, body[:begin] + bad + body[begin:]))


def wrong_shape(target: Target, rng: random.Random) -> Case:
    """Shapes that are negative or huge, or whose product overflows to the right size."""
    side = target.side
    shape = rng.choice(
        (
            [rng.choice((*HUGE, 300, 10**6)), side, side, 3],
            [1, side, side, rng.choice((1, 4, -3, 2**32 + 3))],
            [-1, -side, side, 3],
            [2**32 + 1, side, side, 3],
            [1, side * side, 1, 3],
            [side, side, 3],
            [1] * rng.choice((0, 1, 5, 10_000)),
            [1, float(side), side, 3],
            ["1", side, side, 3],
        )
    )
    head, data = target.binary(rng, shape=shape)
    return one("wrong shape", post(target.path, head + data, Inference_Header_Content_Length=str(len(head))), TOO_LARGE)


def wrong_size(target: Target, rng: random.Random) -> Case:
    """`binary_data_size` and the bytes behind the JSON don't agree, or the header is longer than the body."""
    claimed = rng.choice((0, -1, target.size - 1, target.size + 1, 2**40, 10**30, 1.5, "12", None, True, [1]))
    head, data = target.binary(rng, parameters={"binary_data_size": claimed})
    data = data[: rng.choice((target.size, 0, 1, target.size - 1))] + bytes(rng.choice((0, 1, 10)))
    if claimed is None and not data:
        data = b"1"
    return one("wrong size", post(target.path, head + data, Inference_Header_Content_Length=str(len(head))))


def lying_header_length(target: Target, rng: random.Random) -> Case:
    head, data = target.binary(rng)
    length = rng.choice((0, 1, -1, len(head) - 1, len(head) + 1, 2**63, 10**30, "", "x", "0x10", "1e2", "+5", "\u0663"))
    text = str(length).encode("utf-8").decode("latin-1")
    request = post(target.path, head + data, Inference_Header_Content_Length="LENGTH")
    return one("lying header length", request.replace(b"LENGTH", text.encode("latin-1"), 1))


def compressed_bomb(target: Target, rng: random.Random) -> Case:
    """A body that is small until it is decompressed."""
    size = rng.choice((2, 50)) * 10**6
    kind = rng.choice(("gzip", "deflate"))
    body = gzip.compress(bytes(size), 1, mtime=0) if kind == "gzip" else zlib.compress(bytes(size), 1)
    if rng.random() < 0.2 and size < 10**7:
        body = (
            gzip.compress(body, mtime=0) if kind == "gzip" else zlib.compress(body)
        )  # refused as JSON, or still too large
        return one("compressed bomb", post(target.path, body, Content_Encoding=kind), TOO_LARGE)
    path = rng.choice((target.path, "/v1/classify"))
    return one("compressed bomb", post(path, body, Content_Encoding=kind), frozenset({413}))


def bad_compression(target: Target, rng: random.Random) -> Case:
    """Compressed data that is damaged, followed by something, or of another kind than it says."""
    packed = gzip.compress(target.json(), mtime=0)
    body = rng.choice((packed[: rng.randrange(1, len(packed))], packed + b"x", rng.randbytes(200), packed[10:], b""))
    kind = rng.choice(("gzip", "deflate", "br", "gzip, gzip", "x" * 500, "zstd", "identity, gzip"))
    return one("bad compression", post(target.path, body, Content_Encoding=kind), frozenset({400, 415}))


def _png(width: int, height: int) -> bytes:
    """A PNG that claims these dimensions, and has no more than a few kB of zeros for them."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def image_bomb(target: Target, rng: random.Random) -> Case:
    """A photo with far more pixels than bytes."""
    sides = rng.choice(
        ((30_000, 30_000), (2**31 - 1, 1), (1, 2**31 - 1), (2**31 - 1, 2**31 - 1), (5_000, 5_000), (0, 5))
    )
    return one("image bomb", post("/v1/classify", _png(*sides)))


def broken_photo(target: Target, rng: random.Random) -> Case:
    """A photo that is damaged. Decoders may still accept it."""
    stream = io.BytesIO()
    colours = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(colours).save(stream, rng.choice(("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")))
    data = bytearray(stream.getvalue())
    for _ in range(rng.choice((1, 3, 20))):
        data[rng.randrange(min(len(data), rng.choice((40, 10_000))))] = rng.randrange(256)
    if rng.random() < 0.3:
        del data[rng.randrange(len(data)) :]
    return one("broken photo", post("/v1/classify", bytes(data)), ANY)


def no_photo(target: Target, rng: random.Random) -> Case:
    data = rng.choice(
        (b"", rng.randbytes(1_000), b"\xff\xd8\xff" + rng.randbytes(500), b"<svg/>", b"%PDF-1.7", b"\x00" * 999)
    )
    path = rng.choice(("/v1/classify", "/v1/classify?top=0", "/v1/classify?top=99999999999999", "/v1/classify?top=%00"))
    return one("no photo", post(path, data))
