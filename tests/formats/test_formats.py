"""Formats are recognised by their first bytes."""

from __future__ import annotations

import io
import struct

import pytest
from PIL import Image

from alexnet_infer.decode import read_rgb
from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.formats import HEAD_BYTES, format_of


def iso(brand: bytes, *others: bytes) -> bytes:
    """The first box of an ISO media file: its brand, a version, and the brands it is compatible with."""
    content = b"ftyp" + brand + bytes(4) + b"".join(others)
    return struct.pack(">I", 4 + len(content)) + content + bytes(100)


HEADS = {
    "HEIC": [
        *(iso(b"heic", b"mif1", b"heic"), iso(b"heix"), iso(b"mif1", b"heic", b"mif1"), iso(b"msf1", b"hevc")),
        *(iso(b"MiHB", b"mif1", b"miaf", b"heic"), iso(b"avci", b"mif1"), iso(b"mif2"), iso(b"hevs")),
    ],
    "AVIF": [iso(b"avif", b"mif1"), iso(b"avis"), iso(b"mif1", b"miaf", b"avif"), iso(b"msf1", b"avis")],
    "a camera's raw file (CR3)": [iso(b"crx ", b"isom")],
    "a video": [iso(b"isom", b"mp42"), iso(b"qt  "), b"RIFF\0\1\0\0AVI LIST", b"\x1a\x45\xdf\xa3\x93", b"\0\0\1\xba!"],
    "JPEG XL": [b"\xff\x0a\xfa\x7f", b"\0\0\0\x0cJXL \r\n\x87\n"],
    "JPEG XR": [b"II\xbc\1\x08\0\0\0"],
    "JPEG 2000": [b"\xff\x4f\xff\x51\0\x2f", b"\0\0\0\x0cjP  \r\n\x87\n"],
    "JPEG-LS": [b"\xff\xd8\xff\xf7\0\x11\x08" + bytes(80)],
    "a Photoshop document": [b"8BPS\0\1"],
    "a PDF": [b"%PDF-1.7\n"],
    "PostScript": [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xc5\xd0\xd3\xc6"],
    "SVG": [
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- made by hand -->\n<svg>",
        b'<?xml version="1.0"?><!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "svg11.dtd"> <svg width="1">',
    ],
    "a web page": [b"<!DOCTYPE html><html>", b"\n <html lang='en'>", b"<!doctype HTML>", b"<!-- x --><html>"],
    "OpenEXR": [b"v/1\1\2\0\0\0"],
    "Radiance HDR": [b"#?RADIANCE\n", b"#?RGBE\n"],
    "DDS": [b"DDS \x7c\0\0\0"],
    "an icon": [b"\0\0\1\0\1\0\x10\x10", b"icns\0\0\1\0"],
    "DICOM": [bytes(128) + b"DICM"],
    "a camera's raw file (ORF)": [b"IIRO\x08\0\0\0", b"IIRS\x08\0\0\0", b"MMOR\0\0\0\x08"],
    "a camera's raw file (RW2)": [b"IIU\0\x18\0\0\0"],
    "a camera's raw file (RAF)": [b"FUJIFILMCCD-RAW 0201"],
    "a camera's raw file (CRW)": [b"II\x1a\0\0\0HEAPCCDR"],
}


@pytest.mark.parametrize("name", HEADS)
def test_a_format_is_recognised_by_its_first_bytes(name):
    for head in HEADS[name]:
        assert format_of(head) == name, head


@pytest.mark.parametrize("name", sorted(HEADS.keys() - {"AVIF", "JPEG 2000"}))
def test_the_message_names_the_format_and_the_fix(name):
    for head in HEADS[name]:
        with pytest.raises(UnreadableInputError) as caught:
            read_rgb(head, name="photo")
        assert str(caught.value).startswith(f"photo: {name}, which isn't read; ")
        assert "first" in str(caught.value) or "download the image itself" in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "PPM", "WEBP", "JPEG", "TIFF"])
def test_a_format_that_is_always_read_is_no_other(kind):
    stream = io.BytesIO()
    Image.new("RGB", (50, 40), "red").save(stream, kind)
    assert format_of(stream.getvalue()[:HEAD_BYTES]) in (None, "a damaged JPEG, or one without 8 bits per channel")
    assert (format_of(stream.getvalue()[:HEAD_BYTES]) is None) == (kind != "JPEG")


@pytest.mark.parametrize(
    "head",
    [b"", b"\0", b"\0" * HEAD_BYTES, b"plain text", b"the wide road", b"mmmm", b"<a></a>", b"<!--" * 250, b"GIF89a"],
)
def test_other_bytes_have_no_name(head):
    assert format_of(head) is None
