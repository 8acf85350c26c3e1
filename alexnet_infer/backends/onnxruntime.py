"""ONNX Runtime, on a CPU or a CUDA GPU."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from contextlib import redirect_stdout
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_infer.artifact import Artifact
from alexnet_infer.backends import (
    Device,
    checked,
    failures,
    infer_in_calls,
    memory_is_full,
    name_of,
    outputs_of,
    probabilities_in,
)
from alexnet_infer.errors import BackendError, one_line
from alexnet_infer.graph.net import build_onnx
from alexnet_infer.graph.wire import import_onnx
from alexnet_infer.layers import Layer
from alexnet_infer.packages import missing_package, module_of

if TYPE_CHECKING:
    from onnx import ModelProto

    from alexnet_infer.graph.file import OnnxFile
    from alexnet_infer.graph.info import FileViews

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
FATAL = 4
"""The least severity that ONNX Runtime logs to standard error. What it logs as an error, it also raises."""

CUDA_OPTIONS = {
    "use_tf32": "0",  # TF32 would round float32 to 10 bits
    # Timing all algorithms of every convolution takes 0.3 to 1.3 s for each new number of images.
    "cudnn_conv_algo_search": "HEURISTIC",
}
GPU_SQUARES = 64
"""Squares per call on a GPU. Ten views of each keep it busy and take 2 GB with the full-size net."""

PREPACK_BYTES = 64_000_000
"""Bytes of weights below which ONNX Runtime's prepacking, which rearranges weights, is disabled. Prepacking makes the
full-size net 13 % faster. For the default net it gains nothing and costs 40 ms, a sixth of the time until the first
photo is classified."""


class OnnxRuntimeBackend:
    """A net from a model file, or an exported ONNX file, in an ONNX Runtime session.

    With `device="auto"` it runs on a CUDA GPU if one works, otherwise on the CPU. An explicit device is never replaced
    by another. On a GPU, float32 is not rounded to TF32. On a CPU, the results of a file's float16 operations are
    rounded to float16 (see export/half.py), unless its weights are in a separate file. Rounding is slower than float32.

    On a GPU, a net from a model file takes squares, and cuts and averages `views` itself, unless `views` is "none".
    For squares of 256 pixels, 197 KB per image are then copied to the GPU instead of 6.2 MB of patches. On a CPU it
    takes patches.

    Raises BackendError if ONNX Runtime or the device is missing, the errors of `failures` if ONNX Runtime can't run
    the net, and those of `outputs_of`.
    """

    runtime = "onnxruntime"

    def __init__(
        self,
        net: Artifact | OnnxFile,
        device: Device = "auto",
        views: FileViews = "none",
        outputs: Sequence[str] | None = None,
    ) -> None:
        self._layers = outputs_of(net, outputs)
        self.outputs = tuple(layer.name for layer in self._layers)
        ort = import_runtime()
        if device == "cuda" and CUDA not in ort.get_available_providers():
            raise BackendError(
                "--device cuda: this ONNX Runtime has no CUDA support; "
                'pip uninstall onnxruntime && pip install "alexnet-infer[gpu]"'
            )
        session = None
        if device != "cpu" and CUDA in ort.get_available_providers():
            session = _gpu_session(ort, net, views, self.outputs, required=device == "cuda")
        self.device = "cpu" if session is None else "cuda"
        self._session = session or _cpu_session(ort, net, self.outputs)
        self._input = self._session.get_inputs()[0].name
        self._net = name_of(net)
        info = None if isinstance(net, Artifact) else net.info
        cuts = self.device == "cuda" and views != "none"
        self.takes_squares = cuts if info is None else info.takes_squares
        self._size = info.batch.max if info is not None and info.batch.fixed else None
        self.precision = "fp32" if info is None else info.precision
        precision = "" if self.precision == "fp32" else f", {self.precision}"
        graph = f", {views} views in the graph" if info is None and cuts else ""
        self.description = f"ONNX Runtime {ort.__version__}, {self._session.get_providers()[0]}{precision}{graph}"

    def infer(self, inputs: np.ndarray) -> np.ndarray:
        """Return class probabilities, float32 [N, classes].

        `inputs` are patches, float32 [N, 3, patch, patch] with the mean subtracted, or squares, uint8 [N, S, S, 3], if
        `takes_squares`.

        Raises ModelFileError if an exported file fails when it runs or returns anything but probabilities, and
        BackendError if memory is full, or the GPU or the net of a model file fails.
        """
        return self._run(inputs, probabilities_in(self._layers, self._net))[0]

    def activations(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Return each output by its name, float32 [N, *shape of the layer]. Inputs and errors are those of `infer`."""
        return dict(zip(self.outputs, self._run(inputs, self._layers), strict=True))

    def _run(self, inputs: np.ndarray, layers: Sequence[Layer]) -> list[np.ndarray]:
        def call(part: np.ndarray) -> list[np.ndarray]:
            return self._call(part, layers)

        with failures("ONNX Runtime", self._net):
            if self._size is not None:
                return infer_in_calls(call, inputs, self._size)
            if self.device == "cuda" and self.takes_squares:
                return infer_in_calls(call, inputs, GPU_SQUARES, powers_of_two=True)
            return call(inputs)

    def _call(self, inputs: np.ndarray, layers: Sequence[Layer]) -> list[np.ndarray]:
        try:
            results = self._session.run([layer.name for layer in layers], {self._input: inputs})
        except Exception as error:  # ONNX Runtime's errors have no common base class
            if self.device == "cuda" and (isinstance(self._net, str) or _is_gpu_failure(error)):
                raise _gpu_error(error) from None
            raise
        if isinstance(self._net, str):
            return results
        return [checked(values, inputs, layer, self._net) for values, layer in zip(results, layers, strict=True)]


