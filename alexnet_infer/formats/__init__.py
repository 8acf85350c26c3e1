"""What the bytes of a file say about its format, without decoding it."""

from __future__ import annotations

import re


class RefusedError(Exception):
    """An image is refused. The message tells the user the reason."""


HEAD_BYTES = 1024
"""The number of bytes at a file's start that `format_of` needs."""

_NAMES = {
    r"\xff\x0a|\0\0\0\x0cJXL ": "JPEG XL",
    r"II\xbc": "JPEG XR",
    r"8BPS": "a Photoshop document",
    r"gimp xcf": "a GIMP document",
    r"%PDF": "a PDF",
    r"%!PS|\xc5\xd0\xd3\xc6": "PostScript",
    r"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--[^>]*-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg\b": "SVG",
    r"(\xef\xbb\xbf)?\s*(<!--[^>]*-->\s*)?<(?i:!DOCTYPE html|html)\b": "a web page",
    r"v/1\x01": "OpenEXR",
    r"#\?(RADIANCE|RGBE)": "Radiance HDR",
    r"DDS ": "DDS",
    r"\0\0[\x01\x02]\0[^\0]\0|icns": "an icon",
    r"qoif": "QOI",
    r"BPG\xfb": "BPG",
    r"FLIF": "FLIF",
    r"P7\n": "PAM",
    r"SIMPLE  =": "FITS",
    r".{128}DICM": "DICOM",
    r"IIR[OS]|MMOR": "a camera's raw file (ORF)",
    r"IIU\0": "a camera's raw file (RW2)",
    r"IIII|MMMM": "a camera's raw file (IIQ)",
    r"II\x1a\0\0\0HEAPCCDR": "a camera's raw file (CRW)",
    r"FUJIFILMCCD-RAW": "a camera's raw file (RAF)",
    r"\0MRM": "a camera's raw file (MRW)",
    r"FOVb": "a camera's raw file (X3F)",
    r".{4}ftypcrx ": "a camera's raw file (CR3)",
    r".{4}ftyp(avi[fs]|(mif1|msf1).{4}(.{4}){0,16}?avi[fs])": "AVIF",
    r".{4}ftyp(.{4}){0,18}?(hei[cxms]|hev[cxms]|mif[12]|msf1)": "HEIC",
    r"\0.{3}(ftyp|moov|mdat|wide)|RIFF.{4}AVI |\x1a\x45\xdf\xa3|\0\0\x01[\xb3\xba]|FLV\x01": "a video",
    r"\xff\x4f\xff\x51|\0\0\0\x0cjP  ": "JPEG 2000",
    r"\xff\xd8\xff\xf7": "JPEG-LS",
    r"\xff\xd8\xff.{60}": "a damaged JPEG, or one without 8 bits per channel",
}
"""The first bytes of a file -> its format in a sentence. The first that matches is right."""

FIXES = {
    "HEIC": "convert it to JPEG first, for example with the Python package pillow-heif",
    "a PDF": "save the page as a JPEG first",
    "a video": "save a frame of it as a JPEG first",
    "a web page": "download the image itself",
    "a damaged JPEG, or one without 8 bits per channel": "save it again with 8 bits",
}
"""What the user can do about a format, if it isn't "convert it to JPEG first"."""


def format_of(head: bytes) -> str | None:
    """Return the format of a file that begins with these bytes, if it is a known one that may not be read.

    The name stands in a sentence: "HEIC", "a video". AVIF and JPEG 2000 are read if Pillow was built with them.
    """
    return next((name for start, name in _NAMES.items() if re.match(start.encode("latin-1"), head, re.DOTALL)), None)
