"""Check the graph of an exported file before a runtime sees it: its operators, its shapes, and what running it takes.

ONNX can describe any computation. A runtime that gets a hostile graph may run forever or take all memory, also while it
only loads the file. So a graph may have only the operators that are known here, and the size of every value and the
work of every node are computed from the declared input and the weights. Nothing in the file that states a shape is
believed.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Set
from typing import TYPE_CHECKING, Any

from alexnet_infer.architecture import SLOW, most_work
from alexnet_infer.errors import SpecError, shown
from alexnet_infer.graph.info import ExportInfo
from alexnet_infer.graph.memory import Step, bytes_at_once
from alexnet_infer.graph.net import PLUGIN_DOMAIN, lrn_function
from alexnet_infer.graph.operators import (
    ANY,
    DOMAINS,
    FLOAT,
    INT64,
    ITEM_BYTES,
    MAX_SIDE,
    MICROSOFT,
    ONNX,
    OPERATORS,
    VERSIONS,
    Node,
    Shape,
    Value,
    sides,
)

if TYPE_CHECKING:
    import onnx
    from google.protobuf.message import Message

MAX_NODES = 1000
"""12 times the nodes of an 8-bit net that cuts ten views. OpenVINO compiles as many in a second or two."""

MAX_INPUTS = 4 * MAX_NODES
"""Inputs of all nodes together. The nodes of exported files have 2 or 3 on average."""

IR_VERSIONS = range(4, 14)
"""Versions of the file format. Before version 4, weights had to be inputs of the graph."""

PATCH_BYTES = 2**26
"""Bytes that the values for one patch take at once: as many as 12 of the paper's nets in one file."""

FIXED_BYTES, FIXED_WORK = 2**10, 2**17
"""A call with a fixed number of images may take what one image with ten views may, and for each weight as many bytes
and multiply-adds more. This allows 256 images with ten views of the bundled nets (5 GB) and of the paper's (15 GB and
2 * 10^12 multiply-adds)."""

WEIGHT_BYTES = 2**33
"""Bytes of all weights: 34 of the paper's nets in float32."""

MAX_RANK = 8
MAX_NAME = 1000
"""Characters of a name."""

_DESCRIPTION = ("dims", "data_type", "name", "doc_string", "metadata_props", "data_location")
"""The fields of a tensor without its values."""

_TYPED = {**dict.fromkeys(ITEM_BYTES, "int32_data"), FLOAT: "float_data", INT64: "int64_data"}
"""The field for the values of an element type, if they aren't in `raw_data`."""

_FLOAT, _INT, _STRING, _TENSOR, _INTS = 1, 2, 3, 4, 7
_PLACES = {_FLOAT: "f", _INT: "i", _STRING: "s", _TENSOR: "t", _INTS: "ints"}
"""ONNX's number of an attribute's type -> the field that holds it."""

_NAMES = {
    _FLOAT: "alpha beta bias epsilon k momentum ratio",
    _INT: "allowzero axis ceil_mode count_include_pad group groups keepdims opset seed size storage_order to "
    "transA transB",
    _STRING: "auto_pad plugin_namespace plugin_version",
    _TENSOR: "value",
    _INTS: "axes dilations kernel_shape pads perm strides",
}
_TYPES = {name: kind for kind, names in _NAMES.items() for name in names.split()}
"""Name of an attribute -> its type."""

_FIELDS = {
    "ModelProto": {
        "ir_version", "opset_import", "producer_name", "producer_version", "domain", "model_version", "doc_string",
        "graph", "metadata_props", "functions",
    },
    "GraphProto": {
        "name", "node", "initializer", "input", "output", "value_info", "doc_string", "metadata_props",
    },
    "NodeProto": {"input", "output", "name", "op_type", "domain", "attribute", "doc_string", "metadata_props"},
    "ValueInfoProto": {"name", "type", "doc_string", "metadata_props"},
    "TypeProto": {"tensor_type"},
}  # fmt: skip
"""The fields that a message may have. Subgraphs, sparse tensors and what only training needs are not among them."""


