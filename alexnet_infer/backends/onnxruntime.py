"""ONNX Runtime, on a CPU or a CUDA GPU."""

from __future__ import annotations

import io
import os
import re
from contextlib import redirect_stdout
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_infer.artifact import Artifact
from alexnet_infer.backends import Device, checked, infer_in_calls
from alexnet_infer.errors import BackendError, ModelFileError, one_line
from alexnet_infer.export.onnx_graph import OUTPUT, build_onnx

if TYPE_CHECKING:
    from onnx import ModelProto

    from alexnet_infer.export.info import FileViews
    from alexnet_infer.export.onnx_file import OnnxFile

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
ERROR, FATAL = 3, 4
"""What ONNX Runtime logs, at least. Its warnings are for those who develop it."""

CUDA_OPTIONS = {
    "use_tf32": "0",  # which would round float32 to 10 bits
    # Timing all algorithms of every convolution takes 0.3 to 1.3 s for each new number of images.
    "cudnn_conv_algo_search": "HEURISTIC",
}
GPU_SQUARES = 64
"""Squares that go through a GPU at once: ten views of each keep it busy, and take 2 GB in the full-size net."""

PREPACK_BYTES = 64_000_000
"""Below this, ONNX Runtime is told not to lay the weights out anew. That makes the full-size net 13 % faster, but the
embedded one not at all, and takes 40 ms, a sixth of the time that the first photo takes."""


class OnnxRuntimeBackend:
    """A net of our own model file, or an exported ONNX file, in an ONNX Runtime session.

    "auto" takes a CUDA GPU where one works and the CPU otherwise; a device asked for by name is used or refused. A GPU
    doesn't round float32 to TF32. On a CPU a float16 file is rounded as its operations say (see half.py), which takes
    longer than float32.

    On a GPU, a net of our own model file takes squares and averages `views` of them itself, unless these are "none":
    197 KB per image of 256 pixels then go to the GPU, and not 6.2 MB of patches. On a CPU it takes patches.

    Raises BackendError when ONNX Runtime or the device is missing, ModelFileError when ONNX Runtime can't run the file.
    """

    def __init__(self, net: Artifact | OnnxFile, device: Device = "auto", views: FileViews = "none") -> None:
        ort = import_runtime()
        if device == "cuda" and CUDA not in ort.get_available_providers():
            raise BackendError(
                "--device cuda: this ONNX Runtime has no CUDA support; "
                'pip uninstall onnxruntime && pip install "alexnet-infer[gpu]"'
            )
        session = None
        if device != "cpu" and CUDA in ort.get_available_providers():
            session = _gpu_session(ort, net, views, required=device == "cuda")
        self._on_gpu = session is not None
        self._session = session or _cpu_session(ort, net)
        self._input = self._session.get_inputs()[0].name
        self._classes = len(net.manifest.classes)
        self._path = None if isinstance(net, Artifact) else net.path
        info = None if isinstance(net, Artifact) else net.info
        cuts = self._on_gpu and views != "none"
        self.takes_squares = cuts if info is None else info.takes_squares
        self._size = info.batch.max if info is not None and info.batch.fixed else None
        precision = f", {info.precision}" if info is not None and info.precision != "fp32" else ""
        graph = f", {views} views in the graph" if info is None and cuts else ""
        self.description = f"ONNX Runtime {ort.__version__}, {self._session.get_providers()[0]}{precision}{graph}"

    def infer(self, inputs: np.ndarray) -> np.ndarray:
        """Patches float32 [N, 3, patch, patch], mean subtracted, or squares uint8 [N, S, S, 3] for a net or file that
        cuts its views itself -> class probabilities float32 [N, classes].

        Raises ModelFileError when an exported file can't be run after all, or gives something else; BackendError when
        the GPU fails, or its memory is full.
        """
        if self._size is not None:
            return infer_in_calls(self._call, inputs, self._size)
        if self._on_gpu and self.takes_squares:
            return infer_in_calls(self._call, inputs, GPU_SQUARES, powers_of_two=True)
        return self._call(inputs)

    def _call(self, inputs: np.ndarray) -> np.ndarray:
        try:
            found = self._session.run([OUTPUT], {self._input: inputs})[0]
        except Exception as error:  # ONNX Runtime's errors have no base of their own
            if self._on_gpu and (self._path is None or _is_of_the_gpu(error)):
                raise _gpu_error(error) from None
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
    onnxruntime.set_default_logger_severity(ERROR)
    return onnxruntime


