"""The images whose features are nearest to a query, by Euclidean distance: an exact search of all rows.

The differences are squared and added in float64. The usual |a|^2 - 2ab + |b|^2 is faster for many queries, but it
cancels where features are large and near to each other. Rows are compared in blocks, so that memory does not grow with
their number, and each distance is computed in the same way whatever the block.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from alexnet_infer.errors import UsageError, shown
from alexnet_infer.features.table import Features
from alexnet_infer.reading import decode_ahead

_STRIP_VALUES = 2**16
"""Values that are compared at once, unless one row has more: in float64, they stay in a processor's cache."""

with np.errstate(invalid="ignore"):  # some are signalling NaN
    _FLOATS = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
"""The value of every float16, by its bits. To look them up takes a fifth of the time that NumPy takes to convert."""


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """An image near to a query."""

    row: int
    """Its position in the file."""
    distance: float
    name: str
    """As in `Features.names`: from a file, so print it only through `errors.printable`."""
    label: str | None
    """The WordNet id of its class, or None for photos."""


class Nearest(NamedTuple):
    """The nearest rows of Q queries, the nearest first. K is less than asked for if fewer rows are finite."""

    rows: np.ndarray
    """int64 [Q, K]"""
    distances: np.ndarray
    """float64 [Q, K]"""
    left_out: int
    """Rows with a value that is not finite, such as those of unreadable images."""


def nearest(features: Features, query: np.ndarray, n: int = 6, *, layer: str | None = None) -> list[Neighbour]:
    """Return the `n` images nearest to a query, the nearest first. Of equal distances, the first in the file is first.

    `query` has the shape of the layer's values for one image, as those that `Net.features` returns, and comes from the
    same layer of the same net with the same views. It is rounded to the type of the file, so an image that is in the
    file has the distance 0. `layer` may be left out if the file has only one. Unreadable images are left out.

    Raises UsageError for another shape, an unknown layer, or if `n` is not from 1 to the number of readable images, and
    FeaturesError if the file is damaged.

    >>> cats = open_features("cats.npz")
    >>> nearest(cats, load(cats.about.net, views=cats.about.views).features("photo.jpg", ["fc7"])["fc7"])[0].name
    """
    layer = layer_of(features, layer)
    check_number(features, n)
    found = search(features, layer, np.asarray(query)[None], n)
    return neighbours(features, found.rows[0], found.distances[0])


def neighbours(features: Features, rows: np.ndarray, distances: np.ndarray) -> list[Neighbour]:
    """Return the images in `rows` of a file, with their distances."""
    return [
        Neighbour(row=row, distance=distance, name=features.names[row], label=features.labels[row])
        for row, distance in zip(rows.tolist(), distances.tolist(), strict=True)
    ]


def decimals(distances: Iterable[float]) -> int:
    """Return the number of decimals with which the largest of the distances has four digits, from 0 to 6."""
    largest = max(distances, default=0)
    return min(6, max(0, 3 - math.floor(math.log10(largest)))) if largest else 0


def layer_of(features: Features, name: str | None) -> str:
    """Return the layer of this name, or the only one. Raises UsageError, with the names there are."""
    if name is not None:
        return features.layer(name).name
    if len(features.layers) > 1:
        names = ", ".join(features.layers)
        raise UsageError(f"{features.path}: has several layers: expected --layer with one of {names}")
    return next(iter(features.layers))


def check_number(features: Features, n: int, what: str = "n=") -> None:
    """Raise UsageError, which begins with `what`, unless `n` is from 1 to the number of readable images."""
    images = features.about.images
    readable = images.count - images.unreadable
    if not readable:
        raise UsageError(f"{features.path}: none of its {images.count:,} images could be read: nothing to compare with")
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not 1 <= n <= readable:
        raise UsageError(
            f"{what}{shown(n)}: expected 1 to {readable:,}, the number of readable images in {features.path}"
        )