def import_runtime() -> ModuleType:
    """Import ONNX Runtime, and check that onnx is installed, which builds its graphs.

    Raises BackendError, which names the package, if one of them is missing.

    On import, ONNX Runtime's Linux builds from 1.29 on send telemetry to Microsoft and store an identifier for this
    user. Only an environment variable disables that. It is set here unless the user has set it.
    """
    import_onnx()
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        if module_of(error) not in ("", "onnxruntime"):
            raise missing_package(error) from None
        raise BackendError(
            f'ONNX Runtime is missing ({error}): pip install "alexnet-infer[cpu]", or "alexnet-infer[gpu]" for CUDA'
        ) from None
    onnxruntime.set_default_logger_severity(FATAL)
    return onnxruntime


def _gpu_session(
    ort: ModuleType, net: Artifact | OnnxFile, views: FileViews, outputs: Sequence[str], *, required: bool
) -> Any:
    """Return a session on the first CUDA GPU, or None if CUDA doesn't start and is not `required`.

    If CUDA is required, raises BackendError if it doesn't start, and ModelFileError if the CPU can't run the file
    either.

    ONNX Runtime's Python code prints the cause of a failure to standard output. That is suppressed, since programs read
    results from it.
    """
    reason = "no reason given"
    try:
        with redirect_stdout(io.StringIO()):
            if hasattr(ort, "preload_dlls"):
                ort.preload_dlls()  # CUDA libraries from wheels are not on the loader's path
            session = _session(ort, net, [(CUDA, CUDA_OPTIONS), CPU], outputs, views)
        if session.get_providers()[0] == CUDA:
            return session
    except Exception as error:  # ONNX Runtime's errors have no common base class
        if required and memory_is_full(error):
            raise _gpu_error(error) from None
        reason = one_line(error)
    if not required:
        return None
    _cpu_session(ort, net, outputs)  # raises ModelFileError if the file, not the GPU, is the cause
    raise BackendError(
        f"--device cuda: ONNX Runtime could not start CUDA ({reason}); check the driver with nvidia-smi, and that the "
        f"versions of CUDA and cuDNN are those that ONNX Runtime {ort.__version__} needs"
    )


def _cpu_session(ort: ModuleType, net: Artifact | OnnxFile, outputs: Sequence[str]) -> Any:
    with failures("ONNX Runtime", name_of(net)):
        return _session(ort, net, [CPU], outputs)


def _session(
    ort: ModuleType,
    net: Artifact | OnnxFile,
    providers: list[Any],
    outputs: Sequence[str],
    views: FileViews = "none",
) -> Any:
    on_gpu = providers != [CPU]
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    if isinstance(net, Artifact):
        weights: dict[str, np.ndarray] = {}
        model: bytes | str = _graph(net, on_gpu, views, outputs, weights).SerializeToString()
        values = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value)) for value in weights.values()]
        options.add_external_initializers(list(weights), values)
        if sum(value.nbytes for value in weights.values()) < PREPACK_BYTES:
            options.add_session_config_entry("session.disable_prepacking", "1")
    else:
        model = str(net.path) if net.data else net.content
        if net.info.precision == "fp16" and not on_gpu and not net.data:
            from alexnet_infer.backends.half import rounded

            model = rounded(net.content)
    # ONNX Runtime's own fallback to the CPU prints to standard output.
    return ort.InferenceSession(model, options, providers=providers, enable_fallback=0)


def _graph(
    artifact: Artifact, on_gpu: bool, views: FileViews, outputs: Sequence[str], weights: dict[str, np.ndarray]
) -> ModelProto:
    if not on_gpu:
        return build_onnx(artifact, "conv", weights, outputs)  # on a CPU, the LRN node is the slowest part of the net
    if views == "none":
        return build_onnx(artifact, "op", weights, outputs)
    from alexnet_infer.graph.model import build_on_squares

    return build_on_squares(artifact, views, "op", weights, outputs)


def _is_gpu_failure(error: Exception) -> bool:
    """Whether the GPU failed, not the file. ONNX Runtime names the library, as in "CUDNN_FE failure 11: ..."."""
    return memory_is_full(error) or re.search(r"\b(CUDA|CUDNN|CUDNN_FE|CUBLAS) failure\b", str(error)) is not None


def _gpu_error(error: Exception) -> BackendError:
    if memory_is_full(error):
        return BackendError(
            f"the GPU's memory is full ({one_line(error)}): use a smaller --batch or --device cpu, or stop other "
            "programs that use the GPU"
        )
    return BackendError(f"ONNX Runtime failed on the GPU ({one_line(error)}): see nvidia-smi, or use --device cpu")
