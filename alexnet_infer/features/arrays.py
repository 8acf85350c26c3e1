"""Arrays in NumPy's format 1.0, the parts of .npy and .npz files, read without believing what their headers say."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

from alexnet_infer.features.table import Damaged

_START = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '([<|][fiU][0-9]{1,8})', 'fortran_order': False, "
    rb"'shape': \(((?:[0-9]{1,12}(?:, ?)?){0,4})\), \} *\n"
)
"""A header as NumPy writes it. Other headers, such as those of arrays of Python objects, are refused."""

_TEXTS_AT_ONCE = 4096


class Place(NamedTuple):
    """Where an array is in a file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    """Offset of the first value."""

    @property
    def size(self) -> int:
        """Bytes of all values."""
        return math.prod(self.shape) * self.dtype.itemsize


def header(dtype: np.dtype | str, shape: tuple[int, ...]) -> bytes:
    """Return the bytes before the values of an array in NumPy's format 1.0."""
    file, dtype = io.BytesIO(), np.dtype(dtype)
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue()


def place(file: BinaryIO, begin: int = 0, end: int | None = None) -> Place:
    """Return where the array is whose header begins at offset `begin`. It ends at `end`, by default the file's end.

    Raises Damaged if the header is not one that `header` writes, or if the array doesn't end there.
    """
    end = os.fstat(file.fileno()).st_size if end is None else end
    file.seek(begin)
    start = file.read(len(_START) + 2)
    length = int.from_bytes(start[len(_START) :], "little")
    text = file.read(length)
    match = _HEADER.fullmatch(text)
    if start[: len(_START)] != _START or match is None:
        raise Damaged("not an array as `features` writes it")
    try:
        dtype = np.dtype(match[1].decode())
    except TypeError as error:
        raise Damaged(str(error)) from None
    shape = tuple(int(part) for part in match[2].replace(b",", b" ").split())
    found = Place(dtype, shape, begin + len(start) + length)
    if found.begin + found.size != end:
        raise Damaged(f"an array of {list(shape)} {dtype} that has {end - found.begin:,} bytes")
    return found


def mapped(file: BinaryIO, where: Place) -> np.ndarray:
    """Return an array of an open file, mapped into memory, read-only. It stays valid when the file is closed."""
    if not where.size:
        return np.empty(where.shape, where.dtype)
    try:
        return np.memmap(file, where.dtype, "r", where.begin, where.shape)
    except ValueError as error:  # the file has become shorter
        raise Damaged(str(error)) from None


def width_of(texts: Sequence[str]) -> int:
    """Return how many characters an array needs per text: as many as the longest, and at least 1."""
    return max(map(len, texts), default=0) or 1


def text_blocks(texts: Sequence[str], width: int) -> Iterator[bytes]:
    """Yield the values of an array "<U`width`" of texts."""
    for begin in range(0, len(texts), _TEXTS_AT_ONCE):
        yield np.array(texts[begin : begin + _TEXTS_AT_ONCE], f"<U{width}").tobytes()
