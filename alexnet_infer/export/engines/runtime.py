"""TensorRT and TensorRT-RTX as they are installed, the GPU they find, and what they say of an engine."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from alexnet_infer.errors import BackendError, ModelFileError, one_line, visible
from alexnet_infer.export.engines.files import Built, EngineFlavor


@dataclass(frozen=True)
class Library:
    """TensorRT or TensorRT-RTX, imported, and what it has complained of since `errors` was last cleared."""

    flavor: EngineFlavor
    module: ModuleType
    title: str
    logger: Any
    errors: list[str]

    @property
    def version(self) -> str:
        """As in "11.4.0.106"."""
        return self.module.__version__

    def start(self, kind: str) -> Any:
        """Its "Builder" or "Runtime". Raises BackendError where CUDA's library or driver is none that it can use."""
        self.errors.clear()
        try:
            return getattr(self.module, kind)(self.logger)
        except (TypeError, RuntimeError) as error:  # what pybind11 makes of a null pointer
            complaint = self.complaint(one_line(error))
            raise BackendError(
                f"{self.title} {self.version} can't start: {complaint}; see whether nvidia-smi's driver is new enough"
            ) from None

    def complaint(self, otherwise: str) -> str:
        """The first error since `errors` was cleared, as one line; `otherwise` where there is none."""
        return visible(" ".join(self.errors[0].split())[:300]) if self.errors else otherwise


@cache
def load_library(flavor: EngineFlavor) -> Library:
    """TensorRT's Python package. Raises BackendError, with the pip line, where it is missing or has no library."""
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

    return Library(
        flavor, module, title, Logger(), errors
    )  # one for the process: TensorRT keeps the first logger it is given


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as engines are built for it: its name, its compute capability ("8.6"), and its driver's version."""

    name: str
    capability: str
    driver: str


def this_gpu() -> Gpu:
    """The first GPU, made this thread's current one. Raises BackendError, with the reason, where none works."""
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
        raise BackendError(f"no NVIDIA GPU that works here ({reason}): see what nvidia-smi says") from None
    with suppress(Exception):  # NVML, which knows more than CUDA's version, isn't in every container
        version = ".".join(str(part) for part in system.get_kernel_mode_driver_version())
    return Gpu(name=visible(name), capability=f"{major}.{minor}", driver=version)


def deserialize(library: Library, plan: bytes) -> tuple[Any, Any]:
    """The runtime and the engine of a plan, which must be known to be harmless: an engine is code.

    Raises ModelFileError when this runtime doesn't take it, BackendError when the runtime can't start.
    """
    runtime = library.start("Runtime")
    library.errors.clear()
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ModelFileError(f"{library.title} {library.version} doesn't take it: {library.complaint('damaged')}")
    return runtime, engine


def inspect(built: Built) -> str:
    """What TensorRT's inspector says of an engine: its layers, as JSON text. Needs the GPU that it is for.

    Raises BackendError without one, ModelFileError when the runtime doesn't take the engine.
    """
    library = load_library(built.description.runtime.flavor)
    this_gpu()
    _, engine = deserialize(library, built.plan)
    return engine.create_engine_inspector().get_engine_information(library.module.LayerInformationFormat.JSON)
