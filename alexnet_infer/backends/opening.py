"""From a file or a server's address to the backend: model files, exported ONNX files, engines, served nets."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from alexnet_infer.artifact import Artifact, load_artifact, load_manifest, sha256
from alexnet_infer.backends import Backend, Choice, Device, outputs_of
from alexnet_infer.backends.remote.address import ServerAddress, Source
from alexnet_infer.errors import BackendError, ModelFileError, SpecError, UsageError
from alexnet_infer.layers import PROBABILITIES
from alexnet_infer.manifest import Manifest
from alexnet_infer.packages import installed
from alexnet_infer.preprocess import Views
from alexnet_infer.recognize import ENGINE, ONNX, by_content, by_suffix

if TYPE_CHECKING:
    from alexnet_infer.graph.file import OnnxFile
    from alexnet_infer.graph.info import ExportInfo, FileViews

ENGINE_SUFFIXES = (".engine", ".plan", ".trt")
"""An engine is told by its suffix. Only if the content is certainly of another kind, that counts."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A model file, exported ONNX file, engine or served net that is ready to run."""

    manifest: Manifest
    backend: Backend
    files: tuple[Path, ...] = ()
    """The file, and the file beside it that holds its weights, if there is one. Empty for a served net."""
    info: ExportInfo | None = None
    """What an exported file takes and how it computes; None for a model file, or if a server doesn't say it."""
    stamp: tuple[int, ...] = ()
    """What `os.stat` said of the file when it was opened, to notice that it was replaced."""
    address: ServerAddress | None = None
    """Where a served net is; None for a file."""
    views: Views | None = None
    """The views that an exported file or a server cuts and averages itself; None if it takes patches."""

    @property
    def source(self) -> Source:
        """The net's file or its address."""
        return self.path if self.address is None else self.address

    @property
    def path(self) -> Path:
        """The net's file. Not for a served net."""
        return self.files[0]

    @property
    def has_weights(self) -> bool:
        """Whether the weights can be read: this is a model file."""
        return self.address is None and self.info is None

    @property
    def members(self) -> list[str]:
        """What identifies each net in it: the SHA-256 of the model file that it was exported from, or its own.

        It is the address of a served net whose server doesn't promise which net it is.
        """
        if self.info is None or self.sha256 is None:
            return [self.sha256 or str(self.source)]
        return [member.sha256 for member in self.info.members]

    @cached_property
    def sha256(self) -> str | None:
        """SHA-256 of the file, in hexadecimal, without the file beside it. Read when it is first asked for.

        For a served net, the digest that the server gives, or None: then nothing says that it is the same net later.
        """
        return sha256(self.path) if self.address is None else self.backend.sha256


def file_kind(path: Path) -> Literal["engine", "onnx", "model"]:
    """Return what kind of net a file is: by its content or, if that says nothing, by its suffix.

    Everything that is neither an engine nor ONNX is "model", also a file that is missing or no net: its reader gives
    the cause.
    """
    try:
        kind = by_content(path)
    except (OSError, SpecError):
        kind = None
    if path.suffix in ENGINE_SUFFIXES and kind in (None, ENGINE):
        return "engine"
    return "onnx" if (kind or by_suffix(path)) is ONNX else "model"


def is_exported(path: Path) -> bool:
    """Return whether a net's file is an exported one, ONNX or an engine. Its weights can't be read."""
    return file_kind(path) != "model"


def is_engine(source: Source) -> bool:
    """Return whether the name of a net's file is that of an engine."""
    return isinstance(source, Path) and source.suffix in ENGINE_SUFFIXES


def chooses_runtime(source: Source) -> bool:
    """Return whether a user may choose the runtime and the device of a net: not of an engine or a served net."""
    return isinstance(source, Path) and not is_engine(source)


def describe(path: Path) -> tuple[Manifest, ExportInfo | None]:
    """Return the manifest of the file `path`, and for exported files its export info. Raises ModelFileError."""
    kind = file_kind(path)
    if kind == "engine":
        from alexnet_infer.engines.files import read_description

        description = read_description(path)
        return description.manifest, description.info
    if kind == "onnx":
        from alexnet_infer.graph.file import read_model

        file = read_model(path)
        return file.manifest, file.info
    return load_manifest(path), None


def open_model(
    path: Source,
    *,
    device: Device = "auto",
    backend: Choice = "auto",
    trust_engine: bool = False,
    views: FileViews = "none",
    outputs: Sequence[str] | None = None,
) -> Opened:
    """Open the net in the file `path`, a model file, an exported ONNX file or an engine, or the net on a server.

    `views` applies to model files only: the views that the backend may cut and average itself. On a GPU it does so, and
    takes squares. `outputs` are the layers to compute, by default what an exported file returns, or the probabilities.

    Raises ModelFileError if the file can't be used, BackendError if a runtime or device is missing or can't run this
    kind of file, and UsageError if `device`, `backend` or an output is unknown. For a server, raises the errors of
    `RemoteBackend`.
    """
    if device not in get_args(Device):
        raise UsageError(f"device={device!r}: expected auto, cpu or cuda")
    if backend not in get_args(Choice):
        raise UsageError(f"backend={backend!r}: expected {', '.join(get_args(Choice))}")
    if isinstance(path, ServerAddress):
        return _open_server(path, device, backend, outputs)
    kind, stamp = file_kind(path), _stamp(path)
    if kind == "engine":
        if outputs not in (None, (PROBABILITIES,)):
            raise UsageError(
                f"{path}: an engine, which returns only probabilities: expected the model file or an .onnx"
            )
        return _open_engine(path, stamp, device, backend, trust_engine)
    if kind == "onnx":
        return _open_onnx(path, stamp, device, backend, outputs)
    return _open_artifact(path, stamp, device, backend, views, outputs)


