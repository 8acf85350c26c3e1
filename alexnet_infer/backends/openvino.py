"""OpenVINO, on a CPU."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from alexnet_infer.artifact import Artifact
from alexnet_infer.backends import checked, failures, infer_in_calls, name_of, outputs_of, probabilities_in
from alexnet_infer.errors import BackendError
from alexnet_infer.graph.file import MAX_WEIGHTS, OnnxFile
from alexnet_infer.graph.net import OUTPUT, build_onnx
from alexnet_infer.graph.wire import import_onnx
from alexnet_infer.packages import missing_package, module_of


class OpenVinoBackend:
    """A net from a model file, or an exported ONNX file, compiled by OpenVINO for this CPU.

    No files are written. Raises BackendError if OpenVINO is missing, the errors of `failures` if it can't run the net,
    and those of `outputs_of`.
    """

    runtime, device = "openvino", "cpu"

    def __init__(self, net: Artifact | OnnxFile, outputs: Sequence[str] | None = None) -> None:
        self._layers = outputs_of(net, outputs)
        self.outputs = tuple(layer.name for layer in self._layers)
        ov = import_runtime()
        self._net = name_of(net)
        with failures("OpenVINO", self._net):
            if isinstance(net, Artifact):
                self._request = _request_of_artifact(ov, net, self.outputs)
            else:
                self._request = _request_of_file(ov, net)
        self._lock = threading.Lock()
        info = None if isinstance(net, Artifact) else net.info
        self.takes_squares = info is not None and info.takes_squares
        self._size = info.batch.max if info is not None and info.batch.fixed else None
        self.precision = "fp32" if info is None else info.precision
        precision = "" if self.precision == "fp32" else f", {self.precision}"
        if self.precision == "fp16":  # only the weights are float16, so overflow between operations doesn't show
            precision = ", fp16 computed in float32"
        self.description = f"OpenVINO {version(ov)}, CPU{precision}"

    def infer(self, inputs: np.ndarray) -> np.ndarray:
        """Return class probabilities, float32 [N, classes].

        `inputs` are patches, float32 [N, 3, patch, patch] with the mean subtracted, or squares, uint8 [N, S, S, 3], for
        an exported file that cuts its views itself. Calls from several threads run one after the other. Raises the
        errors of `failures`, and ModelFileError if an exported file returns anything but probabilities.
        """
        probabilities_in(self._layers, self._net)
        return self.activations(inputs)[OUTPUT]

    def activations(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Return each output by its name, float32 [N, *shape of the layer]. Inputs and errors are those of `infer`."""
        with self._lock, failures("OpenVINO", self._net):
            results = self._call(inputs) if self._size is None else infer_in_calls(self._call, inputs, self._size)
        return dict(zip(self.outputs, results, strict=True))

    def _call(self, inputs: np.ndarray) -> list[np.ndarray]:
        computed = self._request.infer({0: inputs}, share_inputs=True)
        results = [computed[name] for name in self.outputs]
        if isinstance(self._net, str):
            return results
        return [checked(values, inputs, layer, self._net) for values, layer in zip(results, self._layers, strict=True)]


def import_runtime() -> ModuleType:
    """Import OpenVINO, and check that onnx is installed, which builds its graphs.

    Raises BackendError, which names the package, if one of them is missing.

    `import openvino` also imports OpenVINO's converter for other formats, which sends telemetry to Intel and stores an
    identifier for this user in the home folder. The converter is optional and is not imported here, which also halves
    the import time. A program that needs `openvino.convert_model` must import OpenVINO before it calls this.
    """
    import_onnx()
    converter = "openvino.tools.ovc"
    unwanted = converter not in sys.modules
    if unwanted:
        sys.modules[converter] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        if module_of(error) not in ("", "openvino"):
            raise missing_package(error) from None
        raise BackendError(f'OpenVINO is missing ({error}): pip install "alexnet-infer[openvino]"') from None
    finally:
        if unwanted:
            del sys.modules[converter]
    return openvino


def version(ov: ModuleType) -> str:
    """OpenVINO's version without the build number, as in "2026.4.1"."""
    return str(ov.__version__).split("-")[0]


def _request_of_artifact(ov: ModuleType, artifact: Artifact, outputs: Sequence[str]) -> Any:
    """Compile a model file's net. The weights are copied into the model, since OpenVINO can't use external arrays.

    LRN becomes ONNX's LRN operator, for which OpenVINO has a fast kernel.
    """
    size = sum(tensor.nbytes for tensor in artifact.tensors.values())
    if size > MAX_WEIGHTS:  # OpenVINO gets the model as one message
        raise BackendError(
            f"{artifact.manifest.name} has {size / 1e9:.1f} GB of weights: OpenVINO takes at most "
            f"{MAX_WEIGHTS / 1e9:.1f} GB from a model file; use --backend onnxruntime, or export the net to ONNX first"
        )
    return _request(ov, build_onnx(artifact, "op", outputs=outputs).SerializeToString())


def _request_of_file(ov: ModuleType, file: OnnxFile) -> Any:
    if file.data:
        return _request(ov, str(file.path))
    return _request(ov, _without_functions(file.content) if file.info.lrn == "plugin" else file.content)


def _request(ov: ModuleType, model: bytes | str) -> Any:
    core = ov.Core()
    # By default, float32 is computed in bfloat16, with three digits of precision, on CPUs that support it.
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    with _own_signal_stack():
        return core.compile_model(core.read_model(model), "CPU", options).create_infer_request()


class _SignalStack(ctypes.Structure):
    """C's stack_t on Linux."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def _own_signal_stack() -> Iterator[None]:
    """Restore this thread's alternate signal stack on exit.

    For 16-bit types, OpenVINO installs its own stack and frees it with the net. Ctrl-C would then end the process with
    a segmentation fault.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), _SignalStack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


def _without_functions(model: bytes) -> bytes:
    """Return the model with its local functions inlined, since OpenVINO doesn't support local functions."""
    import onnx
    from onnx.inliner import inline_local_functions

    return inline_local_functions(onnx.load_model_from_string(model)).SerializeToString()
