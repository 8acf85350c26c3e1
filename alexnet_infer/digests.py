"""The digest by which an image is known again, as one that an exported file was calibrated on."""

from __future__ import annotations

from hashlib import sha256

DIGITS = 16
"""Hexadecimal digits of a digest, 64 bits: among a million images, two are the same by chance once in 37 million."""


def image_digest(data: bytes) -> str:
    """Return the first DIGITS hexadecimal digits of the SHA-256 of an image's encoded bytes.

    The bytes are those of the file, not the pixels: the same photo saved again is another image.
    """
    return sha256(data).hexdigest()[:DIGITS]
