"""Stage 3: the TensorRT plugin's LRN kernel, launched by the CUDA driver, and the engine backend around it.

Results:

- `kernel`: the LRN layers of the paper's net with one and two columns, in float32 and float16. Every tactic is compared
  with the float64 definition on activations in the hundreds. The time of the fastest one is compared with the memory
  floor, a copy of the same number of bytes.
- `engine`: see replay.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor

from alexnet_infer.architecture import LRN, Shape
from alexnet_infer.backends.reference import lrn
from alexnet_infer.export.lrn_plugin.kernel import Dtype, Kernel, compile_ptx
from alexnet_infer.export.lrn_plugin.plugin import TACTICS
from alexnet_infer.presets import preset
from benchmarks.gpu import replay
from benchmarks.gpu.context import NEEDS_GPU, Context
from benchmarks.gpu.driver import Launch, load
from benchmarks.gpu.timing import medians

TYPES: dict[Dtype, Any] = {"fp32": np.float32, "fp16": np.float16}
TOLERANCES: dict[Dtype, float] = {"fp32": 4e-6, "fp16": 2**-11 * 1.01}
"""Relative errors. fp32: a few roundings and the GPU's approximate roots. fp16: the rounding of the result."""
IMAGES = 512
"""Images in a timed batch, so that its tensors are several times larger than the GPU's cache."""
CHECKED = 4
"""Number of different images, which are repeated to fill the batch."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """An LRN layer on maps [N, *shape]."""

    spec: LRN
    shape: Shape
    dtype: Dtype

    @property
    def name(self) -> str:
        return f"{self.spec.name} {self.dtype} groups {self.spec.groups}"


def run(context: Context) -> None:
    if context.device.type != "cuda":
        context.record("kernel", NEEDS_GPU)
        context.record("engine", NEEDS_GPU)
        return
    torch.empty(1, device=context.device)  # creates the CUDA context in which the driver loads kernels
    capability = torch.cuda.get_device_capability(context.device)
    rows: dict[str, Any] = {}
    with ThreadPoolExecutor() as pool:  # NVRTC compiles in threads
        compiled = {layer: pool.map(compiler(layer, capability), TACTICS) for layer in layers()}
        for layer, kernels in compiled.items():
            launches = {kernel.plan.parts: load(kernel) for kernel in kernels}
            rows[layer.name] = measure(layer, launches, IMAGES, context.device)
            context.record("kernel", rows)
    with context.attempt("engine"):
        context.record("engine", replay.check(capability, load))


def layers() -> Iterator[Layer]:
    """Yield both LRN layers of the paper's net in every form that the plugin supports."""
    for step in preset("alexnet").steps:
        if isinstance(step.operation, LRN):
            for dtype in TYPES:
                for groups in (1, 2):
                    yield Layer(spec=replace(step.operation, groups=groups), shape=step.input, dtype=dtype)


def compiler(layer: Layer, capability: tuple[int, int]) -> Callable[[int], Kernel]:
    """Return a function that compiles the layer's kernel for a tactic."""
    return lambda parts: compile_ptx(layer.spec, *layer.shape, layer.dtype, capability, parts)


def measure(layer: Layer, launches: dict[int, Launch], images: int, device: torch.device) -> dict[str, Any]:
    """Return the largest error of all tactics and the time of the fastest; `images` must be a multiple of `CHECKED`."""
    rng = np.random.default_rng(0)
    inputs = np.maximum(rng.normal(0, 300, (CHECKED, *layer.shape)), 0).astype(TYPES[layer.dtype])
    expected = torch.from_numpy(lrn(inputs.astype(np.float64), layer.spec)).to(device)
    x = torch.from_numpy(inputs).to(device).repeat(images // CHECKED, 1, 1, 1)
    y = torch.empty_like(x)

    def launcher(launch: Launch) -> Callable[[], None]:
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        return lambda: launch(x.data_ptr(), images, y.data_ptr(), stream)

    calls = {parts: launcher(launch) for parts, launch in launches.items()}
    errors = {}
    for parts, call in calls.items():
        y.fill_(torch.nan)  # reveals values that the kernel doesn't write
        call()
        errors[parts] = largest_error(y, expected)
    times = medians({"copy": lambda: y.copy_(x), **calls}, device, budget=0.1)
    copy = times.pop("copy")
    fastest = min(times, key=times.__getitem__)
    error, tolerance = max(errors.values()), TOLERANCES[layer.dtype]
    return {
        "passed": error <= tolerance,
        "error": error,
        "tolerance": tolerance,
        "images": images,
        "parts": fastest,
        "seconds": times[fastest],
        "floor": copy,
        "over_floor": times[fastest] / copy,
        "bytes_per_second": 2 * x.nbytes / times[fastest],
        "seconds_by_parts": times,
    }


def largest_error(y: Tensor, expected: Tensor) -> float:
    """Return the largest relative error of y [images, ...], which repeats `expected` [CHECKED, ...].

    The error is infinite if a value is NaN.
    """
    error = 0.0
    for block in y.split(len(expected)):
        relative = (block.double() - expected).abs() / expected.abs().clamp(min=2.0**-14)
        error = max(error, float(relative.nan_to_num(torch.inf).max()))
    return error
