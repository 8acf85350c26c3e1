"""The kernels of a net's first layer as a picture, as in the paper's figure 3."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from alexnet_infer.architecture import Conv
from alexnet_infer.artifact import Artifact
from alexnet_infer.errors import UsageError

ROW = 16
"""The largest number of kernels in a row. The 48 kernels of a column in the paper are three rows of 16."""

TILE = 33
"""The approximate side of a kernel in the picture in pixels: three times the paper's 11 x 11."""

GAP = 1
"""Black pixels between kernels and around them."""

COLUMN_GAP = 12
"""Black pixels between the net's columns."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Kernels:
    """The kernels of a net's first layer."""

    weights: np.ndarray
    """float32 [K, 3, h, w] in RGB order."""
    columns: int
    """The number of columns (GPUs in the paper) into which the kernels are divided."""

    @classmethod
    def of(cls, artifact: Artifact) -> Kernels:
        """Read the kernels of a net. Raises UsageError if its first layer is not a convolution over three colours."""
        manifest = artifact.manifest
        operations = manifest.architecture.operations
        first = operations[0]
        if not isinstance(first, Conv) or first.groups != 1:
            raise UsageError(f"{manifest.name} begins with {first.name}: expected a convolution over all three colours")
        weights = artifact.tensors[f"{first.name}.weight"]
        if manifest.preprocessing.channel_order == "BGR":
            weights = weights[:, ::-1]
        columns = max(o.groups for o in operations if isinstance(o, Conv))
        # Copy, since a view would keep all of the net's weights in memory.
        return cls(weights=weights.copy(), columns=1 if first.kernels % columns else columns)

    def image(self) -> np.ndarray:
        """Draw the picture, uint8 [H, W, 3]. See `kernel_image`."""
        return kernel_image(self.weights, self.columns, scale=max(1, round(TILE / max(self.weights.shape[2:]))))

    def png(self) -> bytes:
        """Return the picture as a PNG file."""
        file = io.BytesIO()
        Image.fromarray(self.image()).save(file, "PNG", optimize=True)
        return file.getvalue()


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
    peaks = np.abs(weights).max((1, 2, 3), keepdims=True)
    grey = np.rint(127.5 + 127.5 * weights / np.where(peaks > 0, peaks, 1)).astype(np.uint8)
    tiles = grey.transpose(0, 2, 3, 1).repeat(scale, 1).repeat(scale, 2)
    in_column = count // columns
    rows = -(-in_column // ROW)
    across = -(-in_column // rows)
    down, right = height * scale + GAP, width * scale + GAP
    column_height = rows * down - GAP
    whole_height = columns * (column_height + COLUMN_GAP) - COLUMN_GAP
    picture = np.zeros((whole_height + 2 * GAP, across * right + GAP, 3), np.uint8)
    for i, tile in enumerate(tiles):
        column, place = divmod(i, in_column)
        row, x = divmod(place, across)
        y, x = column * (column_height + COLUMN_GAP) + row * down + GAP, x * right + GAP
        picture[y : y + height * scale, x : x + width * scale] = tile
    return picture
