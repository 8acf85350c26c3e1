"""Features as datasets in an HDF5 file (.h5). Needs h5py.

The datasets in its root are the arrays of `mapped`. Texts are in UTF-8. Each is stored in one piece, so that it can be
mapped into memory.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from alexnet_infer.errors import AlexNetInferError
from alexnet_infer.features.arrays import Place
from alexnet_infer.features.mapped import MappedFeatures, error_rows, texts_of
from alexnet_infer.features.table import Damaged, Features
from alexnet_infer.files import open_regular
from alexnet_infer.packages import missing_package

_TEXTS_AT_ONCE = 4096


def import_h5py() -> Any:
    """Return the module h5py. Raises BackendError if it is missing."""
    try:
        import h5py
    except Exception as error:
        raise missing_package(error, "a .h5 file") from None
    return h5py


def write(features: Features, path: Path) -> Iterator[int]:
    """Write features to a new file, the same bytes for the same features. Yields the bytes of each block of values.

    Raises OSError if it can't be written. HDF5's own errors are of many classes, also when the file is closed.
    """
    h5py = import_h5py()
    try:
        yield from _written(h5py, features, path)
    except AlexNetInferError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None) or errno.ENOSPC
        raise OSError(number, os.strerror(number)) from None


def _written(h5py: Any, features: Features, path: Path) -> Iterator[int]:
    about = features.about.to_json().encode()
    with h5py.File(path, "w", track_order=False) as file:
        file.create_dataset("about", data=np.array(about, h5py.string_dtype("utf-8", len(about))))
        file.create_dataset("error_rows", data=error_rows(features))
        for name, texts in texts_of(features).items():
            _add_texts(h5py, file, name, texts)
        for layer in features.about.layers:
            shape, begin = (len(features), *layer.shape), 0
            dataset = file.create_dataset(layer.name, shape, features.about.numpy_dtype)
            for block in features.blocks(layer.name):
                dataset[begin : begin + len(block)] = block
                begin += len(block)
                yield block.nbytes


def _add_texts(h5py: Any, file: Any, name: str, texts: Sequence[str]) -> None:
    encoded = [text.encode() for text in texts]
    width = max(map(len, encoded), default=0) or 1
    kind = h5py.string_dtype("utf-8", width)
    dataset = file.create_dataset(name, (len(encoded),), kind)
    for begin in range(0, len(encoded), _TEXTS_AT_ONCE):
        dataset[begin : begin + _TEXTS_AT_ONCE] = np.array(encoded[begin : begin + _TEXTS_AT_ONCE], kind)


def open_hdf5(path: Path) -> Features:
    """Open an HDF5 file. Its library only finds the datasets. Raises Damaged, SpecError, OSError and BackendError."""
    h5py = import_h5py()
    with open_regular(path) as file:
        return MappedFeatures(path, file, _places(h5py, path, file))


def _places(h5py: Any, path: Path, content: BinaryIO) -> dict[str, Place]:
    """Return name -> place of the datasets in the file's root. Raises Damaged if one is not stored in one piece."""
    end = os.fstat(content.fileno()).st_size
    try:
        with h5py.File(path, "r") as file:
            return {name: _place(h5py, file, name, end) for name in file}
    except Damaged:
        raise
    except Exception as error:  # h5py raises errors of many classes
        raise Damaged(f"not an HDF5 file that can be read: {error}") from None


def _place(h5py: Any, file: Any, name: str, end: int) -> Place:
    if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
        raise Damaged(f"{name!r} is not a dataset")
    dataset = file[name]
    begin = dataset.id.get_offset()
    found = Place(dataset.dtype, dataset.shape, begin or 0)
    if not found.size:
        return found
    if begin is None or dataset.chunks or dataset.external or dataset.is_virtual or dataset.dtype.hasobject:
        raise Damaged(f"{name!r} is not stored in one piece: not as `features` writes it")
    if found.begin + found.size > end:
        raise Damaged(f"{name!r} has {found.size:,} bytes: the file is shorter")
    return found
