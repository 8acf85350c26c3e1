"""Kernels as tiles of a picture."""

from __future__ import annotations

import numpy as np

ROW = 16
"""The largest number of kernels in a row. The 48 kernels of a column in the paper are three rows of 16."""

GAP = 1
"""Black pixels between kernels and around them."""

COLUMN_GAP = 12
"""Black pixels between the net's columns."""


def tiling(in_column: int) -> tuple[int, int]:
    """Return the number of rows of a column with `in_column` kernels, and the number of kernels in a full row."""
    rows = -(-in_column // ROW)
    return rows, -(-in_column // rows)


def picture_size(shape: tuple[int, ...], columns: int, scale: int) -> tuple[int, int]:
    """Return the height and width in pixels of the picture of kernels [K, 3, h, w]. Arguments as of `kernel_image`."""
    count, _, height, width = shape
    rows, across = tiling(count // columns)
    column_height = rows * (height * scale + GAP) - GAP
    return columns * (column_height + COLUMN_GAP) - COLUMN_GAP + 2 * GAP, across * (width * scale + GAP) + GAP


def around_grey(values: np.ndarray, axes: int | tuple[int, ...] | None = None) -> np.ndarray:
    """Return finite values as grey levels, uint8: 0 is 128, and the value of largest magnitude is 0 or 255.

    Each part of the array along `axes` has its own scale; None: the whole array has one. Zeros alone become 128.
    """
    values = values.astype(np.float64)
    peaks = np.abs(values).max(axes, keepdims=True)
    return np.rint(127.5 + 127.5 * (values / np.where(peaks > 0, peaks, 1))).astype(np.uint8)


def kernel_image(weights: np.ndarray, columns: int, scale: int) -> np.ndarray:
    """Draw kernels [K, 3, h, w] in RGB order as tiles: uint8 [H, W, 3].

    The kernels of the first column are above those of the second. A column's rows have the same length, at most ROW,
    except that the last one may be shorter. A weight of 0 is grey (128) in every kernel. Each kernel has its own scale,
    on which its weight of largest magnitude in any colour is 0 or 255, so the strengths of kernels can't be compared.
    Each weight becomes `scale` x `scale` pixels. There are GAP black pixels between and around the tiles, and
    COLUMN_GAP between the columns. K must be a multiple of `columns`.
    """
    count, _, height, width = weights.shape
    assert count % columns == 0, (count, columns)
    tiles = around_grey(weights, (1, 2, 3)).transpose(0, 2, 3, 1)
    in_column = count // columns
    rows, across = tiling(in_column)
    down, right = height * scale + GAP, width * scale + GAP
    picture = np.zeros((*picture_size(weights.shape, columns, scale), 3), np.uint8)
    for i, tile in enumerate(tiles):
        column, place = divmod(i, in_column)
        row, x = divmod(place, across)
        y, x = column * (rows * down - GAP + COLUMN_GAP) + row * down + GAP, x * right + GAP
        picture[y : y + height * scale, x : x + width * scale] = tile.repeat(scale, 0).repeat(scale, 1)
    return picture
