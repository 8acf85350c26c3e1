"""Which images a net gets wrong, as text for JSON files: one bit per image."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import numpy as np

from alexnet_infer.errors import SpecError

KINDS = ("top1", "top5")


def packed_bits(wrong: np.ndarray) -> dict[str, str]:
    """Return bool [images, 2], top-1 and top-5, as two texts: base64 of `np.packbits`."""
    return {
        kind: base64.b64encode(np.packbits(column).tobytes()).decode()
        for kind, column in zip(KINDS, wrong.T, strict=True)
    }


def unpacked_bits(text: Mapping[str, str], images: int) -> np.ndarray:
    """Return what `packed_bits` was given. Raises SpecError if the text is not that of so many images."""
    columns = []
    for kind in KINDS:
        try:
            packed = np.frombuffer(base64.b64decode(text[kind], validate=True), np.uint8)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise SpecError(f"{kind}: expected base64") from None
        if len(packed) != -(-images // 8):
            raise SpecError(f"{kind}: {len(packed)} bytes: expected one bit for each of {images} images")
        bits = np.unpackbits(packed).astype(bool)
        if bits[images:].any():
            raise SpecError(f"{kind}: has bits after the last of {images} images")
        columns.append(bits[:images])
    return np.stack(columns, 1)
