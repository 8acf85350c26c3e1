"""A lower limit ("floor") for the time a CPU takes to run a net in float32.

It is the larger of two times: the net's multiply-adds at the rate of a large matrix product, and one read of its
weights from memory. In int8 a CPU multiplies faster and may take less time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alexnet_infer.benchmark.timing import Run, Timing

SQUARE = 1536
"""Rows of the square matrices whose product measures the arithmetic rate."""

TALL = 8192
"""Rows of the square matrix that is read to measure the memory rate: 268 MB, larger than nearly all caches."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The measured rates of this CPU with all cores."""

    flops: float
    """Float32 operations per second; a multiply-add is two."""
    bandwidth: float
    """Bytes read from memory per second."""

    @classmethod
    def of(cls, product: Timing, reading: Timing) -> Machine:
        """Return the rates from the times of the two `probes`: medians, as for nets, since load slows all of them."""
        return cls(flops=2 * SQUARE**3 / product.p50, bandwidth=4 * TALL**2 / reading.p50)

    def floor(self, multiply_adds: int, weight_bytes: int) -> float:
        """Return the minimum time in seconds of a call with these float32 multiply-adds and bytes of weights."""
        return max(2 * multiply_adds / self.flops, weight_bytes / self.bandwidth)


def probes() -> Sequence[Run]:
    """Return the two calls to time for `Machine.of`: a matrix product, and a matrix-vector product.

    The matrix-vector product reads its matrix once. Both run in NumPy's BLAS on all cores. Together they hold 290 MB.
    """
    rng = np.random.default_rng(0)
    square = rng.standard_normal((SQUARE, SQUARE), np.float32)
    product = np.empty_like(square)
    tall = np.ones((TALL, TALL), np.float32)
    vector = np.ones(TALL, np.float32)
    return [lambda: np.matmul(square, square, out=product), lambda: tall @ vector]