def check_graph(model: onnx.ModelProto, info: ExportInfo) -> None:
    """Raise SpecError unless the graph has only known operators, and running it takes bounded memory and work.

    `info` says how many images a call takes, and how many patches of each. The ends of the graph must have been
    compared with the manifest. The values of weights in other files are not read.
    """
    _check_plain(model)
    graph = _Graph(model.graph, info)
    for node in model.graph.node:
        graph.add(node)
    graph.hold([declared.name for declared in model.graph.output])
    graph.check_cost()
    for declared in model.graph.value_info:
        graph.check_declared(declared)
    for declared in model.graph.output:
        graph.check_declared(declared, complete=True)


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Return the bytes that a tensor's declared type and shape take. Raises SpecError unless both are plain."""
    name, kind, shape = tensor.name, tensor.data_type, tensor.dims
    if kind not in ITEM_BYTES or len(shape) > MAX_RANK or not all(1 <= side <= MAX_SIDE for side in shape):
        raise SpecError(f"{shown(name)} has type {kind} and shape {shown(list(shape))}: expected numbers")
    return math.prod(shape) * ITEM_BYTES[kind]


def _check_plain(model: onnx.ModelProto) -> None:
    """Raise SpecError if the model has parts that no exported file has, or too many of them."""
    graph = model.graph
    plugins = sum(node.domain == PLUGIN_DOMAIN for node in graph.node)
    definition = lrn_function()
    for count, limit, what in (
        (len(graph.node) + plugins * (len(definition.node) - 1), MAX_NODES, "nodes"),  # OpenVINO gets the definition
        (sum(len(node.input) for node in graph.node), MAX_INPUTS, "inputs of nodes"),
    ):
        if count > limit:
            raise SpecError(f"has {count} {what}: expected at most {limit}")
    if model.ir_version not in IR_VERSIONS:
        raise SpecError(f"has version {model.ir_version} of the format: expected {IR_VERSIONS[0]} to {IR_VERSIONS[-1]}")
    for message in (model, graph, *graph.input, *graph.output, *graph.value_info):
        _check_fields(message)
        if message.DESCRIPTOR.name == "ValueInfoProto":
            _check_fields(message.type)
    _check_versions(model)
    if list(model.functions) != [definition] * (plugins > 0):
        names = [function.name for function in model.functions]
        raise SpecError(f"defines the functions {shown(names)}: expected only alexnet-infer's, if a node uses it")


def _check_versions(model: onnx.ModelProto) -> None:
    """Raise SpecError unless the model imports, once each, ONNX's operators and those of the domains that it uses."""
    imported = [(opset.domain, opset.version) for opset in model.opset_import]
    domains = [DOMAINS.get(domain, "?") for domain, _ in imported]
    used = {ONNX} | {DOMAINS[node.domain] for node in model.graph.node if node.domain in DOMAINS}
    if (
        len({*domains}) != len(domains)
        or not used <= {*domains} <= VERSIONS.keys()
        or any(version not in VERSIONS[DOMAINS[domain]] for domain, version in imported)
    ):
        onnx_versions = VERSIONS[ONNX]
        raise SpecError(
            f"imports operators of {shown(imported)}: expected version {onnx_versions[0]} to {onnx_versions[-1]} of "
            f"ONNX's once, and version 1 of those of {MICROSOFT} and {PLUGIN_DOMAIN} that it uses"
        )


def _check_fields(message: Message) -> None:
    kind = message.DESCRIPTOR.name
    if unknown := {field.name for field, _ in message.ListFields()} - _FIELDS[kind]:
        raise SpecError(f"its {kind} has {shown(sorted(unknown))}: expected a file that `alexnet-infer export` wrote")


