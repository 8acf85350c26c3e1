"""ONNX Runtime, on a CPU or a CUDA GPU."""

from __future__ import annotations

import os
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_infer.artifact import Artifact
from alexnet_infer.backends import Device, checked, infer_in_calls
from alexnet_infer.errors import BackendError, ModelFileError, one_line
from alexnet_infer.export.onnx_graph import OUTPUT, build_onnx

if TYPE_CHECKING:
    from alexnet_infer.export.onnx_file import OnnxFile

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

PREPACK_BYTES = 64_000_000
"""Below this, ONNX Runtime is told not to lay the weights out anew. That makes the full-size net 13 % faster, but the
embedded one not at all, and takes 40 ms, a sixth of the time that the first photo takes."""


class OnnxRuntimeBackend:
    """A net of our own model file, or an exported ONNX file, in an ONNX Runtime session.

    "auto" takes a CUDA GPU where one works and the CPU otherwise; a device asked for by name is used or refused. A GPU
    doesn't round float32 to TF32. On a CPU a float16 file is rounded as its operations say (see half.py), which takes
    longer than float32. Raises BackendError when ONNX Runtime or the device is missing, ModelFileError when ONNX
    Runtime can't run the file.
    """

    def __init__(self, net: Artifact | OnnxFile, device: Device = "auto") -> None:
        ort = import_runtime()
        if device == "cuda" and CUDA not in ort.get_available_providers():
            raise BackendError(
                "--device cuda: this ONNX Runtime has no CUDA support; "
                'pip uninstall onnxruntime && pip install "alexnet-infer[gpu]"'
            )
        wanted = [CPU] if device == "cpu" or CUDA not in ort.get_available_providers() else [CUDA, CPU]
        if CUDA in wanted and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # the CUDA libraries that come as wheels are not on the loader's path
        open_session = _session_of_artifact if isinstance(net, Artifact) else _session_of_file
        self._session = open_session(ort, net, wanted)
        provider = self._session.get_providers()[0]
        if provider != CUDA and device == "cuda":
            raise BackendError("--device cuda: ONNX Runtime could not start CUDA; check the driver with nvidia-smi")
        if provider == CPU and CUDA in wanted:  # auto, and the GPU failed: run the CPU's own form
            self._session = open_session(ort, net, [CPU])
        self._input = self._session.get_inputs()[0].name
        self._classes = len(net.manifest.classes)
        self._path = None if isinstance(net, Artifact) else net.path
        info = None if isinstance(net, Artifact) else net.info
        self.takes_squares = info is not None and info.takes_squares
        self._size = info.batch.max if info is not None and info.batch.fixed else None
        precision = f", {info.precision}" if info is not None and info.precision != "fp32" else ""
        self.description = f"ONNX Runtime {ort.__version__}, {provider}{precision}"

    def infer(self, inputs: np.ndarray) -> np.ndarray:
        """Patches float32 [N, 3, patch, patch], mean subtracted, or squares uint8 [N, S, S, 3] for a file that cuts its
        views itself -> class probabilities float32 [N, classes]. Raises ModelFileError when an exported file can't be
        run after all, or gives something else."""
        return self._call(inputs) if self._size is None else infer_in_calls(self._call, inputs, self._size)

    def _call(self, inputs: np.ndarray) -> np.ndarray:
        try:
            found = self._session.run([OUTPUT], {self._input: inputs})[0]
        except Exception as error:  # ONNX Runtime's errors have no base of their own
            if self._path is None:
                raise
            raise ModelFileError(f"{self._path}: ONNX Runtime can't run it ({one_line(error)})") from None
        return found if self._path is None else checked(found, inputs, self._classes, self._path)


def import_runtime() -> ModuleType:
    """ONNX Runtime, and with it what builds a graph for it. Raises BackendError when it is missing.

    From 1.29 on its Linux builds report to Microsoft, and keep a number for this user, from the import on; a variable
    is all that stops it. Whoever has set it decides.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f'ONNX Runtime is missing ({error}): pip install "alexnet-infer[cpu]", or "alexnet-infer[gpu]" for CUDA'
        ) from None
    onnxruntime.set_default_logger_severity(3)  # its warnings are for those who develop it
    return onnxruntime


def _session_of_artifact(ort: ModuleType, artifact: Artifact, providers: list[str]) -> Any:
    options = _options(ort)
    weights: dict[str, np.ndarray] = {}
    # The GPU has a good LRN kernel; the CPU's is the slowest part of the net.
    model = build_onnx(artifact, "op" if CUDA in providers else "conv", weights).SerializeToString()
    values = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value)) for value in weights.values()]
    options.add_external_initializers(list(weights), values)
    if sum(value.nbytes for value in weights.values()) < PREPACK_BYTES:
        options.add_session_config_entry("session.disable_prepacking", "1")
    return ort.InferenceSession(model, options, providers=_configured(providers))


def _session_of_file(ort: ModuleType, file: OnnxFile, providers: list[str]) -> Any:
    try:
        source = str(file.path) if file.data else file.content
        if file.info.precision == "fp16" and CUDA not in providers and not file.data:
            from alexnet_infer.export.half import rounded

            source = rounded(file.content)
        return ort.InferenceSession(source, _options(ort), providers=_configured(providers))
    except Exception as error:  # ONNX Runtime's errors have no base of their own
        raise ModelFileError(f"{file.path}: ONNX Runtime can't run it ({one_line(error)})") from None


def _configured(providers: list[str]) -> list[Any]:
    return [(name, {"use_tf32": "0"}) if name == CUDA else name for name in providers]


def _options(ort: ModuleType) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return options
