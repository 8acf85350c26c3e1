"""The plugin's kernel without TensorRT: loaded from its PTX by CUDA's driver, and launched with the same parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from alexnet_infer.errors import BackendError
from alexnet_infer.export.lrn_plugin.kernel import BLOCK, Kernel

Launch = Callable[[int, int, int, int], None]
"""(address of x, images, address of y, handle of a stream): launches and doesn't wait."""


def load(kernel: Kernel) -> Launch:
    """The kernel in this thread's current CUDA context. Raises BackendError when the driver refuses it."""
    ptx = np.frombuffer(kernel.ptx + b"\0", np.uint8)
    module = call("cuModuleLoadData", ptx.ctypes.data)  # stays loaded until the process ends
    function = call("cuModuleGetFunction", module, kernel.name.encode())

    def launch(x: int, images: int, y: int, stream: int) -> None:
        arguments = [np.array([x], np.uint64), np.array([images], np.int32), np.array([y], np.uint64)]
        addresses = np.array([argument.ctypes.data for argument in arguments], np.uint64)
        grid = kernel.plan.grid(images)
        call("cuLaunchKernel", function, *grid, BLOCK, 1, 1, 0, stream, addresses.ctypes.data, 0)

    return launch


def call(function: str, *arguments: Any) -> Any:
    """The one value that a driver function gives, or None. Raises BackendError where it fails."""
    from cuda.bindings import driver

    status, *values = getattr(driver, function)(*arguments)
    if status != driver.CUresult.CUDA_SUCCESS:
        raise BackendError(f"the GPU failed: {function} says {status.name}")
    return values[0] if values else None