def reopened(opened: Opened, outputs: Sequence[str], views: FileViews) -> Opened:
    """Open a net's file again, in the same runtime on the same device, to compute other layers.

    Raises ModelFileError if the file has changed since it was opened, and the errors of `open_model`.
    """
    backend = opened.backend
    if opened.address is not None:
        raise UsageError(f"{opened.address}: a server, which returns only probabilities: expected the model file")
    runtime = backend.runtime if backend.runtime in get_args(Choice) else "auto"
    again = open_model(opened.path, device=backend.device, backend=runtime, views=views, outputs=outputs)
    if again.stamp != opened.stamp:
        raise ModelFileError(f"{opened.path}: has changed since it was loaded: load it again")
    return again


def _open_engine(path: Path, stamp: tuple[int, ...], device: Device, backend: Choice, trust_engine: bool) -> Opened:
    from alexnet_infer.backends.engine import EngineBackend

    for option, value in (("--device", device), ("--backend", backend)):
        if value not in ("auto", "cuda"):
            raise BackendError(
                f"{option} {value}: {path} is an engine, which runs in TensorRT on a GPU; leave out {option}"
            )
    engine = EngineBackend(path, trust=trust_engine)
    return _exported(engine.manifest, engine, engine.info, (path,), stamp)


def _open_server(address: ServerAddress, device: Device, backend: Choice, outputs: Sequence[str] | None) -> Opened:
    from alexnet_infer.backends.remote.backend import RemoteBackend

    for option, value in (("--device", device), ("--backend", backend)):
        if value != "auto":
            raise BackendError(f"{option} {value}: {address} is a server, which runs the net; leave out {option}")
    if outputs is not None and tuple(outputs) != (PROBABILITIES,):
        raise UsageError(f"{address}: a server, which returns only probabilities: expected the model file")
    remote = RemoteBackend(address, None if address.manifest is None else describe(address.manifest)[0])
    model = remote.model
    info = model.served and model.served.info
    return Opened(manifest=model.manifest, backend=remote, info=info, address=address, views=model.views)


def _open_artifact(
    path: Path,
    stamp: tuple[int, ...],
    device: Device,
    backend: Choice,
    views: FileViews,
    outputs: Sequence[str] | None,
) -> Opened:
    from alexnet_infer.backends.onnxruntime import import_runtime

    with ThreadPoolExecutor(1) as background:  # reads and converts the weights while the runtime is imported
        reading = background.submit(load_artifact, path)
        if backend == "onnxruntime" or (backend == "auto" and not installed("openvino")):
            import_runtime()
        artifact = reading.result()
    started = _start(artifact, device, backend, views, outputs)
    return Opened(manifest=artifact.manifest, backend=started, files=(path,), stamp=stamp)


def _open_onnx(
    path: Path, stamp: tuple[int, ...], device: Device, backend: Choice, outputs: Sequence[str] | None
) -> Opened:
    from alexnet_infer.graph.file import read_model

    file = read_model(path)
    files = (path, *file.data)
    started = _start(file, device, backend, "none", outputs)
    return _exported(file.manifest, started, file.info, files, stamp)


def _exported(
    manifest: Manifest, backend: Backend, info: ExportInfo, files: tuple[Path, ...], stamp: tuple[int, ...]
) -> Opened:
    views = None if info.views == "none" else info.views
    return Opened(manifest=manifest, backend=backend, info=info, files=files, stamp=stamp, views=views)


def _start(
    net: Artifact | OnnxFile, device: Device, backend: Choice, views: FileViews, outputs: Sequence[str] | None
) -> Backend:
    outputs_of(net, outputs)  # before runtimes are timed
    chosen = _faster(net, device) if backend == "auto" else backend
    if chosen != "onnxruntime" and device == "cuda":
        name = {"openvino": "OpenVINO", "reference": "the reference"}[chosen]
        raise BackendError(f"--backend {chosen} --device cuda: {name} runs on the CPU only; leave out one of the two")
    if chosen == "openvino":
        from alexnet_infer.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(net, outputs)
    if chosen == "reference":
        from alexnet_infer.backends.reference import ReferenceBackend

        if not isinstance(net, Artifact):
            raise BackendError(
                f"--backend reference: {net.path} is an exported file; expected the trained net that it was made from"
            )
        return ReferenceBackend(net, outputs)
    from alexnet_infer.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(net, device, views, outputs)


def _stamp(path: Path) -> tuple[int, ...]:
    """Return the time of the last change, the size and the identity of a file; nothing if it can't be opened."""
    try:
        status = path.stat()
    except OSError:  # the reader says why
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _faster(net: Artifact | OnnxFile, device: Device) -> Choice:
    """The faster runtime on the CPU, or ONNX Runtime if it may use a GPU."""
    if device == "cuda" or not installed("openvino"):
        return "onnxruntime"
    from alexnet_infer.backends.choice import choose_cpu_backend
    from alexnet_infer.backends.onnxruntime import CUDA, import_runtime

    if device == "auto" and installed("onnxruntime") and CUDA in import_runtime().get_available_providers():
        return "onnxruntime"
    return choose_cpu_backend(net)
