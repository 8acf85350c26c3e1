"""What a JPEG's markers say about the time that it takes to decode (ISO/IEC 10918-1, annex B)."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

from alexnet_infer.formats import RefusedError, tiff

HEAD = b"\xff\xd8\xff"

FEWEST_SCANS, MOST_SCANS, MOST_SAMPLES = 32, 300, 3 * 2**30
"""The number of scans that are read is MOST_SAMPLES / (pixels x components), but at least FEWEST_SCANS and at most
MOST_SCANS. libjpeg goes through the coefficients of the complete image for each scan, even if the scan has no data: up
to 3 s for these. Programs write about 10 scans."""

MOST_SEGMENTS = 5_000
"""Segments of 64 KB fill the largest file that is read with 4,000."""

MOST_EXIF = 16
"""Segments of EXIF: 1 MB. Pillow joins them in a time that grows with the square of their number."""

_SCAN, _END, _EXIF, _PICTURES = 0xDA, 0xD9, 0xE1, 0xE2
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_WITH_LENGTH = {*range(0xC0, 0xD0), *range(0xDA, 0xDE), *range(0xE0, 0xF0), 0xFE}
_FIRST_BLOCK, _BLOCK = 1 << 12, 1 << 16
"""Bytes that are looked at together. Most headers are within the first."""
_MARKER = re.compile(rb"\xff([^\0\xd0-\xd7\xff])")
"""A marker that may end a scan: neither a byte 255 of its data nor a restart."""


def check(stream: BinaryIO) -> bool:
    """Return whether libjpeg decodes a JPEG as a stream: it has one scan, or libjpeg ignores the others.

    Otherwise libjpeg keeps the coefficients of the complete image. Raises RefusedError if decoding would take too long.
    """
    frame, scans, exif = None, 0, 0
    for number, (code, content) in enumerate(_segments(stream), start=1):
        if number > MOST_SEGMENTS:
            raise RefusedError(f"a JPEG of more than {MOST_SEGMENTS:,} segments; save it again")
        if code in _FRAMES and frame is None:
            frame = code
            height, width, components = struct.unpack_from(">HHB", content.ljust(6, b"\0"), 1)
            most = MOST_SAMPLES // max(1, width * height * components)
            most = min(max(FEWEST_SCANS, most), MOST_SCANS)
        elif code == _EXIF and content.startswith(b"Exif\0\0"):
            exif += 1
            if exif > MOST_EXIF:
                raise RefusedError(f"a JPEG of more than {MOST_EXIF} segments of EXIF; save it again without EXIF")
            tiff.check_directory(io.BytesIO(content[6:]))
        elif code == _PICTURES and content.startswith(b"MPF\0"):
            tiff.check_directory(io.BytesIO(content[4:]))
        elif code == _SCAN and frame is not None:
            scans += 1
            if scans == 1 and frame not in _PROGRESSIVE and content[:1] == bytes([components]):
                return True
            if scans > most:
                raise RefusedError(
                    f"a JPEG of {width} x {height} pixels in more than {most} scans, which takes too long to decode; "
                    "save it again"
                )
    return False


def _segments(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the code and the content of each segment up to the end of the image. Restarts are not segments."""
    begin, size = 2, _FIRST_BLOCK
    while True:
        stream.seek(begin)
        block, at = stream.read(size), 0
        is_last = len(block) < size
        while found := _MARKER.search(block, at):
            code, at = found[1][0], found.end()
            if at + 2 > len(block) and not is_last:
                at -= 2
                break
            if code == _END:
                return
            content = b""
            if code in _WITH_LENGTH:
                length = int.from_bytes(block[at : at + 2])
                if length < 2:
                    return
                content = block[at + 2 : at + length]
                if at + length > len(block):
                    stream.seek(begin + at + 2)
                    content = stream.read(length - 2)
                at += length
            yield code, content
        else:
            if is_last:
                return
            at = max(at, len(block) - 1)  # the last byte may be a marker's first
        begin, size = begin + at, _BLOCK
