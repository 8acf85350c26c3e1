"""Training views on CUDA: crop, mirror, colour noise and mean in one kernel; train/augment.py has the formulas.

Every pixel of a patch is read once, as uint8, and written once. Neighbouring threads compute neighbouring values of a
row (three per pixel), so that a warp reads and writes 32 adjacent values. Wider accesses per thread are not possible:
a row can start at any byte and has 681 values. Each thread computes the value at one position in `ROWS` rows, whose
addresses differ by constants: 15 instructions per value. An H200 can execute 20 in the time that its memory needs for
one value.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 16
"""Rows of a patch per program."""
VALUES = 128
"""Values of a row per program, one per thread."""


@triton.jit
def _training_patches(
    images_ptr, index_ptr, corner_ptr, mirror_ptr, noise_ptr, mean_ptr, patches_ptr,
    SIDE: tl.constexpr, PATCH: tl.constexpr, MEAN_IMAGE: tl.constexpr, ROWS: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    # The patch is the fastest axis: programs that run at the same time need the same part of the mean.
    patch = tl.program_id(0).to(tl.int64)
    first = tl.minimum(tl.program_id(1) * ROWS, PATCH - ROWS)  # the last two overlap, so that no row needs a mask
    value = tl.program_id(2) * VALUES + tl.arange(0, VALUES)
    inside = value < PATCH * 3
    column, channel = value // 3, value % 3
    column = tl.where(tl.load(mirror_ptr + patch), PATCH - 1 - column, column)

    top, left = tl.load(corner_ptr + 2 * patch), tl.load(corner_ptr + 2 * patch + 1)
    place = ((top + first) * SIDE + left) * 3 + (column * 3 + channel)  # in a square, for the first row
    pixel_ptr = images_ptr + tl.load(index_ptr + patch) * (SIDE * SIDE * 3) + place
    mean_ptr += place if MEAN_IMAGE else channel
    noise = tl.load(noise_ptr + 3 * patch + channel)
    patch_ptr = patches_ptr + (patch * PATCH + first) * (PATCH * 3) + value

    results = ()  # computed before the first is stored, so that all loads are in flight together
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
    """Return [B, 3, patch, patch], channels-last, in `dtype`: pixel + (noise - mean) in float32, rounded once.

    Patch b is cut from `images[index[b]]` with its first row and column at `corner[b]`. If `mirror[b]` is true, its
    columns are reversed. A pixel's mean is the mean at its position in the square. All tensors must be contiguous and
    on one GPU:

    - `images` uint8 [M, S, S, 3], and `mean` float32 [S, S, 3] or [3];
    - `index` int64 [B], below M; `corner` int64 or int32 [B, 2], 0 to S - patch; `mirror` bool [B];
    - `noise` float32 [B, 3].
    """
    inputs = (images, index, corner, mirror, noise, mean)
    assert all(tensor.is_contiguous() for tensor in inputs), [tensor.stride() for tensor in inputs]
    shape = (len(index), 3, patch, patch)
    patches = torch.empty(shape, dtype=dtype, device=images.device, memory_format=torch.channels_last)
    with torch.cuda.device_of(images):  # Triton launches on the current device, not on the tensors' device
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
