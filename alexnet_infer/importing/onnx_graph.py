"""Anybody's ONNX graph of an AlexNet -> our tensors: by walking it from input to output.

What a weight is follows from the node that takes it, not from its name. The Model Zoo's graphs (made by Caffe2, from
IR 3 and opset 3 on) and PyTorch's exports of torchvision's net are what it was written for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_infer.architecture import Activation, Architecture, Conv, Dense, MaxPool
from alexnet_infer.errors import SpecError, one_line, shown
from alexnet_infer.importing.comparison import Found, check_operations, difference
from alexnet_infer.importing.onnx_nodes import attributes, integers_of, is_float, lrn, pool, values_of, whole, window
from alexnet_infer.importing.roles import Layer, by_role, listed

if TYPE_CHECKING:
    import onnx

QUANTIZED = ("QLinearConv", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearMatMul")
"""Operators by which a graph that can't become float weights is known."""


def read_graph(path: Path) -> onnx.ModelProto:
    """The message in an ONNX file, without weights that lie beside it.

    Raises SpecError when it is damaged or none, OSError when it can't be read.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if path.stat().st_size >= 2**31:
        raise SpecError(f"has {path.stat().st_size} bytes: expected an ONNX file, which ends at 2 GB")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError as error:
        raise SpecError(f"damaged, or not an ONNX file ({one_line(error)})") from None
    if not model.graph.node:
        raise SpecError("has no graph: expected an ONNX file")
    return model


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether a graph computes in integers."""
    return any(node.op_type in QUANTIZED for node in model.graph.node)


