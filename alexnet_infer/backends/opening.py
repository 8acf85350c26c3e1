"""From a model file to the backend that runs it: our own model files, exported ONNX files, and engines."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from alexnet_infer.artifact import Artifact, Manifest, load_artifact, load_manifest
from alexnet_infer.backends import Backend, Device, Runtime
from alexnet_infer.errors import BackendError, UsageError
from alexnet_infer.export.info import ExportInfo
from alexnet_infer.preprocess import Views

ENGINE_SUFFIXES = (".engine", ".plan", ".trt")
EXPORTED_SUFFIXES = (".onnx", *ENGINE_SUFFIXES)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A model file that is ready to run."""

    manifest: Manifest
    backend: Backend
    views: Views | None
    """The views that the file cuts and averages itself, if it does."""


def describe(path: Path) -> tuple[Manifest, ExportInfo | None]:
    """What the file `path` says of itself, without its weights; the second is of exported files. Raises ModelFileError."""
    if path.suffix in ENGINE_SUFFIXES:
        from alexnet_infer.export.engine import read_description

        description = read_description(path)
        return description.manifest, description.info
    if path.suffix == ".onnx":
        from alexnet_infer.export.onnx_file import read_model

        file = read_model(path)
        return file.manifest, file.info
    return load_manifest(path), None


def open_model(path: Path, *, device: Device = "auto", runtime: Runtime = "auto", trust_engine: bool = False) -> Opened:
    """Opens the net in the file `path`; what kind of file it is follows from its name.

    Raises ModelFileError when the file can't be used, BackendError when a runtime or device is missing or can't run
    this kind of file, UsageError for other values of `device` and `runtime`.
    """
    if device not in get_args(Device):
        raise UsageError(f"device={device!r}: expected auto, cpu or cuda")
    if runtime not in get_args(Runtime):
        raise UsageError(f"backend={runtime!r}: expected {', '.join(get_args(Runtime))}")
    if path.suffix in ENGINE_SUFFIXES:
        return _open_engine(path, device, runtime, trust_engine)
    if path.suffix == ".onnx":
        return _open_onnx(path, device, runtime)
    return _open_artifact(path, device, runtime)


def _open_engine(path: Path, device: Device, runtime: Runtime, trust_engine: bool) -> Opened:
    from alexnet_infer.backends.engine import EngineBackend

    for option, value in (("--device", device), ("--backend", runtime)):
        if value in ("cpu", "onnxruntime", "openvino"):
            raise BackendError(f"{option} {value}: {path} is an engine, which runs in TensorRT on a GPU; leave it out")
    backend = EngineBackend(path, trust=trust_engine)
    views = backend.info.views
    return Opened(manifest=backend.manifest, backend=backend, views=None if views == "none" else views)


def _open_artifact(path: Path, device: Device, runtime: Runtime) -> Opened:
    if runtime == "openvino":
        artifact = load_artifact(path)
    else:
        from alexnet_infer.backends.onnxruntime import import_runtime

        with ThreadPoolExecutor(1) as background:  # weights are read and converted while the runtime is imported
            reading = background.submit(load_artifact, path)
            import_runtime()
            artifact = reading.result()
    return Opened(manifest=artifact.manifest, backend=_on_runtime(artifact, device, runtime), views=None)


def _open_onnx(path: Path, device: Device, runtime: Runtime) -> Opened:
    from alexnet_infer.backends.onnxruntime import OnnxRuntimeBackend
    from alexnet_infer.export.onnx_file import read_model

    file = read_model(path)
    if runtime == "openvino":
        from alexnet_infer.backends.openvino import OpenVinoBackend

        _cpu_only(device)
        backend: Backend = OpenVinoBackend(file)
    else:
        backend = OnnxRuntimeBackend(file, device)
    return Opened(manifest=file.manifest, backend=backend, views=None if file.info.views == "none" else file.info.views)


def _on_runtime(artifact: Artifact, device: Device, runtime: Runtime) -> Backend:
    from alexnet_infer.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(artifact, device)


def _cpu_only(device: Device) -> None:
    if device == "cuda":
        raise BackendError("--backend openvino --device cuda: OpenVINO runs on CPUs here; leave one of them out")
