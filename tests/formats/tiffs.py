"""TIFFs of every kind, written sample by sample as TIFF 6.0 says, since Pillow writes few kinds."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

DEFLATE = 8


def tiff(
    samples: np.ndarray,
    photometric: int,
    bits: int = 8,
    *,
    order: str = "<",
    planar: int = 1,
    fill: int = 1,
    compression: int = 1,
    tile: tuple[int, int] | None = None,
    rows: int | None = None,
    predictor: int = 1,
    tags: Mapping[int, int | Sequence[int]] | None = None,
) -> bytes:
    """Return a TIFF of `samples` [height, width, samples per pixel], of `bits` bits each.

    `order` is < or >, `tile` is (height, width), `rows` is the number of rows per strip. Floats are stored as they are.
    `tags` are added; None removes a tag.
    """
    height, width, count = samples.shape
    high, wide = tile or (rows or height, width)
    planes = np.split(samples, count, 2) if planar == 2 else [samples]
    parts = []
    for plane in planes:
        for part in _parts(plane, high, wide, padded=tile is not None):
            part = np.diff(part, axis=1, prepend=np.zeros_like(part[:, :1])) if predictor == 2 else part
            data = _packed(part, bits, order)
            data = bytes(int(f"{byte:08b}"[::-1], 2) for byte in data) if fill == 2 and compression == 1 else data
            parts.append(zlib.compress(data) if compression == DEFLATE else data)
    offsets = [8 + sum(map(len, parts[:number])) for number in range(len(parts))]
    places = {322: wide, 323: high, 324: offsets, 325: [len(part) for part in parts]}
    strips = {273: offsets, 278: high, 279: [len(part) for part in parts]}
    entries = {
        256: width,
        257: height,
        258: [bits] * count,
        259: compression,
        262: photometric,
        277: count,
        284: planar,
    }
    entries |= {266: fill} if fill != 1 else {}
    entries |= {317: predictor} if predictor != 1 else {}
    entries |= (places if tile else strips) | dict(tags or {})
    data = b"".join(parts)
    start = 8 + len(data)
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return header + data + _directory({k: v for k, v in entries.items() if v is not None}, order, start)


def _parts(plane: np.ndarray, high: int, wide: int, padded: bool) -> Iterator[np.ndarray]:
    for top in range(0, plane.shape[0], high):
        for left in range(0, plane.shape[1], wide):
            part = plane[top : top + high, left : left + wide]
            short = (high - part.shape[0], wide - part.shape[1])
            yield np.pad(part, ((0, short[0]), (0, short[1]), (0, 0)), mode="edge") if padded else part


def _packed(part: np.ndarray, bits: int, order: str) -> bytes:
    """The rows of a strip or tile. Samples of 8, 16, 32 and 64 bits are in byte order, others are packed bit by bit."""
    if part.dtype.kind == "f":
        return part.astype(f"{order}f{bits // 8}").tobytes()
    if bits in (8, 16, 32, 64):
        return (part.astype(np.int64) & (2**bits - 1)).astype(f"{order}u{bits // 8}").tobytes()
    if bits == 24:
        every = part.astype(f"{order}u4").reshape(-1, 1).view(np.uint8)
        return (every[:, :3] if order == "<" else every[:, 1:]).tobytes()
    rows = (part.reshape(part.shape[0], -1)[..., None].astype(int) >> np.arange(bits)[::-1]) & 1
    return np.packbits(rows.reshape(part.shape[0], -1).astype(np.uint8), axis=1).tobytes()


def _directory(entries: Mapping[int, int | Sequence[int]], order: str, start: int) -> bytes:
    after = start + 2 + 12 * len(entries) + 4
    table, extra = struct.pack(f"{order}H", len(entries)), b""
    for tag, value in sorted(entries.items()):
        values = list(value) if isinstance(value, Sequence) else [value]
        short = tag in (258, 320, 338, 339, 530)
        packed = struct.pack(f"{order}{len(values)}{'H' if short else 'I'}", *values)
        if len(packed) > 4:
            packed, extra = struct.pack(f"{order}I", after + len(extra)), extra + packed
        table += struct.pack(f"{order}HHI", tag, 3 if short else 4, len(values)) + packed.ljust(4, b"\0")
    return table + bytes(4) + extra
