"""Stage 1: what is installed, which device it finds, and the ceilings that other stages are measured against.

Results: `versions`, `device`, and `ceilings`: bytes/s of a copy on the device (read plus written) and from pinned
memory, FLOP/s of a product of two square matrices of random numbers in each precision.
"""

from __future__ import annotations

import os
import platform
from importlib import import_module
from typing import Any

import torch

from alexnet_infer.errors import BackendError, one_line
from alexnet_infer.export.engines.runtime import this_gpu
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
    """Version of each package, or why it can't be imported; and what comes with them."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    for name in PACKAGES:
        try:
            found[name] = import_module(name).__version__
        except Exception as error:  # a broken package may raise anything
            found[name] = f"missing: {one_line(error)}"
    try:
        from onnxruntime import get_available_providers

        found["onnxruntime_providers"] = get_available_providers()
    except Exception:
        found["onnxruntime_providers"] = []
    try:
        found["driver"] = this_gpu().driver
    except BackendError as error:
        found["driver"] = str(error)
    return found


def device_facts(device: torch.device) -> dict[str, Any]:
    """The device's name and size; memory in bytes."""
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
    """Bytes read and written in a second by a copy on the device, of a size beyond any cache."""
    size = 2**26 if context.miniature else 2**30
    source = torch.ones(size, dtype=torch.uint8, device=context.device)
    target = torch.empty_like(source)
    return 2 * size / seconds(target.copy_, context.device, [(source,)], budget=budget_of(context))


def upload_rate(context: Context) -> float | str:
    """Bytes a second from pinned memory to the device."""
    if context.device.type != "cuda":
        return NEEDS_GPU
    size = 2**28
    source = torch.ones(size, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(size, dtype=torch.uint8, device=context.device)
    return size / seconds(lambda: target.copy_(source, non_blocking=True), context.device)


def matrix_rate(context: Context, dtype: torch.dtype, tf32: bool) -> float | str:
    """FLOP/s, two of them a multiply-add, of a large matrix product. Of random numbers: zeros take less power, and so
    run at a higher clock."""
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
    """Whether float32 matrix products and convolutions on the GPU round what they multiply to TF32, in this process."""
    torch.set_float32_matmul_precision("high" if on else "highest")
    torch.backends.cudnn.allow_tf32 = on
