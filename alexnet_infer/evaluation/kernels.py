"""A net's first kernels as a picture: the paper's figure 3."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from alexnet_infer.architecture import Conv
from alexnet_infer.artifact import Artifact
from alexnet_infer.errors import UsageError

ROW = 16
"""Kernels side by side at most: the paper's 48 of a column are three rows of 16."""

TILE = 33
"""Side of a kernel in the picture, about, in pixels: the paper's 11 x 11 three times as large."""

GAP = 1
"""Pixels between kernels and around them, black."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Kernels:
    """The kernels of a net's first layer: `weights` float32 [K, 3, h, w] in RGB order, and in how many columns (the
    paper's GPUs) the net goes on from there."""

    weights: np.ndarray
    columns: int

    @classmethod
    def of(cls, artifact: Artifact) -> Kernels:
        """From a net. Raises UsageError when it doesn't begin with kernels over three colours."""
        manifest = artifact.manifest
        operations = manifest.architecture.operations
        first = operations[0]
        if not isinstance(first, Conv) or first.groups != 1:
            raise UsageError(f"{manifest.name} begins with {first.name}: expected a convolution over all three colours")
        weights = artifact.tensors[f"{first.name}.weight"]
        if manifest.preprocessing.channel_order == "BGR":
            weights = weights[:, ::-1]
        columns = max(o.groups for o in operations if isinstance(o, Conv))
        # A copy: a view would keep all the net's weights in memory.
        return cls(weights=weights.copy(), columns=1 if first.kernels % columns else columns)

    def image(self) -> np.ndarray:
        """The picture, uint8 [H, W, 3]; see `kernel_image`."""
        return kernel_image(self.weights, self.columns, scale=max(1, round(TILE / max(self.weights.shape[2:]))))

    def png(self) -> bytes:
        """The same, as a PNG file."""
        file = io.BytesIO()
        Image.fromarray(self.image()).save(file, "PNG", optimize=True)
        return file.getvalue()


def kernel_image(weights: np.ndarray, columns: int, scale: int) -> np.ndarray:
    """Kernels [K, 3, h, w] in RGB order as tiles: uint8 [H, W, 3].

    The first column's kernels stand above the second's, each column's in rows of equal length, ROW at most. A weight
    of 0 is grey (128) in every kernel, and each kernel has its own scale, on which its largest weight, of either sign
    and any colour, is black or white: so kernels can't be compared in strength. A pixel of a kernel becomes `scale` x
    `scale` pixels, and GAP pixels stay black between tiles and around them. K is a multiple of `columns`.
    """
    count, _, height, width = weights.shape
    assert count % columns == 0, (count, columns)
    peaks = np.abs(weights).max((1, 2, 3), keepdims=True)
    grey = np.rint(127.5 + 127.5 * weights / np.where(peaks > 0, peaks, 1)).astype(np.uint8)
    tiles = grey.transpose(0, 2, 3, 1).repeat(scale, 1).repeat(scale, 2)
    in_column = count // columns
    rows = -(-in_column // ROW)
    across = -(-in_column // rows)
    down, right = height * scale + GAP, width * scale + GAP
    picture = np.zeros((columns * rows * down + GAP, across * right + GAP, 3), np.uint8)
    for i, tile in enumerate(tiles):
        column, place = divmod(i, in_column)
        row, x = divmod(place, across)
        y, x = (column * rows + row) * down + GAP, x * right + GAP
        picture[y : y + height * scale, x : x + width * scale] = tile
    return picture
