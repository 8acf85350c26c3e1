"""LRN on CUDA for channels-last maps: a kernel for the forward pass and one for the backward pass.

train/lrn.py has the formulas. In memory, a channels-last map is a sequence of channels, pixel after pixel. Each thread
computes one *vector* of adjacent channels: 16 bytes, or less if a column is not a multiple of that, so that no vector
spans two columns. The rest of its windows is in the vectors before and after it, which neighbouring threads compute.
These loads hit the first-level cache. So every value is read from memory once and written once (2 tensors forward, 3
backward), without shared memory.

Per value, the kernels execute 17 instructions forward and 36 backward in bfloat16, and 19 and 43 in float32. In the
time that its memory needs for the same value, an H200 can execute 27 and 41 in bfloat16, and 55 and 82 in float32.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128
"""Threads per program; each computes one vector."""
BYTES = 16
"""Maximum size of one load or store of a thread."""


@triton.jit
def _split(x):
    """Return x [BLOCK, WIDTH] as a tuple of WIDTH tensors [BLOCK]."""
    if x.shape[1] == 1:
        channels = (tl.reshape(x, [x.shape[0]]),)
    else:
        low, high = tl.split(tl.trans(tl.reshape(x, [x.shape[0], 2, x.shape[1] // 2]), 0, 2, 1))
        channels = _split(low) + _split(high)
    return channels


@triton.jit
def _join(channels):
    """Inverse of `_split`."""
    if len(channels) == 1:
        x = tl.reshape(channels[0], [channels[0].shape[0], 1])
    else:
        low, high = _join(channels[: len(channels) // 2]), _join(channels[len(channels) // 2 :])
        x = tl.reshape(tl.trans(tl.join(low, high), 0, 2, 1), [low.shape[0], len(channels)])
    return x


@triton.jit
def _load(x_ptr, vectors, SIDE: tl.constexpr, COLUMN: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Load a program's vectors, each with the SIDE vectors before and after it.

    Returns a tuple of (2 * SIDE + 1) * WIDTH float32 tensors [BLOCK], in the order of the channels. Channels outside of
    the vector's column, which has COLUMN vectors, are 0.
    """
    program, thread = tl.program_id(0), tl.arange(0, BLOCK)
    vector = program.to(tl.int64) * BLOCK + thread
    place = (program % COLUMN * BLOCK + thread) % COLUMN  # vector % COLUMN without a 64-bit division
    channels = ()
    for side in tl.static_range(-SIDE, SIDE + 1):
        inside = (vector < vectors) & (place + side >= 0) & (place + side < COLUMN)
        at = (vector + side)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
        channels += _split(tl.load(x_ptr + at, mask=inside[:, None], other=0.0).to(tl.float32))
    return channels


@triton.jit
def _store(y_ptr, channels, vectors, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Store a tuple of WIDTH tensors [BLOCK], which must have the type of y."""
    vector = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    at = vector[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.store(y_ptr + at, _join(channels), mask=(vector < vectors)[:, None])


@triton.jit
def _powers(x, i: tl.constexpr, alpha, beta, k, REACH: tl.constexpr, ROOTS: tl.constexpr):
    """Return (d^-beta, 1 / d) for channel i of the tuple x. ROOTS: beta is 0.75, so two square roots suffice."""
    total = x[i - REACH] * x[i - REACH]
    for j in tl.static_range(i - REACH + 1, i + REACH + 1):
        total += x[j] * x[j]
    d = k + alpha * total
    if ROOTS:
        root = tl.rsqrt(d)
        power, inverse = root * tl.sqrt(root), root * root
    else:
        power, inverse = tl.exp2(-beta * tl.log2(d)), 1.0 / d
    return power, inverse


@triton.jit(do_not_specialize=["vectors"])
def _forward(
    x_ptr, y_ptr, vectors, alpha, beta, k,
    REACH: tl.constexpr, ROOTS: tl.constexpr, COLUMN: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    side: tl.constexpr = (REACH + WIDTH - 1) // WIDTH
    x = _load(x_ptr, vectors, side, COLUMN, WIDTH, BLOCK)
    y = ()
    for i in tl.static_range(side * WIDTH, (side + 1) * WIDTH):
        power, _ = _powers(x, i, alpha, beta, k, REACH, ROOTS)
        y += ((x[i] * power).to(y_ptr.dtype.element_ty),)
    _store(y_ptr, y, vectors, WIDTH, BLOCK)


@triton.jit(do_not_specialize=["vectors"])
def _backward(
    grad_ptr, x_ptr, out_ptr, vectors, alpha, beta, k,
    REACH: tl.constexpr, ROOTS: tl.constexpr, COLUMN: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    side: tl.constexpr = (2 * REACH + WIDTH - 1) // WIDTH
    first: tl.constexpr = side * WIDTH
    x = _load(x_ptr, vectors, side, COLUMN, WIDTH, BLOCK)
    grad = _load(grad_ptr, vectors, side, COLUMN, WIDTH, BLOCK)
    # g d^-beta and g x d^(-beta-1) for the vector's channels and for those that share a window with them.
    scaled, inner = (), ()
    for i in tl.static_range(first - REACH, first + WIDTH + REACH):
        power, inverse = _powers(x, i, alpha, beta, k, REACH, ROOTS)
        scaled += (grad[i] * power,)
        inner += (grad[i] * power * x[i] * inverse,)
    out = ()
    for i in tl.static_range(WIDTH):
        total = inner[i]
        for j in tl.static_range(i + 1, i + 2 * REACH + 1):
            total += inner[j]
        value = scaled[i + REACH] - 2.0 * alpha * beta * x[first + i] * total
        out += (value.to(out_ptr.dtype.element_ty),)
    _store(out_ptr, out, vectors, WIDTH, BLOCK)


def forward(x: Tensor, size: int, alpha: float, beta: float, k: float, groups: int) -> Tensor:
    """Return y for x [N, C, H, W] (float32, bfloat16 or float16): channels-last, in x's type, computed in float32."""
    return _launch(_forward, [x], size, alpha, beta, k, groups)


def backward(grad: Tensor, x: Tensor, size: int, alpha: float, beta: float, k: float, groups: int) -> Tensor:
    """Return dL/dx for `grad` = dL/dy and x, both [N, C, H, W]: channels-last, in x's type, computed in float32."""
    return _launch(_backward, [grad, x], size, alpha, beta, k, groups)


def _launch(kernel, inputs: list[Tensor], size: int, alpha: float, beta: float, k: float, groups: int) -> Tensor:
    inputs = [tensor.contiguous(memory_format=torch.channels_last) for tensor in inputs]
    x = inputs[-1]
    out = torch.empty_like(x)
    column = x.shape[1] // groups
    width = math.gcd(column, BYTES // x.element_size())
    vectors = x.numel() // width
    with torch.cuda.device_of(x):  # Triton launches on the current device, not on the tensors' device
        kernel[(triton.cdiv(vectors, BLOCK),)](
            *inputs, out, vectors, alpha, beta, k,
            REACH=size // 2,
            ROOTS=beta == 0.75,
            COLUMN=column // width,
            WIDTH=width,
            BLOCK=BLOCK,
            num_warps=BLOCK // 32,
            enable_fp_fusion=True,
        )  # fmt: skip
    return out
