"""LRN for training: a differentiable torch operator for CPUs and CUDA GPUs.

The layer is y = x * d^-beta with d = k + alpha * S(x^2), where S is the sum over a window of channels in one column.
With g = dL/dy, its gradient is

    dL/dx = g * d^-beta - 2 alpha beta x * S(g * x * d^(-beta-1))

On a CPU, S is a product with a banded matrix of zeros and ones, and the forward pass keeps d^-1/2 for the backward
pass: loading it is cheaper than computing it again. On a GPU it is not; train/lrn_triton.py has the kernels.
`torch.nn.LocalResponseNorm` has no columns, pads and copies its input, and calls `pow`; see benchmarks/lrn_training.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from alexnet_infer.architecture import LRN

BLOCK = 2**18
"""Values that a CPU processes at a time, 1 MiB in float32. The backward pass handles seven such blocks, which fit in
the caches. With much smaller ones, starting the operations takes a large part of the time."""


def lrn(x: Tensor, spec: LRN) -> Tensor:
    """Return the LRN of x [N, C, H, W] (float32, float64, bfloat16 or float16), channels-last, in x's type.

    Computed in float32, or in float64 for float64 on a CPU. Differentiable.
    """
    return _lrn(x, spec.size, spec.alpha, spec.beta, spec.k, spec.groups)[0]


def band_matrix(channels: int, size: int) -> Tensor:
    """Return float32 [channels, channels]: entry i, j is 1 if channel j is in the window of channel i, else 0."""
    index = torch.arange(channels)
    return ((index[:, None] - index).abs() <= size // 2).float()


@torch.library.custom_op("alexnet_infer::lrn", mutates_args=())
def _lrn(x: Tensor, size: int, alpha: float, beta: float, k: float, groups: int) -> tuple[Tensor, Tensor]:
    """Return y [N, C, H, W], channels-last, and for the backward pass d^-1/2 [N * H * W, C], or nothing on a GPU.

    A CPU writes d^-1/2 in evaluation too, because an operator can't see whether a gradient will be needed.
    """
    rows = _rows(x)
    wide = torch.promote_types(x.dtype, torch.float32)
    y, roots = rows.new_empty(rows.shape), rows.new_empty(rows.shape, dtype=wide)
    window = alpha * band_matrix(x.shape[1] // groups, size).to(wide)
    for x_part, y_part, root in _blocks(rows, y, roots):
        x_wide = x_part.to(wide)
        _sums(x_wide * x_wide, window, out=root)
        root.add_(k).rsqrt_()
        torch.mul(_power(root, beta), x_wide, out=y_part)
    return _maps(y, x), roots


@torch.library.custom_op("alexnet_infer::lrn_backward", mutates_args=())
def _lrn_backward(
    grad: Tensor, x: Tensor, roots: Tensor, size: int, alpha: float, beta: float, k: float, groups: int
) -> Tensor:
    rows, grad_rows = _rows(x), _rows(grad)
    out = rows.new_empty(rows.shape)
    window = (-2 * alpha * beta) * band_matrix(x.shape[1] // groups, size).to(roots.dtype)
    for x_part, g_part, root, out_part in _blocks(rows, grad_rows, roots, out):
        x_wide = x_part.to(roots.dtype)
        scaled = _power(root, beta).mul_(g_part)
        inner = (x_wide * scaled).mul_(root).mul_(root)
        torch.addcmul(scaled, _sums(inner, window, out=torch.empty_like(inner)), x_wide, out=out_part)
    return _maps(out, x)


def _blocks(*pixels: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split each of `pixels` [N, C] along N into parts of about `BLOCK` values."""
    return zip(*(part.split(max(1, BLOCK // part.shape[1])) for part in pixels), strict=True)


def _sums(values: Tensor, window: Tensor, out: Tensor) -> Tensor:
    """Write values @ window into `out`, separately for each column. All are pixels [N, C] but `window` [C/g, C/g]."""
    for own, sums in zip(values.split(len(window), 1), out.split(len(window), 1), strict=True):
        torch.mm(own, window, out=sums)
    return out


def _rows(x: Tensor) -> Tensor:
    """Return [N, C, H, W] as pixels [N * H * W, C]; a view if x is channels-last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _maps(rows: Tensor, like: Tensor) -> Tensor:
    n, c, h, w = like.shape
    return rows.view(n, h, w, c).permute(0, 3, 1, 2)


def _power(root: Tensor, beta: float) -> Tensor:
    """Return d^-beta, given d^-1/2. For beta = 0.75 it uses a square root, which is many times cheaper than `pow`."""
    return root.sqrt().mul_(root) if beta == 0.75 else root.pow(2 * beta)


@_lrn.register_fake
def _(x, size, alpha, beta, k, groups):
    y = torch.empty_like(x, memory_format=torch.channels_last)
    if x.is_cuda:
        return y, x.new_empty(0)
    n, c, h, w = x.shape
    return y, x.new_empty(n * h * w, c, dtype=torch.promote_types(x.dtype, torch.float32))


@_lrn_backward.register_fake
def _(grad, x, roots, size, alpha, beta, k, groups):
    return torch.empty_like(x, memory_format=torch.channels_last)


def _setup_context(ctx, inputs, output) -> None:
    x, *ctx.constants = inputs
    roots = output[1]
    ctx.mark_non_differentiable(roots)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, roots)


def _autograd(ctx, grad: Tensor | None, _):
    x, roots = ctx.saved_tensors
    x_grad = None if grad is None else _lrn_backward(grad, x, roots, *ctx.constants)
    return x_grad, None, None, None, None, None


_lrn.register_autograd(_autograd, setup_context=_setup_context)


@_lrn.register_kernel("cuda")
def _(x, size, alpha, beta, k, groups):
    from train.lrn_triton import forward

    return forward(x, size, alpha, beta, k, groups), x.new_empty(0)


@_lrn_backward.register_kernel("cuda")
def _(grad, x, roots, size, alpha, beta, k, groups):
    from train.lrn_triton import backward

    return backward(grad, x, size, alpha, beta, k, groups)
