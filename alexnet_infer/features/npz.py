"""Features as arrays in a .npz file, which is a zip archive of .npy files. Nothing in it is compressed or pickled.

The arrays are those of `mapped`. Each begins at a multiple of ALIGNMENT bytes, so that it can be mapped into memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np

from alexnet_infer.containers import open_zip
from alexnet_infer.features.about import MAX_LAYERS
from alexnet_infer.features.arrays import Place, header, place, text_blocks, width_of
from alexnet_infer.features.mapped import MappedFeatures, error_rows, texts_of
from alexnet_infer.features.table import Damaged, Features
from alexnet_infer.files import open_regular

ALIGNMENT = 64

_MAX_LIST_BYTES = 300 * MAX_LAYERS
"""The longest list of arrays that is read."""

_LOCAL = struct.Struct("<4s22xHH")
"""A member's header: the signature, and the lengths of the name and of the extra field after it."""
_PADDING = 0xD935
"""The kind of an extra field that only moves the content, as in Android's archives."""
_ZIP64 = 20
"""Bytes that `zipfile` adds to the extra field for sizes of more than 32 bits."""


def write(features: Features, path: Path) -> Iterator[int]:
    """Write features to a new file, the same bytes for the same features. Yields the bytes of each block of values."""
    about, rows = features.about.to_json(), error_rows(features)
    with ZipFile(path, "w") as archive:
        _add(archive, "about", [header(f"<U{len(about)}", ()), np.array(about).tobytes()])
        _add(archive, "error_rows", [header("<i8", rows.shape), rows.tobytes()])
        for name, texts in texts_of(features).items():
            width = width_of(texts)
            _add(archive, name, [header(f"<U{width}", (len(texts),))], text_blocks(texts, width))
        for layer in features.about.layers:
            start = header(features.about.numpy_dtype, (len(features), *layer.shape))
            with archive.open(_member(archive, layer.name), "w", force_zip64=True) as file:
                file.write(start)
                for block in features.blocks(layer.name):
                    file.write(block.tobytes())
                    yield block.nbytes


def _add(archive: ZipFile, name: str, *parts: Iterable[bytes]) -> None:
    with archive.open(_member(archive, name), "w", force_zip64=True) as file:
        for part in parts:
            file.writelines(part)


def _member(archive: ZipFile, name: str) -> ZipInfo:
    """Return a member, of 1980, that is padded so that its content begins at a multiple of ALIGNMENT bytes."""
    member = ZipInfo(f"{name}.npy")
    begin = archive.fp.tell() + 30 + len(member.filename) + _ZIP64 + 4
    padding = -begin % ALIGNMENT
    member.extra = struct.pack("<HH", _PADDING, padding) + bytes(padding)
    return member


def open_npz(path: Path) -> Features:
    """Open a .npz file. Raises Damaged, SpecError and OSError."""
    with open_regular(path) as file:
        return MappedFeatures(path, file, _places(file))


def _places(file: BinaryIO) -> dict[str, Place]:
    """Return name -> place of the arrays in an archive."""
    try:
        with open_zip(file, most=_MAX_LIST_BYTES) as archive:
            members = archive.infolist()
        places = {}
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in places or member.compress_type != ZIP_STORED or member.flag_bits & 1:
                raise Damaged("its arrays are compressed, encrypted or repeated: not as `features` writes them")
            file.seek(member.header_offset)
            signature, *lengths = _LOCAL.unpack(file.read(_LOCAL.size))
            if signature != b"PK\3\4":
                raise Damaged("the header of an array is damaged")
            begin = member.header_offset + _LOCAL.size + sum(lengths)
            places[name] = place(file, begin, begin + member.file_size)
    except (BadZipFile, NotImplementedError, struct.error, UnicodeError, RecursionError) as error:
        raise Damaged(str(error) or type(error).__name__) from None
    return places
