"""The ONNX graph of a net for a web page: every layer is an output, and LRN and the columns have switches.

The page runs it one view or ten at a time (`alexnet_infer.export.web`). Other programs get `build_model`'s files, and
`read_model` does not read this one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from alexnet_infer.architecture import LRN, Architecture, BatchNorm, Conv, Dropout, Step
from alexnet_infer.artifact import Artifact
from alexnet_infer.graph.info import LRNForm
from alexnet_infer.graph.net import INPUT, Graph
from alexnet_infer.graph.wire import import_onnx
from alexnet_infer.layers import Layer, all_layers, columns_of
from alexnet_infer.manifest import METADATA_KEY

if TYPE_CHECKING:
    import onnx

LRN_SWITCH, COLUMN_SWITCH = "switch.lrn", "switch.columns"
"""Names of the inputs that switch LRN and each column. No operation has a dot in its name."""


def build_web_model(artifact: Artifact, *, half: bool = True) -> onnx.ModelProto:
    """Return a net with all of `web_layers` as outputs, each float32 [N, ...]. It computes in float32.

    Inputs: `patches` float32 [N, 3, patch, patch] with the mean subtracted; `switch.lrn`, a bool [], if it has LRN:
    false passes LRN's input on; `switch.columns` float32 [columns], if the net has columns: 0 silences a column, 1
    keeps it.

    With `half`, weights are stored as float16 and converted when the file is loaded. Those of the bundled nets are
    float16 already. A tensor that float16 can't hold (`halved`) stays in float32.

    Raises BackendError if onnx is missing.
    """
    types = import_onnx().TensorProto
    from onnx import helper

    architecture = artifact.manifest.architecture
    graph = _Switched(artifact, half)
    layers = web_layers(architecture)
    for value, layer in zip(graph.net(artifact, INPUT, "conv", layers), layers, strict=True):
        graph.output(value, layer.name)
    shape = [architecture.channels, architecture.patch, architecture.patch]
    model = graph.model(
        artifact.manifest.name,
        (INPUT, types.FLOAT, ["N", *shape]),
        [(layer.name, types.FLOAT, ["N", *layer.shape]) for layer in layers],
        {METADATA_KEY: artifact.manifest.to_json()},
    )
    if has_lrn(architecture):
        model.graph.input.append(helper.make_tensor_value_info(LRN_SWITCH, types.BOOL, []))
    if graph.columns > 1:
        model.graph.input.append(helper.make_tensor_value_info(COLUMN_SWITCH, types.FLOAT, [graph.columns]))
    return model


def web_layers(architecture: Architecture) -> tuple[Layer, ...]:
    """Return the different values that a net computes, in order, and its probabilities last.

    Of several names of one value, the first is taken: "conv1" means the output of act1. Dropout does nothing.
    """
    passed = {operation.name for operation in architecture.operations if isinstance(operation, Dropout)}
    first: dict[str, Layer] = {}
    for layer in all_layers(architecture):
        if layer.operation not in passed:
            first.setdefault(layer.operation, layer)
    return tuple(first.values())


def halved(artifact: Artifact) -> frozenset[str]:
    """Return the names of the tensors that a page's net stores as float16: weights, without biases, that fit."""
    return frozenset(name for name, tensor in artifact.tensors.items() if tensor.ndim > 1 and _fits_half(tensor))


def has_lrn(architecture: Architecture) -> bool:
    """Whether the net has LRN, and the graph the switch for it."""
    return any(isinstance(operation, LRN) for operation in architecture.operations)


class _Switched(Graph):
    """A graph whose LRN and columns can be switched off, with weights of layers as float16."""

    def __init__(self, artifact: Artifact, half: bool) -> None:
        super().__init__()
        self.stored_in_half = halved(artifact) if half else frozenset()
        columns = columns_of(artifact.manifest.architecture)
        self.columns = max(columns.values())
        self.apart = {name for name, count in columns.items() if count == self.columns > 1}
        self._masks: dict[int, str] = {}

    def constant(self, name: str, value: np.ndarray) -> str:
        if name not in self.stored_in_half:
            return super().constant(name, value)
        return self.cast(super().constant(f"{name}.half", value.astype(np.float16)), np.float32, name)

    def operation(
        self, artifact: Artifact, step: Step, x: str, lrn: LRNForm, *, half: bool = False, prefix: str = ""
    ) -> str:
        value = super().operation(artifact, step, x, lrn, half=half, prefix=prefix)
        o = step.operation
        if isinstance(o, LRN):
            return self.node("Where", [LRN_SWITCH, value, x], f"{o.name}.switched")
        if isinstance(o, Conv | BatchNorm) and o.name in self.apart:  # other operations keep zeros
            return self.node("Mul", [value, self._mask(step.output[0])], f"{o.name}.masked")
        return value

    def _mask(self, channels: int) -> str:
        """Return the name of the factors [1, channels, 1, 1] of maps: those of the columns that they are in."""
        if channels not in self._masks:
            column = np.arange(channels).reshape(1, -1, 1, 1) // (channels // self.columns)
            index = self.constant(f"{COLUMN_SWITCH}.of{channels}", column)
            self._masks[channels] = self.node("Gather", [COLUMN_SWITCH, index], f"{COLUMN_SWITCH}.mask{channels}")
        return self._masks[channels]


def _fits_half(tensor: np.ndarray) -> bool:
    """Whether float16 has all values, with an error of at most 2^-10 of their root mean square.

    Rounding to 11 bits stays below half of that. Values near float16's smallest, about 6e-8, do not.
    """
    with np.errstate(over="ignore"):
        error = tensor.astype(np.float16).astype(np.float64) - tensor
    return bool(np.square(error).mean() <= 2.0**-20 * np.square(tensor, dtype=np.float64).mean())
