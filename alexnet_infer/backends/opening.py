"""From a file to the backend that runs it: model files, exported ONNX files, and engines."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from alexnet_infer.artifact import Artifact, load_artifact, load_manifest
from alexnet_infer.backends import Backend, Device, Runtime
from alexnet_infer.errors import BackendError, UsageError
from alexnet_infer.manifest import Manifest
from alexnet_infer.preprocess import Views

if TYPE_CHECKING:
    from alexnet_infer.graph.file import OnnxFile
    from alexnet_infer.graph.info import ExportInfo, FileViews

ENGINE_SUFFIXES = (".engine", ".plan", ".trt")
EXPORTED_SUFFIXES = (".onnx", *ENGINE_SUFFIXES)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A model file, exported ONNX file or engine that is ready to run."""

    manifest: Manifest
    backend: Backend
    views: Views | None
    """The views that an exported file cuts and averages itself; None if it takes patches."""


def describe(path: Path) -> tuple[Manifest, ExportInfo | None]:
    """Return the manifest of the file `path`, and for exported files its export info. Raises ModelFileError."""
    if path.suffix in ENGINE_SUFFIXES:
        from alexnet_infer.engines.files import read_description

        description = read_description(path)
        return description.manifest, description.info
    if path.suffix == ".onnx":
        from alexnet_infer.graph.file import read_model

        file = read_model(path)
        return file.manifest, file.info
    return load_manifest(path), None


def open_model(
    path: Path,
    *,
    device: Device = "auto",
    runtime: Runtime = "auto",
    trust_engine: bool = False,
    views: FileViews = "none",
) -> Opened:
    """Open the net in the file `path`, whose suffix says what kind of file it is.

    `views` applies to model files only: the views that the backend may cut and average itself. On a GPU it does so, and
    takes squares.

    Raises ModelFileError if the file can't be used, BackendError if a runtime or device is missing or can't run this
    kind of file, and UsageError if `device` or `runtime` is unknown.
    """
    if device not in get_args(Device):
        raise UsageError(f"device={device!r}: expected auto, cpu or cuda")
    if runtime not in get_args(Runtime):
        raise UsageError(f"backend={runtime!r}: expected {', '.join(get_args(Runtime))}")
    if path.suffix in ENGINE_SUFFIXES:
        return _open_engine(path, device, runtime, trust_engine)
    if path.suffix == ".onnx":
        return _open_onnx(path, device, runtime)
    return _open_artifact(path, device, runtime, views)


def _open_engine(path: Path, device: Device, runtime: Runtime, trust_engine: bool) -> Opened:
    from alexnet_infer.backends.engine import EngineBackend

    for option, value in (("--device", device), ("--backend", runtime)):
        if value in ("cpu", "onnxruntime", "openvino"):
            raise BackendError(
                f"{option} {value}: {path} is an engine, which runs in TensorRT on a GPU; leave out {option}"
            )
    backend = EngineBackend(path, trust=trust_engine)
    views = backend.info.views
    return Opened(manifest=backend.manifest, backend=backend, views=None if views == "none" else views)


def _open_artifact(path: Path, device: Device, runtime: Runtime, views: FileViews) -> Opened:
    from alexnet_infer.backends.onnxruntime import import_runtime

    with ThreadPoolExecutor(1) as background:  # reads and converts the weights while the runtime is imported
        reading = background.submit(load_artifact, path)
        if runtime == "onnxruntime" or (runtime == "auto" and not find_spec("openvino")):
            import_runtime()
        artifact = reading.result()
    return Opened(manifest=artifact.manifest, backend=_on_runtime(artifact, device, runtime, views), views=None)


def _open_onnx(path: Path, device: Device, runtime: Runtime) -> Opened:
    from alexnet_infer.graph.file import read_model

    file = read_model(path)
    views = file.info.views
    backend = _on_runtime(file, device, runtime)
    return Opened(manifest=file.manifest, backend=backend, views=None if views == "none" else views)


def _on_runtime(net: Artifact | OnnxFile, device: Device, runtime: Runtime, views: FileViews = "none") -> Backend:
    if runtime == "auto":
        runtime = _faster(net, device)
    if runtime == "openvino":
        if device == "cuda":
            raise BackendError(
                "--backend openvino --device cuda: OpenVINO runs on the CPU only; leave out one of the two"
            )
        from alexnet_infer.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(net)
    from alexnet_infer.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(net, device, views)


def _faster(net: Artifact | OnnxFile, device: Device) -> Runtime:
    """The faster runtime on the CPU, or ONNX Runtime if it may use a GPU."""
    if device == "cuda" or not find_spec("openvino"):
        return "onnxruntime"
    from alexnet_infer.backends.choice import choose_cpu_backend
    from alexnet_infer.backends.onnxruntime import CUDA, import_runtime

    if device == "auto" and find_spec("onnxruntime") and CUDA in import_runtime().get_available_providers():
        return "onnxruntime"
    return choose_cpu_backend(net)