def as_stored(values: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """Return values in float64, rounded to the type in which a file stores them.

    Raises UsageError, with the `name` of the image, if one is not finite or too large for the type.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        stored = values.astype(dtype)
    if problem := _unfit(values, stored):
        raise UsageError(f"{name}: {problem}")
    return stored.astype(np.float64)


def _unfit(values: np.ndarray, stored: np.ndarray) -> str | None:
    if np.isfinite(stored).all():
        return None
    if not np.isfinite(values).all():
        return "its features are not finite"
    return (
        f"has the value {abs(values).max():,.0f}, and {stored.dtype.name}, the type of the file, holds at most "
        f"{np.finfo(stored.dtype).max:,.0f}; compute the file without --half"
    )


def rows_of(features: Features, layer: str, rows: Iterable[int]) -> dict[int, np.ndarray]:
    """Return row -> the values of a layer, float64 [*shape]. The file is read in blocks."""
    wanted, found, begin = sorted(set(rows)), {}, 0
    for block in features.blocks(layer):
        while wanted and wanted[0] < begin + len(block):
            row = wanted.pop(0)
            found[row] = block[row - begin].astype(np.float64)
        begin += len(block)
        if not wanted:
            break
    return found


def search(
    features: Features,
    layer: str,
    queries: np.ndarray,
    n: int,
    advance: Callable[[int], None] = lambda count: None,
) -> Nearest:
    """Return the `n` rows of a layer nearest to each of `queries` [Q, *shape], which are rounded to the file's type.

    `advance` is called with the number of rows that were compared since the last call. Raises UsageError for another
    shape or for values that are not finite, and the errors of `Features.blocks`.
    """
    shape = features.layers[layer]
    if queries.shape[1:] != shape:
        raise UsageError(f"a query of shape {list(queries.shape[1:])}: expected {list(shape)}, that of {layer}")
    flat = as_stored(queries, features.about.numpy_dtype, "query").reshape(len(queries), -1)
    best = Nearest(np.empty((len(flat), 0), np.int64), np.empty((len(flat), 0)), 0)
    begin = 0
    for done in decode_ahead(features.blocks(layer), partial(_nearest_in, flat, n), ahead=4):
        best = _merged(best, done.image, begin, n)
        begin += len(done.source)
        advance(len(done.source))
        _release(done.source)
    return best


def _nearest_in(queries: np.ndarray, n: int, block: np.ndarray) -> Nearest:
    """Return the rows of a block nearest to queries float64 [Q, D]."""
    flat = block.reshape(len(block), -1)
    distances = np.empty((len(queries), len(flat)))
    strip = max(1, _STRIP_VALUES // flat.shape[1])
    for begin in range(0, len(flat), strip):
        values = _float32(flat[begin : begin + strip])
        for query, row in zip(queries, distances, strict=True):
            with np.errstate(invalid="ignore"):
                difference = np.subtract(values, query, dtype=np.float64)
            row[begin : begin + strip] = np.square(difference, out=difference).sum(1)
    np.sqrt(distances, out=distances)
    finite = np.isfinite(distances[0])  # queries are finite
    distances[:, ~finite] = np.nan  # which sort puts last
    found = int(finite.sum())
    rows = np.argsort(distances, axis=1, kind="stable")[:, : min(n, found)]
    return Nearest(rows, np.take_along_axis(distances, rows, 1), len(flat) - found)


def _float32(values: np.ndarray) -> np.ndarray:
    return _FLOATS.take(values.view("<u2"), mode="clip") if values.dtype == np.dtype("<f2") else values


def _merged(best: Nearest, block: Nearest, begin: int, n: int) -> Nearest:
    """Join the nearest rows so far with those of the next block, whose rows begin at `begin`."""
    rows = np.hstack([best.rows, block.rows + begin])
    distances = np.hstack([best.distances, block.distances])
    order = np.argsort(distances, axis=1, kind="stable")[:, :n]
    return Nearest(
        np.take_along_axis(rows, order, 1),
        np.take_along_axis(distances, order, 1),
        best.left_out + block.left_out,
    )


def _release(block: np.ndarray) -> None:
    """Take the pages of a block that is mapped from a file out of this process's memory."""
    base = block
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
