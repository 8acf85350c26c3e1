"""Backends run a net: one small class per runtime, behind one protocol.

A backend takes patches and returns probabilities. `predict` averages them over views and nets, unless the net cuts and
averages its views itself; the backend then takes squares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from alexnet_infer.artifact import Artifact
from alexnet_infer.errors import AlexNetInferError, BackendError, ModelFileError, UsageError, listed, one_line
from alexnet_infer.graph.info import Precision
from alexnet_infer.layers import PROBABILITIES, Layer, find_layers
from alexnet_infer.metrics import are_probabilities

if TYPE_CHECKING:
    from alexnet_infer.graph.file import OnnxFile

Device = Literal["auto", "cpu", "cuda"]
"""Where a net is to run."""

Choice = Literal["auto", "onnxruntime", "openvino", "reference"]
"""What is to run a model file or an exported ONNX file. An engine runs only in the TensorRT version that built it."""

Runtime = Literal["onnxruntime", "openvino", "reference", "server", "tensorrt", "tensorrt-rtx"]
"""What runs a net."""


class Backend(Protocol):
    """A net ready to run."""

    runtime: Runtime

    device: Literal["cpu", "cuda", "server"]

    precision: Precision
    """The precision of the file, which some runtimes compute in a finer one. "fp32" if a server doesn't say it."""

    description: str
    """All of this for display, with the runtime's version: nothing parses it."""

    takes_squares: bool
    """Whether `infer` takes uint8 squares [N, S, S, 3] RGB, and cuts and averages the views itself."""

    outputs: tuple[str, ...]
    """The layers that it computes (`alexnet_infer.layers`). By default the probabilities only."""

    def infer(self, inputs: np.ndarray) -> np.ndarray:
        """Return class probabilities, float32 [N, classes]. They must be among the outputs.

        `inputs` are squares if `takes_squares`, else patches, float32 [N, 3, patch, patch] with the mean subtracted.
        """
        ...

    def activations(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Return each of the outputs by its name, float32 [N, *shape of the layer], for the inputs of `infer`."""
        ...


def name_of(net: Artifact | OnnxFile) -> str | Path:
    """Return the name of a net from a model file, or the path of an exported file, for `failures`."""
    return net.manifest.name if isinstance(net, Artifact) else net.path


@contextmanager
def failures(runtime: str, net: str | Path) -> Iterator[None]:
    """Turn what `runtime` raises, while it loads or runs a net, into an error of one line.

    `net` is the path of an exported file, or the name of a net from a model file. The error is a BackendError if memory
    is full or the net is from a model file, which has been checked. Otherwise it is a ModelFileError.
    """
    try:
        yield
    except AlexNetInferError:
        raise
    except Exception as error:  # the errors of the runtimes have no common base class
        if memory_is_full(error):
            raise BackendError(
                f"{net}: not enough memory to run it in {runtime} ({_reason(error)}): use --views center or a smaller "
                "--batch"
            ) from None
        if isinstance(net, Path):
            raise ModelFileError(f"{net}: {runtime} can't run it ({_reason(error)})") from None
        raise BackendError(f"{net}: {runtime} can't run it ({_reason(error)}): use another --backend") from None


def _reason(error: Exception) -> str:
    return one_line(error) or type(error).__name__


def memory_is_full(error: Exception) -> bool:
    """Whether a runtime failed because the computer's or the GPU's memory is full."""
    text = " ".join(str(error).lower().split())
    phrases = ("out of memory", "failed to allocate", "alloc_failed", "bad_alloc", "cannot allocate memory")
    return isinstance(error, MemoryError) or any(phrase in text for phrase in phrases)


def checked(values: np.ndarray, inputs: np.ndarray, layer: Layer, path: Path) -> np.ndarray:
    """Return the `values` of a layer, which the exported file at `path` computed from `inputs`, if they can be that.

    The output shape that a graph declares is only a claim, which runtimes don't enforce. Raises ModelFileError if the
    shape is not [N, *shape of the layer], if a value is not finite, or if a value of the probabilities is not one.
    """
    if values.shape != (expected := (len(inputs), *layer.shape)):
        raise ModelFileError(
            f"{path}: returns {list(values.shape)} for {len(inputs)} inputs: expected {list(expected)}, as its "
            "manifest says; export it again"
        )
    probable = layer.name == PROBABILITIES
    if not (are_probabilities(values) if probable else np.isfinite(values)).all():
        raise ModelFileError(
            f"{path}: returns values that are not {'probabilities' if probable else 'finite'}: the file is damaged, or "
            "its precision is too low for this net; export it as fp32"
        )
    return values


def outputs_of(net: Artifact | OnnxFile, outputs: Sequence[str] | None) -> tuple[Layer, ...]:
    """Return the layers that a backend of `net` computes: `outputs`, or those of an exported file.

    Without `outputs`, a model file's net computes its probabilities. Raises UsageError for an unknown layer, and for
    one that an exported file doesn't return.
    """
    architecture = net.manifest.architecture
    if isinstance(net, Artifact):
        return find_layers(architecture, (PROBABILITIES,) if outputs is None else outputs)
    held = net.info.outputs
    layers = find_layers(architecture, held if outputs is None else outputs)
    for layer in layers:
        if layer.name not in held:
            raise UsageError(
                f"{net.path}: returns only {listed(held)}: export the net again with --outputs {layer.name}, or use "
                "the model file"
            )
    return layers


def probabilities_in(layers: Sequence[Layer], net: str | Path) -> list[Layer]:
    """Return the probabilities among the layers that a backend computes. Raises UsageError if they aren't."""
    found = [layer for layer in layers if layer.name == PROBABILITIES]
    if not found:
        names = listed(layer.name for layer in layers)
        fix = "export it again with --outputs" if isinstance(net, Path) else "load it with the layers"
        raise UsageError(
            f"{net}: computes only {names}: to get probabilities, {fix} {names.replace(', ', ',')},{PROBABILITIES}"
        )
    return found


def infer_in_calls(
    call: Callable[[np.ndarray], Sequence[np.ndarray]], inputs: np.ndarray, size: int, *, powers_of_two: bool = False
) -> list[np.ndarray]:
    """Call `call` with `size` inputs at a time and return its results, one array per output, for all `inputs`.

    The last call is padded with zeros, so that all calls have `size` inputs and round in the same way. With
    `powers_of_two`, inputs that fit into a single call are padded only to the next power of two: this limits the
    number of different batch sizes with less padding.
    """
    single = powers_of_two and len(inputs) <= size
    calls = []
    for begin in range(0, max(len(inputs), 1), size):
        part = inputs[begin : begin + size]
        padded = min(size, 1 << max(len(part) - 1, 0).bit_length()) if single else size
        padding = np.zeros((padded - len(part), *part.shape[1:]), part.dtype)
        results = call(np.concatenate([part, padding]) if len(padding) else part)
        calls.append([values[: len(part)] for values in results])
    return [np.concatenate(values) for values in zip(*calls, strict=True)]
