"""Files in millions of parts are refused, whatever their format. So are large ones that a decoder copies."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from alexnet_infer.decode import read_rgb
from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.formats import RefusedError, metered
from alexnet_infer.formats.metered import Metered


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(before: bytes = b"", after: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(6)))
    return b"\x89PNG\r\n\x1a\n" + header + before + data + after + chunk(b"IEND")


def bmp(runs: bytes) -> bytes:
    size = struct.pack("<IiiHHIIiiII", 40, 99, 99, 1, 8, 1, len(runs), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(runs), 0, 0, 1078) + size + bytes(1024) + runs


def encoded(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (4, 4)).save(stream, kind, **options)
    return stream.getvalue()


GIF = encoded("GIF")
PARTS = {
    "chunks of a PNG": lambda count: png(chunk(b"abCd") * count),
    "chunks of a PNG's pixels": lambda count: png(chunk(b"IDAT") * count),
    "chunks behind a PNG's pixels": lambda count: png(after=chunk(b"abCd") * count),
    "blocks of a GIF's comment": lambda count: b"GIF89a" + GIF[6:13] + b"!\xfe" + b"\1x" * count + b"\0" + GIF[13:],
    "extensions of a GIF": lambda count: b"GIF89a" + GIF[6:13] + b"!\x01\1x\0" * count + GIF[13:],
    "a PPM's comment": lambda count: b"P5 #" + b"x" * count + b"\n1 1 255 x",
    "spaces in a PPM": lambda count: b"P5" + b" " * count + b"1 1 255 x",
    "runs of a BMP": lambda count: bmp(b"\1\7" * count),
}


@pytest.mark.parametrize("kind", PARTS)
def test_many_parts_are_refused_and_few_are_not(kind, monkeypatch):
    monkeypatch.setattr(metered, "MOST_READS", 5000)
    if "BMP" not in kind:
        assert read_rgb(PARTS[kind](400), name="photo").width
    with pytest.raises(UnreadableInputError, match="damaged, or in more than 5,000 parts; save it again"):
        read_rgb(PARTS[kind](6000), name="photo")


def test_a_photo_is_read_in_few_parts(monkeypatch):
    monkeypatch.setattr(metered, "MOST_READS", 100)
    for path in sorted((Path(__file__).parents[2] / "examples").glob("*.jpg")):
        read_rgb(path, name=path.name)


@pytest.mark.parametrize(("kind", "options"), [("WEBP", {}), ("TIFF", {"compression": "tiff_lzw"})])
def test_what_a_decoder_copies_is_limited(kind, options, monkeypatch):
    data = encoded(kind, **options)
    monkeypatch.setattr(metered, "MOST_AT_ONCE", len(data))
    assert read_rgb(data, name="photo").size == (4, 4)
    monkeypatch.setattr(metered, "MOST_AT_ONCE", 10)
    with pytest.raises(UnreadableInputError, match="too large for its format: expected at most 10 bytes; save it"):
        read_rgb(data, name="photo")


def test_only_what_is_left_counts_as_read_at_once(monkeypatch):
    monkeypatch.setattr(metered, "MOST_AT_ONCE", 4)
    stream = Metered(io.BytesIO(b"0123456789"))
    assert stream.read(6) == b"012345"
    assert stream.read() == b"6789"
    for size in (-1, None):
        stream.seek(5)
        with pytest.raises(RefusedError):
            stream.read(size)
