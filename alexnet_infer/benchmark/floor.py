"""The time below which a CPU can't run a net: its matrix products at the best rate, or its weights read once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from alexnet_infer.benchmark.timing import measure

SQUARE = 2048
"""Rows of the matrices whose product gives the rate: large enough to reach it, small enough to take no time."""

COPIED_BYTES = 2**28
"""Read to measure the memory's rate: more than any cache holds."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What this CPU was measured to do, with all cores."""

    flops: float
    """Float32 operations a second, in a large matrix product of NumPy's BLAS."""
    bandwidth: float
    """Bytes a second that are read from memory."""

    def floor(self, multiply_adds: int, weight_bytes: int) -> float:
        """Seconds that a call with so many multiply-adds and bytes of weights takes at least, in float32."""
        return max(2 * multiply_adds / self.flops, weight_bytes / self.bandwidth)


@cache
def measure_machine() -> Machine:
    """Measures this machine, in about a second; the best of several runs counts, since it is to be a limit."""
    square = np.random.default_rng(0).standard_normal((SQUARE, SQUARE), np.float32)
    product = np.empty_like(square)
    multiply = measure(lambda: np.matmul(square, square, out=product), seconds=0.7, rounds=2, warmup=1)
    return Machine(flops=2 * SQUARE**3 / min(multiply.seconds), bandwidth=_bandwidth())