def inputs_of(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs of a graph without its weights, which old files declare as inputs, too."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def patch_side(value: onnx.ValueInfoProto) -> int:
    """Side of the patches that an input takes. Raises SpecError unless they are squares of three channels."""
    sides = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
    if len(sides) != 4 or sides[1] != 3 or sides[2] != sides[3] or not 0 < sides[2] <= 4096:
        raise SpecError(f"takes {shown(sides)}: expected [N, 3, side, side]")
    return sides[2]


def read_onnx(path: Path, architecture: Architecture) -> tuple[Architecture, dict[str, np.ndarray]]:
    """The architecture that the graph computes, and its tensors as float32.

    It is `architecture`, a preset, but for the side of the patches and the poolings whose last window hangs over the
    edge, which follow from it; dropout is the preset's, since it does nothing here.

    Raises SpecError on whatever isn't such a graph, saying which node is not the preset's and, where another preset is
    meant, which one; OSError when the file can't be read.
    """
    model = read_graph(path)
    if is_quantized(model):
        raise SpecError(
            "is quantized, and would be another net with float weights; write it to a name in .onnx, with -o"
        )
    walk = _Walk(model)
    layers: list[_Found] = []
    try:
        layers.extend(walk.operations())
    except SpecError:
        if wrong := difference(layers, architecture, complete=False):  # of which the error may be a consequence
            raise SpecError(wrong) from None
        raise
    check_operations(layers, architecture)
    graph = _with_geometry(architecture, walk.patch, [f.operation for f in layers if isinstance(f.operation, MaxPool)])
    weights = [Layer(name=found.node, tensors=found.tensors(path.parent)) for found in layers if found.weights]
    return graph, by_role(weights, graph)


@dataclass(frozen=True, kw_only=True)
class _Found(Found):
    weights: Mapping[str, onnx.TensorProto] = field(default_factory=dict)
    """Not read before the whole graph is known to be the preset's: a small file can name one of them in many nodes."""
    transposed: bool = False

    def tensors(self, folder: Path) -> dict[str, np.ndarray]:
        values = {part: values_of(tensor, folder) for part, tensor in self.weights.items()}
        return {part: v.T if self.transposed and part == "weight" else v for part, v in values.items()}


class _Walk:
    """A graph as a chain of operations: one input, one output, and between them one node after another.

    Raises SpecError when it isn't such a chain.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].HasField("t"):
                self.constants.update(dict.fromkeys(node.output, node.attribute[0].t))
        self.nodes = [node for node in graph.node if node.op_type != "Constant"]
        self.takers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.takers.setdefault(name, []).append(node)
        surplus = [t.name for t in graph.initializer if t.dims and is_float(t) and t.name not in self.takers]
        if surplus:
            raise SpecError(f"weights that no node takes: {listed(surplus)}")
        inputs = inputs_of(graph)
        if len(inputs) != 1 or len(graph.output) != 1:
            raise SpecError(f"has {len(inputs)} inputs and {len(graph.output)} outputs: expected one of each")
        self.input, self.output = inputs[0].name, graph.output[0].name
        self.patch = patch_side(inputs[0])

    def operations(self) -> Iterator[_Found]:
        """The operations from the input to the output; what does nothing at inference is left out."""
        value, shape, seen = self.input, (3, self.patch, self.patch), 0
        while value != self.output:
            node = self._taker(value)
            seen += 1
            if seen > len(self.nodes):
                raise SpecError("its nodes form a circle: expected a chain from the input to the output")
            value = node.output[0]
            if node.op_type == "MatMul":
                adding = self._taker(value)
                seen, value = seen + 1, adding.output[0]
                found = self._matmul(node, adding)
            else:
                found = self._operation(node, shape, last=value == self.output)
            if found is not None:
                yield found
                shape = found.operation.output(shape)
        if seen != len(self.nodes):
            raise SpecError(f"has {len(self.nodes)} nodes, {seen} of them between its input and its output")

    def _taker(self, value: str) -> onnx.NodeProto:
        takers = self.takers.get(value, [])
        if len(takers) != 1 or value not in takers[0].input[:2] or not takers[0].output:
            raise SpecError(
                f"{shown(value)} goes to {len(takers)} nodes: expected a chain from the input to the output"
            )
        if takers[0].domain not in ("", "ai.onnx"):
            raise SpecError(f"{self._name(takers[0])}: is of {shown(takers[0].domain)}: expected ONNX's own operators")
        return takers[0]

    def _operation(self, node: onnx.NodeProto, shape: tuple[int, ...], *, last: bool) -> _Found | None:
        """None for what does nothing: a reshape before a fully-connected layer, dropout, the softmax at the end."""
        name, get = self._name(node), attributes(node)
        match node.op_type:
            case "Conv":
                weights = {"weight": self._weights(node, 1), "bias": self._weights(node, 2)}
                sides = list(weights["weight"].dims)
                if len(sides) != 4:
                    raise SpecError(f"{name}: weights of shape {shown(sides)}: expected four sides")
                size, stride, pad = window(name, {"kernel_shape": sides[2:], **get})
                groups = whole(name, get, "group", 1)
                operation = Conv(name="conv", kernels=sides[0], size=size, stride=stride, pad=pad, groups=groups)
                return _Found(node=name, operation=operation, weights=weights)
            case "Gemm":
                plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
                rows = get.get("transB", 0)
                if any(get.get(key, value) != value for key, value in plain.items()) or rows not in (0, 1):
                    raise SpecError(f"{name}: expected a Gemm with alpha 1, beta 1, transA 0, and transB 0 or 1")
                return self._dense(name, self._weights(node, 1), self._weights(node, 2), transposed=not rows)
            case "Relu" | "Tanh":
                return _Found(node=name, operation=Activation(name="act", kind=node.op_type.lower()))
            case "LRN":
                return _Found(node=name, operation=lrn(name, get))
            case "MaxPool":
                return _Found(node=name, operation=pool(name, get, shape))
            case "Reshape" | "Flatten":
                self._check_flattens(node, get, shape)
                return None
            case "AveragePool" if window(name, get) == (1, 1, 0):  # torchvision's adaptive pooling of 6 x 6 to 6 x 6
                return None
            case "Dropout" | "Identity":
                return None
            case "Softmax" if last and get.get("axis", -1 if self.opset >= 13 else 1) in (1, -1):
                return None
        raise SpecError(f"{name}: {shown(node.op_type)} is no part of an AlexNet here")

    def _matmul(self, node: onnx.NodeProto, adding: onnx.NodeProto) -> _Found:
        biases = [name for name in adding.input if name != node.output[0]]
        if adding.op_type != "Add" or len(biases) != 1:
            raise SpecError(f"{self._name(node)}: expected an Add of biases after a MatMul")
        weights, added = self._weights(node, 1), self._constant(self._name(adding), biases[0])
        return self._dense(self._name(node), weights, added, transposed=True)

    @staticmethod
    def _dense(name: str, weights: onnx.TensorProto, biases: onnx.TensorProto, *, transposed: bool) -> _Found:
        sides = list(weights.dims)
        if len(sides) != 2:
            raise SpecError(f"{name}: weights of shape {shown(sides)}: expected a matrix")
        operation = Dense(name="fc", units=sides[1] if transposed else sides[0])
        return _Found(
            node=name, operation=operation, weights={"weight": weights, "bias": biases}, transposed=transposed
        )

    def _check_flattens(self, node: onnx.NodeProto, get: Mapping[str, Any], shape: tuple[int, ...]) -> None:
        name = self._name(node)
        if node.op_type == "Flatten":
            flattens = get.get("axis", 1) == 1
        else:  # before opset 5 the shape is an attribute
            sides = integers_of(self._constant(name, node.input[1])) if len(node.input) > 1 else get.get("shape")
            flattens = isinstance(sides, list) and len(sides) == 2 and sides[1] in (-1, math.prod(shape))
        if not flattens:
            raise SpecError(f"{name}: expected it to flatten maps into one vector for each image")

    def _weights(self, node: onnx.NodeProto, place: int) -> onnx.TensorProto:
        if len(node.input) <= place:
            raise SpecError(f"{self._name(node)}: has no {'biases' if place == 2 else 'weights'}")
        return self._constant(self._name(node), node.input[place])

    def _constant(self, where: str, name: str) -> onnx.TensorProto:
        if name not in self.constants:
            raise SpecError(
                f"{where}: {shown(name)} is not in the file: expected weights that don't have to be computed"
            )
        return self.constants[name]

    @staticmethod
    def _name(node: onnx.NodeProto) -> str:
        return shown(node.name or (node.output[0] if node.output else node.op_type))


def _with_geometry(architecture: Architecture, patch: int, pools: list[MaxPool]) -> Architecture:
    found = iter(pools)
    operations = [replace(o, ceil=next(found).ceil) if isinstance(o, MaxPool) else o for o in architecture.operations]
    return replace(architecture, patch=patch, operations=tuple(operations))
