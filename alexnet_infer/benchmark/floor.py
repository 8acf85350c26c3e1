"""The time below which a CPU can't run a net in float32: its matrix products at the best rate, or its weights read
once. In int8 a CPU multiplies faster, and may go below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alexnet_infer.benchmark.timing import Run, Timing

SQUARE = 1536
"""Rows of the square matrices whose product gives the rate of arithmetic."""

TALL = 8192
"""Rows of the square matrix that is read to measure the memory: 256 MB, more than nearly every cache holds."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What this CPU was measured to do with all cores."""

    flops: float
    """Float32 operations a second."""
    bandwidth: float
    """Bytes a second that are read from memory."""

    @classmethod
    def of(cls, product: Timing, reading: Timing) -> Machine:
        """From the times of the two `probes`. Medians, as of the nets: on a busy machine all are slower alike."""
        return cls(flops=2 * SQUARE**3 / product.p50, bandwidth=4 * TALL**2 / reading.p50)

    def floor(self, multiply_adds: int, weight_bytes: int) -> float:
        """Seconds that a call with so many float32 multiply-adds and bytes of weights takes at least."""
        return max(2 * multiply_adds / self.flops, weight_bytes / self.bandwidth)


def probes() -> Sequence[Run]:
    """What is timed for `Machine.of`: a matrix product, and a matrix times a vector, which reads the matrix once. Both
    run in NumPy's BLAS, on all cores. They hold 280 MB."""
    rng = np.random.default_rng(0)
    square = rng.standard_normal((SQUARE, SQUARE), np.float32)
    product = np.empty_like(square)
    tall = np.ones((TALL, TALL), np.float32)
    vector = np.ones(TALL, np.float32)
    return [lambda: np.matmul(square, square, out=product), lambda: tall @ vector]
