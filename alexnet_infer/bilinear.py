"""OpenCV's bilinear interpolation (`cv2.resize`, INTER_LINEAR), exact to the last bit.

Caffe's data sets were made with it. Pillow's bilinear filter widens with the scale, so that all pixels contribute when
an image shrinks. OpenCV's uses the four nearest pixels at any scale, with weights of 11 bits.
"""

from __future__ import annotations

import numpy as np

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""


def resize(image_hwc: np.ndarray, size: int, box: Box) -> np.ndarray:
    """Resample the region `box` of an image uint8 [H, W, C] to uint8 [size, size, C]."""
    height, width = image_hwc.shape[:2]
    left, top, right, bottom = box
    columns, column_weights = _taps(left, right, size)
    rows, row_weights = _taps(top, bottom, size)
    # Beyond the edge, the last pixel is repeated. Along a row OpenCV uses that pixel alone. Along a column it adds both
    # weighted copies, with rounding.
    column_weights[:, (columns < 0) | (columns >= width - 1)] = [[2048], [0]]
    left_of, right_of = (np.clip(columns + k, 0, width - 1) for k in (0, 1))
    total = np.full((size, size, image_hwc.shape[2]), 2, np.int32)
    for k, weights in enumerate(row_weights):
        lines = image_hwc[np.clip(rows + k, 0, height - 1)]
        values = lines[:, left_of] * column_weights[0][:, None] + lines[:, right_of] * column_weights[1][:, None]
        total += ((values >> 4) * weights[:, None, None]) >> 16
    return (total >> 2).astype(np.uint8)


def _taps(begin: float, end: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """For `size` positions between `begin` and `end`, return the index of the pixel before each position, and the
    weights int32 [2, size] of that pixel and the next, in 2048ths."""
    position = (begin + (np.arange(size) + 0.5) * ((end - begin) / size) - 0.5).astype(np.float32)
    before = np.floor(position)
    fraction = position - before
    return before.astype(np.intp), np.rint(np.stack([1 - fraction, fraction]) * np.float32(2048)).astype(np.int32)
