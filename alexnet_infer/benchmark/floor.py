"""A lower limit ("floor") for the time a CPU takes to run a net in float32.

It is the larger of two times: the net's multiply-adds at the highest rate that anything reached here, and one read of
its weights from memory. In int8 a CPU multiplies faster, so these rates limit only float.

No single product has the highest rate on every machine: NumPy's BLAS may run a kernel for older CPUs, and then a net
in another library takes less than such a "limit". So several products are timed, and a net that is faster than all of
them sets the limit itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from alexnet_infer.benchmark.timing import Run, Timing
from alexnet_infer.packages import installed

SQUARE = 1536
"""Rows of the square matrices whose product measures the arithmetic rate."""

IMAGES, PATCHES = 8, 64
"""Patches of the convolution and of the fully-connected layer that measure it in ONNX Runtime: 2.4 and 2.1 GFLOP."""

TALL = 8192
"""Rows of the square matrix that is read to measure the memory rate: 268 MB, larger than nearly all caches."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A call that shows one rate of the machine: `flops` operations or, if those are 0, `nbytes` bytes read."""

    name: str
    """For "measured with ..."."""
    run: Run
    flops: int = 0
    nbytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The highest measured rates of this CPU with all cores."""

    flops: float
    """Float32 operations per second; a multiply-add is two."""
    flops_of: str
    """What reached it."""
    bandwidth: float
    """Bytes read from memory per second."""
    bandwidth_of: str

    @classmethod
    def of(cls, probes: Sequence[Probe], timings: Iterable[Timing]) -> Machine:
        """Return the best rates of `probes`. Times are medians, as for nets, since load slows all of them."""
        machine = cls(flops=0.0, flops_of="", bandwidth=0.0, bandwidth_of="")
        for probe, timing in zip(probes, timings, strict=True):
            machine = machine.including(probe.name, probe.flops, probe.nbytes, timing.p50)
        return machine

    def including(self, name: str, flops: int, nbytes: int, seconds: float) -> Machine:
        """Return the rates of a machine that did this in `seconds`: its own, or higher ones if it was faster."""
        machine = self
        if flops > machine.flops * seconds:
            machine = replace(machine, flops=flops / seconds, flops_of=name)
        if nbytes > machine.bandwidth * seconds:
            machine = replace(machine, bandwidth=nbytes / seconds, bandwidth_of=name)
        return machine

    def floor(self, multiply_adds: int, weight_bytes: int) -> float:
        """Return the minimum time in seconds of a call with these float32 multiply-adds and bytes of weights."""
        return max(2 * multiply_adds / self.flops, weight_bytes / self.bandwidth)


def probes() -> list[Probe]:
    """Return the calls to time for `Machine.of`: products in NumPy and, if installed, ONNX Runtime; reading a matrix.

    All run on all cores. Together they hold 440 MB.
    """
    return [make() for make in _makers()]


def probe_count() -> int:
    """Return how many `probes` there are."""
    return len(_makers())


def _makers() -> list[Callable[[], Probe]]:
    runtime = [_runtime_product, _runtime_convolution] if installed("onnxruntime") else []
    return [_numpy_product, *runtime, _reading]


def _numpy_product() -> Probe:
    square = np.random.default_rng(0).standard_normal((SQUARE, SQUARE), np.float32)
    product = np.empty_like(square)
    return Probe(
        name="a matrix product in NumPy", run=lambda: np.matmul(square, square, out=product), flops=2 * SQUARE**3
    )


def _runtime_product() -> Probe:
    from alexnet_infer.backends.products import dense

    flops, run = dense(PATCHES)
    return Probe(name="a fully-connected layer in ONNX Runtime", run=run, flops=flops)


def _runtime_convolution() -> Probe:
    from alexnet_infer.backends.products import convolution

    flops, run = convolution(IMAGES)
    return Probe(name="a convolution in ONNX Runtime", run=run, flops=flops)


def _reading() -> Probe:
    """A matrix-vector product, which reads its matrix once."""
    tall = np.ones((TALL, TALL), np.float32)
    vector = np.ones(TALL, np.float32)
    return Probe(name="reading a matrix", run=lambda: tall @ vector, nbytes=tall.nbytes)