class _Graph:
    """The values that are known so far, by name, and what computing them takes.

    `computed` are the names of the values that depend on the input, which is the first of them. A runtime computes the
    others, `constants` bytes, while it loads the file.
    """

    def __init__(self, graph: onnx.GraphProto, info: ExportInfo) -> None:
        self.batch = info.batch.max if info.batch.fixed else ANY
        self.views = 10 if info.views == "ten" else 1
        self.values: dict[str, Value] = {}
        self.constants = self.scratch = self.work = self.weights = self.weight_bytes = 0
        (source,) = graph.input
        image = [side.dim_value for side in source.type.tensor_type.shape.dim][1:]
        images = Value(source.type.tensor_type.elem_type, (self.batch, *image))
        self._define(source.name, images)
        self.computed = {source.name}
        self.steps: list[Step] = [((), {source.name: images.bytes})]
        for tensor in graph.initializer:
            self._define(tensor.name, self._stored(tensor))

    def _define(self, name: str, value: Value) -> None:
        if not 1 <= len(name) <= MAX_NAME or name in self.values:
            raise SpecError(f"{shown(name)} is computed twice, or is no name")
        self.values[name] = value

    def _stored(self, tensor: onnx.TensorProto) -> Value:
        """Return a constant. Raises SpecError unless its values are as many as its shape says."""
        expected, kind, shape = tensor_bytes(tensor), tensor.data_type, tuple(tensor.dims)
        self.weights += math.prod(shape)
        self.weight_bytes += expected
        if self.weight_bytes > WEIGHT_BYTES:
            raise SpecError(f"has more than {WEIGHT_BYTES / 1e9:.1f} GB of weights")
        stored = {field.name: value for field, value in tensor.ListFields() if field.name not in _DESCRIPTION}
        allowed = ("external_data",) if tensor.data_location else ("raw_data", _TYPED[kind])
        place, values = next(iter(stored.items()), ("", ()))
        if len(stored) != 1 or place not in allowed:
            raise SpecError(f"{shown(tensor.name)}: its values are in {shown(sorted(stored))}: expected one place")
        actual = len(values) * {"raw_data": 1, "external_data": 0}.get(place, ITEM_BYTES[kind])
        if place != "external_data" and actual != expected:
            raise SpecError(
                f"{shown(tensor.name)} has {actual} bytes of values: expected {expected}, as its shape {sides(shape)} "
                "says"
            )
        if kind != INT64 or len(shape) != 1 or shape[0] > MAX_RANK or place == "external_data":
            return Value(kind, shape)
        return Value(kind, shape, tuple(values) if place == _TYPED[kind] else struct.unpack(f"<{shape[0]}q", values))

    def add(self, proto: onnx.NodeProto) -> None:
        """Compute what a node's outputs are. Its inputs must have been computed before."""
        _check_fields(proto)
        name = shown(proto.name or (proto.output[0] if proto.output else "a node"))
        if (proto.domain, proto.op_type) in (("", "Constant"), ("ai.onnx", "Constant")) and not proto.input:
            constant = _attributes(proto, name, {"value"}).get("value")
            if constant is None:
                raise SpecError(f"{name}: has no value")
            values = [self._stored(constant)]
        else:
            values = self._computed(proto, name)
        if not 1 <= len(proto.output) <= len(values):
            raise SpecError(f"{name}: has {len(proto.output)} outputs: expected {len(values)}")
        sizes = {}
        for output, value in zip(proto.output, values, strict=False):
            self._define(output, value)
            sizes[output] = value.bytes
        if self.computed.isdisjoint(proto.input):
            self.constants += sum(sizes.values())
        else:
            self.steps.append((proto.input, sizes))
            self.computed.update(sizes)

    def _computed(self, proto: onnx.NodeProto, name: str) -> list[Value]:
        operator = OPERATORS.get((DOMAINS.get(proto.domain, "?"), proto.op_type))
        if operator is None:
            domain = f" of {shown(proto.domain)}" if proto.domain else ""
            raise SpecError(
                f"{name}: has the operator {shown(proto.op_type)}{domain}: "
                "expected one that `alexnet-infer export` writes"
            )
        least, most = operator.inputs
        if not least <= len(proto.input) <= most:
            raise SpecError(f"{name}: has {len(proto.input)} inputs: expected {least} to {most}")
        if unknown := [i for i in proto.input if i and i not in self.values]:
            raise SpecError(f"{name}: reads {shown(unknown[0])}, which no node before it computes")
        inputs = [self.values[i] if i else None for i in proto.input]
        node = Node(name, inputs, _attributes(proto, name, operator.attributes))
        values = operator.rule(node)
        for value in values:
            self._check_shape(name, value.shape)
        self.scratch = max(self.scratch, node.scratch)
        self.work += max(node.work, SLOW * sum(value.size for value in values))
        return values

    def _check_shape(self, name: str, shape: Shape) -> None:
        """Raise SpecError unless at most one side grows with the batch, in proportion to it, and no side is huge."""
        grows = [side % ANY == 0 and side > 0 for side in shape]
        lengths = [side // ANY if growing else side for side, growing in zip(shape, grows, strict=True)]
        if len(shape) > MAX_RANK or sum(grows) > 1 or not all(1 <= length <= MAX_SIDE for length in lengths):
            raise SpecError(
                f"{name}: computes {sides(shape)}: expected at most {MAX_RANK} sides from 1 to {MAX_SIDE}, and at most "
                "one that grows with the batch"
            )

    def hold(self, outputs: list[str]) -> None:
        """Count the memory of the outputs to the end: a runtime returns them when all nodes have run."""
        self.steps.append((outputs, {}))

    def check_cost(self) -> None:
        """Raise SpecError if loading the file or a call takes too much memory or work."""
        most = PATCH_BYTES + 4 * self.weight_bytes  # float values are computed from 8-bit weights, and kept
        if self.constants > most:
            raise SpecError(f"would compute {self.constants:,} bytes of constants: expected at most {most:,}")
        for amount, per_patch, per_weight, what in (
            (bytes_at_once(self.steps) + self.scratch, PATCH_BYTES, FIXED_BYTES, "bytes of values at once"),
            (self.work, most_work(self.weights), FIXED_WORK, "multiply-adds"),
        ):
            if self.batch == ANY:  # the amount for each image, or the amount that does not depend on the batch
                taken, allowed, images = max(divmod(amount, ANY)), per_patch * self.views, "an image"
            else:
                taken = amount
                allowed = per_patch * min(self.views * self.batch, 10) + per_weight * self.weights
                images = (
                    f"{self.batch} images in each call; a free batch (--batch 1,8,256) has no limit for all of them"
                )
            if taken > allowed:
                raise SpecError(f"would take {taken:,} {what}: expected at most {allowed:,} for {images}")

    def check_declared(self, declared: onnx.ValueInfoProto, *, complete: bool = False) -> None:
        """Raise SpecError if a value is not what the file declares. Unless `complete`, parts may be left out."""
        if declared.name not in self.values and not complete:
            return  # tools leave declarations of values that they have removed
        actual = self.values.get(declared.name, Value(0, ()))
        stated = declared.type.tensor_type
        shape = tuple(side.dim_value or ANY for side in stated.shape.dim)
        if complete:
            fits = (stated.elem_type, shape) == (actual.kind, actual.shape)
        else:
            same_rank = len(shape) == len(actual.shape) or not stated.HasField("shape")
            sizes = zip(shape, actual.shape, strict=False)
            fits = same_rank and stated.elem_type in (0, actual.kind) and all(a in (ANY, b) for a, b in sizes)
        if not fits:
            raise SpecError(
                f"declares {shown(declared.name)} with type {stated.elem_type} and shape {sides(shape)}: computes type "
                f"{actual.kind} and shape {sides(actual.shape)}"
            )


def _attributes(proto: onnx.NodeProto, name: str, known: Set[str]) -> dict[str, Any]:
    """Return a node's attributes by name. Raises SpecError for one that the operator doesn't have, or of another type.

    References to the attributes of a function, subgraphs and sparse tensors are other types.
    """
    attributes: dict[str, Any] = {}
    for attribute in proto.attribute:
        kind = _TYPES.get(attribute.name)
        filled = {field.name for field, _ in attribute.ListFields()} - {"name", "type", "doc_string"}
        if (
            attribute.name not in known
            or attribute.name in attributes
            or attribute.type != kind
            or not filled <= {_PLACES[kind]}
            or len(attribute.ints) > MAX_RANK
        ):
            raise SpecError(f"{name}: its attribute {shown(attribute.name)} is unknown, repeated or of another type")
        value = getattr(attribute, _PLACES[kind])
        if kind == _FLOAT and not math.isfinite(value):
            raise SpecError(f"{name}: {attribute.name}={value}: expected a finite number")
        attributes[attribute.name] = list(value) if kind == _INTS else value
    return attributes