def _gpu_session(ort: ModuleType, net: Artifact | OnnxFile, views: FileViews, *, required: bool) -> Any:
    """A session on the first CUDA GPU. If CUDA doesn't start: BackendError if it is required, else None. ModelFileError
    if it is required, and a CPU can't run the file either.

    ONNX Runtime's Python code would print the cause to standard output, where programs read results, and its library
    would log it to standard error.
    """
    ort.set_default_logger_severity(FATAL)
    reason = "it gives no reason"
    try:
        with redirect_stdout(io.StringIO()):
            if hasattr(ort, "preload_dlls"):
                ort.preload_dlls()  # the CUDA libraries that come as wheels are not on the loader's path
            session = _session(ort, net, [(CUDA, CUDA_OPTIONS), CPU], views)
        if session.get_providers()[0] == CUDA:
            return session
    except Exception as error:  # ONNX Runtime's errors have no base of their own
        if required and _memory_is_full(error):
            raise _gpu_error(error) from None
        reason = one_line(error)
    finally:
        ort.set_default_logger_severity(ERROR)
    if not required:
        return None
    _cpu_session(ort, net)  # raises ModelFileError if the file is the cause, and not the GPU
    raise BackendError(
        f"--device cuda: ONNX Runtime could not start CUDA ({reason}); check the driver with nvidia-smi, and that CUDA "
        f"and cuDNN are those that ONNX Runtime {ort.__version__} needs"
    )


def _cpu_session(ort: ModuleType, net: Artifact | OnnxFile) -> Any:
    try:
        return _session(ort, net, [CPU])
    except Exception as error:  # ONNX Runtime's errors have no base of their own
        if isinstance(net, Artifact):
            raise
        raise ModelFileError(f"{net.path}: ONNX Runtime can't run it ({one_line(error)})") from None


def _session(ort: ModuleType, net: Artifact | OnnxFile, providers: list[Any], views: FileViews = "none") -> Any:
    on_gpu = providers != [CPU]
    options = ort.SessionOptions()
    options.log_severity_level = FATAL if on_gpu else ERROR
    if isinstance(net, Artifact):
        weights: dict[str, np.ndarray] = {}
        model: bytes | str = _graph(net, on_gpu, views, weights).SerializeToString()
        values = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value)) for value in weights.values()]
        options.add_external_initializers(list(weights), values)
        if sum(value.nbytes for value in weights.values()) < PREPACK_BYTES:
            options.add_session_config_entry("session.disable_prepacking", "1")
    else:
        model = str(net.path) if net.data else net.content
        if net.info.precision == "fp16" and not on_gpu and not net.data:
            from alexnet_infer.export.half import rounded

            model = rounded(net.content)
    # Its own way to the CPU when a GPU fails prints to standard output.
    return ort.InferenceSession(model, options, providers=providers, enable_fallback=0)


def _graph(artifact: Artifact, on_gpu: bool, views: FileViews, weights: dict[str, np.ndarray]) -> ModelProto:
    if not on_gpu:
        return build_onnx(artifact, "conv", weights)  # the CPU's LRN kernel is the slowest part of the net
    if views == "none":
        return build_onnx(artifact, "op", weights)
    from alexnet_infer.export.onnx_model import build_on_squares

    return build_on_squares(artifact, views, "op", weights)


def _memory_is_full(error: Exception) -> bool:
    text = str(error).lower()
    return any(words in text for words in ("out of memory", "failed to allocate memory", "alloc_failed"))


def _is_of_the_gpu(error: Exception) -> bool:
    """Whether the GPU failed, and not the file. ONNX Runtime names the library: "CUDNN_FE failure 11: ..."."""
    return _memory_is_full(error) or re.search(r"\b(CUDA|CUDNN|CUDNN_FE|CUBLAS) failure\b", str(error)) is not None


def _gpu_error(error: Exception) -> BackendError:
    if _memory_is_full(error):
        return BackendError(
            f"the GPU's memory is full ({one_line(error)}): take a smaller --batch, end what else uses the GPU, or use "
            "--device cpu"
        )
    return BackendError(f"ONNX Runtime failed on the GPU ({one_line(error)}): see nvidia-smi, or use --device cpu")
