"""The installed TensorRT and TensorRT-RTX, and the GPU they find."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from alexnet_infer.engines.files import EngineFlavor
from alexnet_infer.errors import BackendError, ModelFileError, one_line, printable


@dataclass(frozen=True)
class Library:
    """TensorRT or TensorRT-RTX, imported. `errors` holds the errors that it logged since the list was last cleared."""

    flavor: EngineFlavor
    module: ModuleType
    title: str
    logger: Any
    errors: list[str]

    @property
    def version(self) -> str:
        """The version, such as "11.4.0.106"."""
        return self.module.__version__

    def start(self, kind: str) -> Any:
        """Create the library's "Builder" or "Runtime". Raises BackendError if it can't use CUDA's library or driver."""
        self.errors.clear()
        try:
            return getattr(self.module, kind)(self.logger)
        except (TypeError, RuntimeError) as error:  # pybind11 raises these for a null pointer
            complaint = self.complaint(one_line(error))
            raise BackendError(
                f"{self.title} {self.version} can't start: {complaint}; check the driver's version with nvidia-smi"
            ) from None

    def complaint(self, otherwise: str) -> str:
        """Return the first error since `errors` was cleared, as one line, or `otherwise` if there is none."""
        return one_line(self.errors[0]) if self.errors else otherwise


@cache
def load_library(flavor: EngineFlavor) -> Library:
    """Import TensorRT's Python package. Raises BackendError with the pip command if it or its library is missing."""
    title, extra = ("TensorRT-RTX", "rtx") if flavor == "rtx" else ("TensorRT", "trt")
    try:
        if flavor == "rtx":
            import tensorrt_rtx as module
        else:
            import tensorrt as module
    except (ImportError, OSError) as error:
        raise BackendError(f'{title} is missing ({one_line(error)}): pip install "alexnet-infer[{extra}]"') from None
    errors: list[str] = []

    class Logger(module.ILogger):
        def log(self, severity: Any, message: str) -> None:
            if severity <= module.ILogger.ERROR:
                errors.append(message)

    # Cached for the process, because TensorRT keeps the first logger that it is given.
    return Library(flavor, module, title, Logger(), errors)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU to build engines for: its name, its compute capability ("8.6") and its driver's version.

    Without NVML, the version is that of the newest CUDA that the driver supports.
    """

    name: str
    capability: str
    driver: str


def this_gpu() -> Gpu:
    """Make the first GPU current in this thread, and return it. Raises BackendError with the reason if no GPU works."""
    try:
        from cuda.bindings import driver as cuda
        from cuda.core import Device, system
    except ImportError as error:
        raise BackendError(
            f'CUDA for Python is missing ({one_line(error)}): pip install "alexnet-infer[trt]" or "alexnet-infer[rtx]"'
        ) from None
    try:
        device = Device(0)
        device.set_current()
        name, (major, minor) = device.name, device.compute_capability
        version = str(cuda.cuDriverGetVersion()[1])
    except Exception as error:  # CUDA's errors have no public class
        reason = one_line(error).partition(". ")[0]
        raise BackendError(f"no working NVIDIA GPU ({reason}): check with nvidia-smi") from None
    with suppress(Exception):  # NVML has the driver's own version, but isn't in every container
        version = ".".join(str(part) for part in system.get_kernel_mode_driver_version())
    return Gpu(name=printable(name), capability=f"{major}.{minor}", driver=version)


def deserialize(library: Library, plan: bytes) -> tuple[Any, Any]:
    """Return the runtime and the engine of a plan. The plan must be trusted, because an engine is code.

    Raises ModelFileError if this runtime can't load it, BackendError if the runtime can't start.
    """
    runtime = library.start("Runtime")
    library.errors.clear()
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ModelFileError(f"{library.title} {library.version} can't load it: {library.complaint('damaged')}")
    return runtime, engine
