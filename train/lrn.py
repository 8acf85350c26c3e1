"""LRN for training: a differentiable torch operator for CPUs and CUDA GPUs.

The layer is y = x * d^-beta with d = k + alpha * S(x^2), where S is the sum over a window of channels in one column.
With g = dL/dy, its gradient is

    dL/dx = g * d^-beta - 2 alpha beta x * S(g * x * d^(-beta-1))

On a CPU, S is a product with a banded matrix of zeros and ones. The kernels for GPUs are in train/lrn_triton.py. The
backward pass keeps only x, because computing d again is cheaper than loading it. `torch.nn.LocalResponseNorm` has no
columns, pads and copies its input, and calls `pow`; see benchmarks/lrn_training.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alexnet_infer.architecture import LRN

ROWS = 1024
"""Pixels that a CPU processes at a time, so that intermediate values stay in the second-level cache."""


def lrn(x: Tensor, spec: LRN) -> Tensor:
    """Return the LRN of x [N, C, H, W] (float32, float64, bfloat16 or float16), channels-last, in x's type.

    Computed in float32, or in float64 for float64 on a CPU. Differentiable.
    """
    return _lrn(x, spec.size, spec.alpha, spec.beta, spec.k, spec.groups)


def band_matrix(channels: int, size: int, groups: int) -> Tensor:
    """Return float32 [channels, channels]: entry i, j is 1 if channel j is in the window of channel i, else 0.

    A window does not reach into another column.
    """
    index = torch.arange(channels)
    near = (index[:, None] - index).abs() <= size // 2
    column = index // (channels // groups)
    return (near & (column[:, None] == column)).float()


@torch.library.custom_op("alexnet_infer::lrn", mutates_args=())
def _lrn(x: Tensor, size: int, alpha: float, beta: float, k: float, groups: int) -> Tensor:
    rows = _rows(x)
    y = torch.empty_like(rows)
    wide = torch.promote_types(x.dtype, torch.float32)
    window = alpha * band_matrix(x.shape[1], size, groups).to(x.device, wide)
    offset = torch.full((x.shape[1],), k, dtype=wide, device=x.device)
    for x_part, y_part in zip(rows.split(ROWS), y.split(ROWS), strict=True):
        x_wide = x_part.to(wide)
        power = _power(torch.addmm(offset, x_wide * x_wide, window), beta)
        y_part.copy_(power.mul_(x_wide))
    return _maps(y, x)


@torch.library.custom_op("alexnet_infer::lrn_backward", mutates_args=())
def _lrn_backward(grad: Tensor, x: Tensor, size: int, alpha: float, beta: float, k: float, groups: int) -> Tensor:
    rows, grad_rows = _rows(x), _rows(grad)
    out = torch.empty_like(rows)
    wide = torch.promote_types(x.dtype, torch.float32)
    band = band_matrix(x.shape[1], size, groups).to(x.device, wide)
    offset = torch.full((x.shape[1],), k, dtype=wide, device=x.device)
    forward, back = alpha * band, (-2 * alpha * beta) * band
    for x_part, g_part, out_part in zip(rows.split(ROWS), grad_rows.split(ROWS), out.split(ROWS), strict=True):
        x_wide = x_part.to(wide)
        d = torch.addmm(offset, x_wide * x_wide, forward)
        scaled = _power(d, beta).mul_(g_part)
        inner = torch.mm((x_wide * scaled).div_(d), back)
        out_part.copy_(scaled.add_(inner.mul_(x_wide)))
    return _maps(out, x)


def _rows(x: Tensor) -> Tensor:
    """Return [N, C, H, W] as pixels [N * H * W, C]; a view if x is channels-last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _maps(rows: Tensor, like: Tensor) -> Tensor:
    n, c, h, w = like.shape
    return rows.view(n, h, w, c).permute(0, 3, 1, 2)


def _power(d: Tensor, beta: float) -> Tensor:
    """Return d^-beta for d > 0. For beta = 0.75 it uses square roots, which are many times cheaper than `pow`."""
    if beta == 0.75:
        root = d.rsqrt()
        return root.sqrt().mul_(root)
    return d.pow(-beta)


@_lrn.register_fake
def _(x, size, alpha, beta, k, groups):
    return torch.empty_like(x, memory_format=torch.channels_last)


@_lrn_backward.register_fake
def _(grad, x, size, alpha, beta, k, groups):
    return torch.empty_like(x, memory_format=torch.channels_last)


def _setup_context(ctx, inputs, output) -> None:
    x, *ctx.constants = inputs
    ctx.save_for_backward(x)


def _autograd(ctx, grad: Tensor):
    (x,) = ctx.saved_tensors
    return _lrn_backward(grad, x, *ctx.constants), None, None, None, None, None


_lrn.register_autograd(_autograd, setup_context=_setup_context)


@_lrn.register_kernel("cuda")
def _(x, size, alpha, beta, k, groups):
    from train.lrn_triton import forward

    return forward(x, size, alpha, beta, k, groups)


@_lrn_backward.register_kernel("cuda")
def _(grad, x, size, alpha, beta, k, groups):
    from train.lrn_triton import backward

    return backward(grad, x, size, alpha, beta, k, groups)
