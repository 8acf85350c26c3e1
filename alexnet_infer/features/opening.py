"""Open files of features, and what their suffixes stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from alexnet_infer.errors import UsageError
from alexnet_infer.features import hdf5, npy, npz, parquet
from alexnet_infer.features.table import Features, refusing

OPENERS: dict[str, Callable[[Path], Features]] = {
    ".npy": npy.NpyFeatures,
    ".npz": npz.open_npz,
    ".parquet": parquet.ParquetFeatures,
    ".h5": hdf5.open_hdf5,
}
"""Suffix -> what opens such a file."""

WRITERS: dict[str, Callable[[Features, Path], Iterator[int]]] = {
    ".npz": npz.write,
    ".parquet": parquet.write,
    ".h5": hdf5.write,
}
"""Suffix -> what writes features to such a file. A .npy file is not written: it is the rows as they are computed."""


def open_features(path: str | Path) -> Features:
    """Open a file that `alexnet-infer features` wrote: .npy, .npz, .parquet or .h5.

    The names, labels and errors are read, and the values when they are asked for. Nothing in the file is believed, and
    nothing in it is run. Raises FeaturesError if it is missing, damaged or of another kind, BackendError if a package
    that reads it is missing, and UsageError for another suffix.
    """
    path = Path(path)
    check_suffix(path)
    with refusing(path):
        return OPENERS[path.suffix](path)


def check_suffix(path: Path, what: str = "") -> None:
    """Raise UsageError, which begins with `what`, unless `path` has one of the suffixes."""
    if path.suffix not in OPENERS:
        *others, last = OPENERS
        raise UsageError(f"{what}{path}: expected a file name that ends in {', '.join(others)} or {last}")
