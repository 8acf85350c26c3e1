"""Read the tensors of an AlexNet from any ONNX graph, by walking the graph from input to output.

The role of a weight follows from the node that uses it, not from its name. This was written for the Model Zoo's graphs
(made by Caffe2, from IR 3 and opset 3 on) and for PyTorch's exports of torchvision's net.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import replace

from alexnet_infer.architecture import Activation, Architecture, Conv, Dense, MaxPool
from alexnet_infer.errors import SpecError, listed, shown
from alexnet_infer.graph.file import parsed, read_message
from alexnet_infer.importing.comparison import FileOperation, check_operations, difference
from alexnet_infer.importing.onnx_nodes import attributes, integers_of, is_float, lrn, pool, values_of, whole, window
from alexnet_infer.importing.roles import Layer, by_role

if TYPE_CHECKING:
    import onnx

QUANTIZED = ("QLinearConv", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearMatMul")
"""Operators that identify a quantized graph, which can't be converted to float weights."""


def read_graph(path: Path) -> onnx.ModelProto:
    """Return the message in an ONNX file, without weights in other files.

    Raises SpecError if the file is damaged or not an ONNX file. Raises OSError if it can't be read.
    """
    model = parsed(read_message(path, "an ONNX file"))
    if not model.graph.node:
        raise SpecError("has no graph: expected an ONNX file")
    return model


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether a graph is quantized."""
    return any(node.op_type in QUANTIZED for node in model.graph.node)


def inputs_of(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs of a graph without its weights, which old files also declare as inputs."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def patch_side(value: onnx.ValueInfoProto) -> int:
    """Return the side of the patches that an input takes. Raises SpecError unless they are squares with 3 channels."""
    sides = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
    if len(sides) != 4 or sides[1] != 3 or sides[2] != sides[3] or not 0 < sides[2] <= 4096:
        raise SpecError(f"takes {shown(sides)}: expected [N, 3, side, side]")
    return sides[2]


def read_onnx(path: Path, architecture: Architecture) -> tuple[Architecture, dict[str, np.ndarray]]:
    """Return the architecture that the graph computes, and its tensors as float32.

    It is `architecture`, a preset, except for the side of the patches and for the pooling layers whose last window
    extends past the edge, which depend on that side. Dropout is the preset's, since it does nothing at inference.

    Raises SpecError if the file isn't such a graph. The message names the first node that differs from the preset and,
    if the graph fits another preset, that preset. Raises OSError if the file can't be read.
    """
    model = read_graph(path)
    if is_quantized(model):
        raise SpecError("is quantized, and float weights would make it a different net; write a .onnx file with -o")
    walk = _Walk(model)
    layers: list[_GraphOperation] = []
    try:
        layers.extend(walk.operations())
    except SpecError:
        if wrong := difference(layers, architecture, complete=False):  # the error may be a consequence of it
            raise SpecError(wrong) from None
        raise
    check_operations(layers, architecture)
    graph = _with_geometry(architecture, walk.patch, [o.operation for o in layers if isinstance(o.operation, MaxPool)])
    weights = [Layer(name=layer.node, tensors=layer.tensors(path.parent)) for layer in layers if layer.weights]
    return graph, by_role(weights, graph)


@dataclass(frozen=True, kw_only=True)
class _GraphOperation(FileOperation):
    weights: Mapping[str, onnx.TensorProto] = field(default_factory=dict)
    """Only read after the whole graph has been checked: a small file can use the same tensor in many nodes."""
    transposed: bool = False

    def tensors(self, folder: Path) -> dict[str, np.ndarray]:
        values = {part: values_of(tensor, folder) for part, tensor in self.weights.items()}
        return {part: v.T if self.transposed and part == "weight" else v for part, v in values.items()}


class _Walk:
    """A graph that is a chain of operations: one input, one output, and one node after another between them.

    Raises SpecError if the graph isn't such a chain.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].HasField("t"):
                self.constants.update(dict.fromkeys(node.output, node.attribute[0].t))
        self.nodes = [node for node in graph.node if node.op_type != "Constant"]
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.consumers.setdefault(name, []).append(node)
        surplus = [t.name for t in graph.initializer if t.dims and is_float(t) and t.name not in self.consumers]
        if surplus:
            raise SpecError(f"weights that no node uses: {listed(surplus)}")
        inputs = inputs_of(graph)
        if len(inputs) != 1 or len(graph.output) != 1:
            raise SpecError(f"has {len(inputs)} inputs and {len(graph.output)} outputs: expected one of each")
        self.input, self.output = inputs[0].name, graph.output[0].name
        self.patch = patch_side(inputs[0])

    def operations(self) -> Iterator[_GraphOperation]:
        """Yield the operations from the input to the output. Nodes that do nothing at inference are left out."""
        value, shape, seen = self.input, (3, self.patch, self.patch), 0
        while value != self.output:
            node = self._consumer(value)
            seen += 1
            if seen > len(self.nodes):
                raise SpecError("its nodes form a cycle: expected a chain from the input to the output")
            value = node.output[0]
            if node.op_type == "MatMul":
                add = self._consumer(value)
                seen, value = seen + 1, add.output[0]
                operation = self._matmul(node, add)
            else:
                operation = self._operation(node, shape, last=value == self.output)
            if operation is not None:
                yield operation
                shape = operation.operation.output(shape)
        if seen != len(self.nodes):
            raise SpecError(f"has {len(self.nodes)} nodes, but {seen} between its input and output: expected one chain")

    def _consumer(self, value: str) -> onnx.NodeProto:
        consumers = self.consumers.get(value, [])
        if len(consumers) != 1 or value not in consumers[0].input[:2] or not consumers[0].output:
            raise SpecError(
                f"{shown(value)} goes to {len(consumers)} nodes: expected a chain from the input to the output"
            )
        node = consumers[0]
        if node.domain not in ("", "ai.onnx"):
            raise SpecError(f"{self._name(node)}: has the domain {shown(node.domain)}: expected ONNX's own operators")
        return node

    def _operation(self, node: onnx.NodeProto, shape: tuple[int, ...], *, last: bool) -> _GraphOperation | None:
        """The operation of a node, or None if it does nothing here: flattening, dropout, or the softmax at the end."""
        name, get = self._name(node), attributes(node)
        match node.op_type:
            case "Conv":
                weights = {"weight": self._weights(node, 1), "bias": self._weights(node, 2)}
                sides = list(weights["weight"].dims)
                if len(sides) != 4:
                    raise SpecError(f"{name}: weights of shape {shown(sides)}: expected four dimensions")
                size, stride, pad = window(name, {"kernel_shape": sides[2:], **get})
                groups = whole(name, get, "group", 1)
                operation = Conv(name="conv", kernels=sides[0], size=size, stride=stride, pad=pad, groups=groups)
                return _GraphOperation(node=name, operation=operation, weights=weights)
            case "Gemm":
                plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
                rows = get.get("transB", 0)
                if any(get.get(key, value) != value for key, value in plain.items()) or rows not in (0, 1):
                    raise SpecError(f"{name}: expected a Gemm with alpha 1, beta 1, transA 0, and transB 0 or 1")
                return self._dense(name, self._weights(node, 1), self._weights(node, 2), transposed=not rows)
            case "Relu" | "Tanh":
                return _GraphOperation(node=name, operation=Activation(name="act", kind=node.op_type.lower()))
            case "LRN":
                return _GraphOperation(node=name, operation=lrn(name, get))
            case "MaxPool":
                return _GraphOperation(node=name, operation=pool(name, get, shape))
            case "Reshape" | "Flatten":
                self._check_flattens(node, get, shape)
                return None
            case "AveragePool" if window(name, get) == (1, 1, 0):  # torchvision's adaptive pooling of 6 x 6 to 6 x 6
                return None
            case "Dropout" | "Identity":
                return None
            case "Softmax" if last and get.get("axis", -1 if self.opset >= 13 else 1) in (1, -1):
                return None
        kind = shown(node.op_type)
        raise SpecError(f"{name}: {kind} in this form is not supported: expected the layers of an AlexNet")

    def _matmul(self, node: onnx.NodeProto, add: onnx.NodeProto) -> _GraphOperation:
        biases = [name for name in add.input if name != node.output[0]]
        if add.op_type != "Add" or len(biases) != 1:
            raise SpecError(f"{self._name(node)}: expected an Add of biases after a MatMul")
        added = self._constant(self._name(add), biases[0])
        return self._dense(self._name(node), self._weights(node, 1), added, transposed=True)

    @staticmethod
    def _dense(name: str, weights: onnx.TensorProto, biases: onnx.TensorProto, *, transposed: bool) -> _GraphOperation:
        sides = list(weights.dims)
        if len(sides) != 2:
            raise SpecError(f"{name}: weights of shape {shown(sides)}: expected a matrix")
        operation = Dense(name="fc", units=sides[1] if transposed else sides[0])
        parts = {"weight": weights, "bias": biases}
        return _GraphOperation(node=name, operation=operation, weights=parts, transposed=transposed)

    def _check_flattens(self, node: onnx.NodeProto, get: Mapping[str, Any], shape: tuple[int, ...]) -> None:
        name = self._name(node)
        if node.op_type == "Flatten":
            flattens = get.get("axis", 1) == 1
        else:  # before opset 5 the shape is an attribute
            sides = integers_of(self._constant(name, node.input[1])) if len(node.input) > 1 else get.get("shape")
            flattens = isinstance(sides, list) and len(sides) == 2 and sides[1] in (-1, math.prod(shape))
        if not flattens:
            raise SpecError(f"{name}: expected it to flatten maps into one vector per image")

    def _weights(self, node: onnx.NodeProto, place: int) -> onnx.TensorProto:
        if len(node.input) <= place:
            raise SpecError(f"{self._name(node)}: has no {'biases' if place == 2 else 'weights'}")
        return self._constant(self._name(node), node.input[place])

    def _constant(self, where: str, name: str) -> onnx.TensorProto:
        if name not in self.constants:
            raise SpecError(
                f"{where}: {shown(name)} is not in the file: expected weights that are stored, not computed"
            )
        return self.constants[name]

    @staticmethod
    def _name(node: onnx.NodeProto) -> str:
        return shown(node.name or (node.output[0] if node.output else node.op_type))


def _with_geometry(architecture: Architecture, patch: int, pools: list[MaxPool]) -> Architecture:
    """`architecture` on patches of this side, with the `ceil` of these pooling layers."""
    ceils = iter([pool.ceil for pool in pools])
    operations = [replace(o, ceil=next(ceils)) if isinstance(o, MaxPool) else o for o in architecture.operations]
    return replace(architecture, patch=patch, operations=tuple(operations))
