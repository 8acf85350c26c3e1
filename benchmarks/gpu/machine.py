"""Stage 1: installed versions, the device, and the ceilings that other stages are compared with.

Results: `versions`, `device` and `ceilings`. The ceilings are bytes/s of a copy on the device (bytes read plus bytes
written) and of a copy from pinned memory, and FLOP/s of a product of two square random matrices in each precision.
"""

from __future__ import annotations

import os
import platform
from importlib import import_module
from typing import Any

import torch

from alexnet_infer.engines.library import this_gpu
from alexnet_infer.errors import BackendError, one_line
from benchmarks.gpu.context import NEEDS_GPU, Context
from benchmarks.gpu.timing import seconds

PACKAGES = ("numpy", "triton", "cuda.bindings", "cuda.core", "onnxruntime", "tensorrt", "tensorrt_rtx")


def run(context: Context) -> None:
    context.record("versions", versions())
    context.record("device", device_facts(context.device))
    ceilings: dict[str, Any] = {}
    for name, measure in (("copy", copy_rate), ("upload", upload_rate)):
        ceilings[name] = measure(context)
        context.record("ceilings", ceilings)
    for name, dtype, tf32 in (
        ("bf16", torch.bfloat16, False),
        ("tf32", torch.float32, True),
        ("fp32", torch.float32, False),
    ):
        ceilings[name] = matrix_rate(context, dtype, tf32)
        context.record("ceilings", ceilings)


def versions() -> dict[str, Any]:
    """Return the version of each package, or why it can't be imported, the execution providers and the driver."""
    result: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    for name in PACKAGES:
        try:
            result[name] = import_module(name).__version__
        except Exception as error:  # a broken package may raise anything
            result[name] = f"missing: {one_line(error)}"
    try:
        from onnxruntime import get_available_providers

        result["onnxruntime_providers"] = get_available_providers()
    except Exception:
        result["onnxruntime_providers"] = []
    try:
        result["driver"] = this_gpu().driver
    except BackendError as error:
        result["driver"] = str(error)
    return result


def device_facts(device: torch.device) -> dict[str, Any]:
    """Return the device's name and sizes. Memory and cache are in bytes."""
    host = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device.type != "cuda":
        return {"name": "CPU", **host}
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory": properties.total_memory,
        "free_memory": torch.cuda.mem_get_info(device)[0],
        "multiprocessors": properties.multi_processor_count,
        "cache": properties.L2_cache_size,
        **host,
    }


def copy_rate(context: Context) -> float:
    """Return the bytes read and written per second by a copy on the device that is larger than any cache."""
    size = 2**26 if context.miniature else 2**30
    source = torch.ones(size, dtype=torch.uint8, device=context.device)
    target = torch.empty_like(source)
    return 2 * size / seconds(target.copy_, context.device, [(source,)], budget=budget_of(context))


def upload_rate(context: Context) -> float | str:
    """Return the bytes per second of a copy from pinned memory to the device."""
    if context.device.type != "cuda":
        return NEEDS_GPU
    size = 2**28
    source = torch.ones(size, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(size, dtype=torch.uint8, device=context.device)
    return size / seconds(lambda: target.copy_(source, non_blocking=True), context.device)


def matrix_rate(context: Context, dtype: torch.dtype, tf32: bool) -> float | str:
    """Return the FLOP/s of a large matrix product; a multiply-add counts as two.

    The matrices are random, since zeros take less power and so run at a higher clock.
    """
    if tf32 and context.device.type != "cuda":
        return NEEDS_GPU
    round_to_tf32(tf32)
    n = 512 if context.miniature else 8192
    a, b = (torch.randn(n, n, device=context.device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * n**3 / seconds(lambda: torch.mm(a, b, out=out), context.device, budget=budget_of(context))


def budget_of(context: Context) -> float:
    return 0.02 if context.miniature else 0.5


def round_to_tf32(on: bool) -> None:
    """Set whether float32 matrix products and convolutions on the GPU round their factors to TF32 in this process."""
    torch.set_float32_matmul_precision("high" if on else "highest")
    torch.backends.cudnn.allow_tf32 = on
