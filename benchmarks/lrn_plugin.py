"""The TensorRT plugin's LRN kernel on a GPU, without TensorRT: its PTX, loaded and launched by the driver.

    python benchmarks/lrn_plugin.py [--images N] [--json]

First the numbers, against the float64 definition on activations in the hundreds; exit code 1 where they are off. Then
the time, by CUDA events, against the memory floor: a copy of the same bytes on the same GPU, which reads every value
once and writes it once. Each figure is a median over interleaved rounds of one run, so that ratios hold. The tensors
are meant to be several times as large as the GPU's cache: with fewer images both times are the cache's.
Needs an NVIDIA GPU, and says so with exit code 5 where there is none.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alexnet_infer.architecture import LRN
from alexnet_infer.backends.reference import lrn
from alexnet_infer.errors import BackendError, one_line
from alexnet_infer.export.lrn_plugin.kernel import BLOCK, Dtype, Kernel, compile_ptx
from alexnet_infer.export.lrn_plugin.plugin import TACTICS, device_capability

MAPS = {"conv1": (96, 55, 55), "conv2": (256, 27, 27)}
TYPES: dict[Dtype, Any] = {"fp32": np.float32, "fp16": np.float16}
TOLERANCES: dict[Dtype, float] = {"fp32": 4e-6, "fp16": 2**-11 * 1.01}
"""Relative: a few roundings and the GPU's approximate roots; half's own rounding."""
CHECKED = 4
"""Images whose values are compared, and repeated to fill the timed tensors."""
LAUNCHES, ROUNDS = 10, 15


class Gpu:
    """The first GPU through the driver. Raises BackendError when there is none or a call fails."""

    def __init__(self) -> None:
        try:
            from cuda.bindings import driver

            self._driver = driver
            self.call("cuInit", 0)
        except ImportError as error:
            raise BackendError(f'CUDA\'s bindings are missing ({error}): pip install "alexnet-infer[trt]"') from None
        except RuntimeError as error:  # the library of the driver isn't there
            raise BackendError(f"no NVIDIA GPU: {one_line(error)}") from None
        device = self.call("cuDeviceGet", 0)
        self.call("cuCtxSetCurrent", self.call("cuDevicePrimaryCtxRetain", device))
        self.name = self.call("cuDeviceGetName", 100, device).split(b"\0")[0].decode()
        self.stream = self.call("cuStreamCreate", 0)
        self._events = [self.call("cuEventCreate", 0) for _ in range(2)]

    def call(self, function: str, *arguments: Any) -> Any:
        """The one value that a driver function gives, or None."""
        status, *values = getattr(self._driver, function)(*arguments)
        if status != self._driver.CUresult.CUDA_SUCCESS:
            what = "no NVIDIA GPU" if function == "cuInit" else "the GPU failed"
            fix = "; take fewer --images" if status.name == "CUDA_ERROR_OUT_OF_MEMORY" else ""
            raise BackendError(f"{what}: {function} says {status.name}{fix}")
        return values[0] if values else None

    def upload(self, values: np.ndarray, times: int) -> Any:
        """Device memory that holds `values` `times` times, one behind the other."""
        memory = self.call("cuMemAlloc", values.nbytes * times)
        for i in range(times):
            self.call("cuMemcpyHtoD", int(memory) + i * values.nbytes, values.ctypes.data, values.nbytes)
        return memory

    def download(self, memory: Any, like: np.ndarray) -> np.ndarray:
        """The values at the beginning of `memory`."""
        values = np.empty_like(like)
        self.call("cuMemcpyDtoH", values.ctypes.data, memory, values.nbytes)
        return values

    def launcher(self, kernel: Kernel, x: Any, images: int, y: Any) -> Callable[[], None]:
        """Launches as TensorRT does: input, scalar, output."""
        ptx = np.frombuffer(kernel.ptx + b"\0", np.uint8)
        module = self.call("cuModuleLoadData", ptx.ctypes.data)
        function = self.call("cuModuleGetFunction", module, kernel.name.encode())
        arguments = [np.array([int(x)], np.uint64), np.array([images], np.int32), np.array([int(y)], np.uint64)]
        addresses = np.array([argument.ctypes.data for argument in arguments], np.uint64)
        sizes = (*kernel.plan.grid(images), BLOCK, 1, 1)

        def launch(_: object = arguments) -> None:  # which must outlive the launch, as only their addresses are passed
            self.call("cuLaunchKernel", function, *sizes, 0, self.stream, addresses.ctypes.data, 0)

        return launch

    def seconds(self, launch: Callable[[], None]) -> float:
        """Of one launch among many."""
        before, after = self._events
        launch()
        self.call("cuEventRecord", before, self.stream)
        for _ in range(LAUNCHES):
            launch()
        self.call("cuEventRecord", after, self.stream)
        self.call("cuEventSynchronize", after)
        return self.call("cuEventElapsedTime", before, after) / LAUNCHES / 1e3


@dataclass(frozen=True, kw_only=True)
class Row:
    """One layer: its largest relative error over all tactics, and microseconds with the fastest."""

    maps: str
    dtype: Dtype
    groups: int
    images: int
    error: float
    parts: int
    kernel_us: float
    copy_us: float
    gigabytes_per_second: float

    @property
    def right(self) -> bool:
        return self.error <= TOLERANCES[self.dtype]


def measure(gpu: Gpu, maps: str, dtype: Dtype, groups: int, images: int) -> Row:
    spec = LRN(name="norm", groups=groups)
    rng = np.random.default_rng(0)
    some = np.maximum(rng.normal(0, 300, (CHECKED, *MAPS[maps])), 0).astype(TYPES[dtype])
    expected = lrn(some.astype(np.float64), spec)
    times = -(-images // CHECKED)
    images, size = times * CHECKED, times * some.nbytes
    x, y = gpu.upload(some, times), gpu.call("cuMemAlloc", size)

    runs: dict[int, Callable[[], None]] = {}
    error = 0.0
    for parts in TACTICS:
        runs[parts] = gpu.launcher(compile_ptx(spec, *MAPS[maps], dtype, device_capability(), parts), x, images, y)
        gpu.call("cuMemsetD8", y, 0xFF, size)  # not numbers, so that what isn't written shows
        runs[parts]()
        gpu.call("cuStreamSynchronize", gpu.stream)
        for block in (0, times - 1):
            found = gpu.download(int(y) + block * some.nbytes, some).astype(np.float64)
            difference = np.abs(found - expected) / np.maximum(np.abs(expected), 2.0**-14)
            error = max(error, float(difference.max()) if np.isfinite(found).all() else float("inf"))

    launches = {0: lambda: gpu.call("cuMemcpyDtoDAsync", y, x, size, gpu.stream), **runs}
    found_times: dict[int, list[float]] = {key: [] for key in launches}
    for _ in range(ROUNDS):
        for key, launch in launches.items():
            found_times[key].append(gpu.seconds(launch))
    medians = {key: statistics.median(values) for key, values in found_times.items()}
    for memory in (x, y):
        gpu.call("cuMemFree", memory)
    parts = min(TACTICS, key=medians.__getitem__)
    return Row(
        maps=maps,
        dtype=dtype,
        groups=groups,
        images=images,
        error=error,
        parts=parts,
        kernel_us=medians[parts] * 1e6,
        copy_us=medians[0] * 1e6,
        gigabytes_per_second=2 * size / medians[parts] / 1e9,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512, help="images in a batch, rounded up to a multiple of 4")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.images < 1:
        parser.error(f"--images {arguments.images}: expected at least 1")
    try:
        gpu = Gpu()
        rows = [
            measure(gpu, maps, dtype, groups, arguments.images) for maps in MAPS for dtype in TYPES for groups in (1, 2)
        ]
    except BackendError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    if arguments.json:
        print(json.dumps({"gpu": gpu.name, "rows": [asdict(row) for row in rows]}))
    else:
        print(f"{gpu.name}, {rows[0].images} images; the floor is a copy of the same bytes")
        for row in rows:
            print(
                f"{row.maps} {row.dtype} groups {row.groups}: {row.kernel_us:8.1f} us, floor {row.copy_us:8.1f} us, "
                f"{row.kernel_us / row.copy_us:.2f} of it, {row.gigabytes_per_second:5.0f} GB/s, {row.parts} parts, "
                f"largest relative error {row.error:.1e}{'' if row.right else '  WRONG'}"
            )
    if not all(row.right for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
