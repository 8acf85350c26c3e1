"""The plugin's kernel without TensorRT: the CUDA driver loads it from PTX and launches it with the same parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from alexnet_infer.errors import BackendError
from alexnet_infer.export.lrn_plugin.kernel import BLOCK, Kernel

Launch = Callable[[int, int, int, int], None]
"""Called with (address of x, images, address of y, handle of a stream). Launches the kernel without waiting for it."""


def load(kernel: Kernel) -> Launch:
    """Load the kernel in this thread's current CUDA context. Raises BackendError if the driver refuses it."""
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
    """Call a driver function and return its result, or None if it has none. Raises BackendError if the call fails."""
    from cuda.bindings import driver

    status, *values = getattr(driver, function)(*arguments)
    if status != driver.CUresult.CUDA_SUCCESS:
        raise BackendError(f"the GPU failed: {function} returned {status.name}")
    return values[0] if values else None
