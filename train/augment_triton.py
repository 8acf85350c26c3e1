"""Training-time views on CUDA: crop, mirror, colour noise and mean in one kernel; train/augment.py has the formulas.

Every pixel of a patch is read once, as uint8, and written once. Neighbouring threads take neighbouring values of a row
(three per pixel), so that a warp reads and writes 32 of them side by side. Wider accesses per thread do not fit rows
that start at any byte and have 681 values. Each thread computes the same value of `ROWS` rows, whose addresses differ
by constants: 15 instructions per value. An H200 can execute 20 in the time that its memory needs for the same value.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 16
"""Rows of a patch in a program."""
VALUES = 128
"""Values of a row in a program: one per thread."""


@triton.jit
def _training_patches(
    images_ptr, index_ptr, corner_ptr, mirror_ptr, noise_ptr, mean_ptr, patches_ptr,
    SIDE: tl.constexpr, PATCH: tl.constexpr, MEAN_IMAGE: tl.constexpr, ROWS: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    # The patch is the axis that runs fastest: programs that run together need the same part of the mean.
    patch = tl.program_id(0).to(tl.int64)
    first = tl.minimum(tl.program_id(1) * ROWS, PATCH - ROWS)  # the last programs overlap: no row needs a mask
    value = tl.program_id(2) * VALUES + tl.arange(0, VALUES)
    inside = value < PATCH * 3
    column, channel = value // 3, value % 3
    column = tl.where(tl.load(mirror_ptr + patch), PATCH - 1 - column, column)

    top, left = tl.load(corner_ptr + 2 * patch), tl.load(corner_ptr + 2 * patch + 1)
    place = ((top + first) * SIDE + left) * 3 + (column * 3 + channel)  # in a square, of the program's first row
    pixel_ptr = images_ptr + tl.load(index_ptr + patch) * (SIDE * SIDE * 3) + place
    mean_ptr += place if MEAN_IMAGE else channel
    noise = tl.load(noise_ptr + 3 * patch + channel)
    patch_ptr = patches_ptr + (patch * PATCH + first) * (PATCH * 3) + value

    results = ()  # all of them before the first is stored, so that the loads are under way together
    for row in tl.static_range(ROWS):
        pixel = tl.load(pixel_ptr + row * (SIDE * 3), mask=inside, other=0).to(tl.float32)
        mean = tl.load(mean_ptr + (row * (SIDE * 3) if MEAN_IMAGE else 0), mask=inside, other=0.0)
        results += ((pixel + (noise - mean)).to(patches_ptr.dtype.element_ty),)
    for row in tl.static_range(ROWS):
        tl.store(patch_ptr + row * (PATCH * 3), results[row], mask=inside)


def training_patches(
    images: Tensor,
    index: Tensor,
    corner: Tensor,
    mirror: Tensor,
    noise: Tensor,
    mean: Tensor,
    patch: int,
    dtype: torch.dtype,
) -> Tensor:
    """[B, 3, patch, patch], channels-last, in `dtype`: pixel + (noise - mean) in float32, rounded once.

    Patch b is cut from `images[index[b]]` with its first row and column at `corner[b]`; where `mirror[b]` is true, its
    columns run from right to left. The mean of a pixel is the one of its place in the square. All tensors are
    contiguous and on one GPU:

    - `images` uint8 [M, S, S, 3], and `mean` float32 [S, S, 3] or [3];
    - `index` int64 [B], below M; `corner` int64 or int32 [B, 2], 0 to S - patch; `mirror` bool [B];
    - `noise` float32 [B, 3].
    """
    inputs = (images, index, corner, mirror, noise, mean)
    assert all(tensor.is_contiguous() for tensor in inputs), [tensor.stride() for tensor in inputs]
    shape = (len(index), 3, patch, patch)
    patches = torch.empty(shape, dtype=dtype, device=images.device, memory_format=torch.channels_last)
    with torch.cuda.device_of(images):  # Triton launches on the current device, whatever the tensors are on
        _training_patches[len(index), triton.cdiv(patch, ROWS), triton.cdiv(patch * 3, VALUES)](
            *inputs, patches,
            SIDE=images.shape[1],
            PATCH=patch,
            MEAN_IMAGE=mean.ndim == 3,
            ROWS=min(ROWS, patch),
            VALUES=VALUES,
            num_warps=VALUES // 32,
            enable_fp_fusion=True,
        )  # fmt: skip
    return patches
