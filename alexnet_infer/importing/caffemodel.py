"""Caffe's `.caffemodel`: a protobuf message with a net's layers, their settings and their weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_infer.architecture import LRN, Activation, Architecture, Conv, Dense, MaxPool, Operation
from alexnet_infer.errors import SpecError, one_line, shown
from alexnet_infer.graph.file import read_message
from alexnet_infer.graph.wire import check_wire, import_protobuf
from alexnet_infer.importing.comparison import FileOperation, check_operations
from alexnet_infer.importing.roles import Layer, as_float32, by_role

MAX_LAYERS = 1000

_WITHOUT_EFFECT = ("Dropout", "Split", "Silence", "Flatten")
_ENDS = ("Softmax", "SoftmaxWithLoss", "Accuracy")


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """A layer of the file, in the V1 or the current layout."""

    name: str
    kind: str
    message: Any


def read_caffemodel(path: Path, architecture: Architecture) -> dict[str, np.ndarray]:
    """Return the tensors of `architecture` from a `.caffemodel`, as float32.

    A file written by Caffe's solver lists all layers with their settings. They must match the architecture's, in order:
    the tensors alone don't tell AlexNet from CaffeNet, since their names and shapes are the same. If a file lists only
    layers with weights, only the number of layers and the shapes are checked.

    Raises SpecError if the file isn't a caffemodel or doesn't fit. Raises OSError if it can't be read.
    """
    layers = _parsed(read_message(path, "a caffemodel"))
    if any(not layer.message.blobs for layer in layers):
        check_operations(_operations(layers), architecture)
    return by_role([_weights(layer) for layer in layers if layer.message.blobs], architecture)


def _parsed(content: bytes) -> list[_Layer]:
    import_protobuf()
    from google.protobuf.message import DecodeError

    from alexnet_infer.importing.caffe_messages import V1_KINDS, net_parameter

    net = net_parameter()()
    try:
        check_wire(content, net.DESCRIPTOR)
        net.ParseFromString(content)
    except (DecodeError, SpecError) as error:
        raise SpecError(f"damaged, or not a caffemodel ({one_line(error)})") from None
    count = len(net.layers) or len(net.layer)
    if not 0 < count <= MAX_LAYERS:
        raise SpecError(f"has {count} layers: expected a caffemodel with 1 to {MAX_LAYERS} layers")
    kinds = [V1_KINDS.get(layer.type, f"kind {layer.type}") for layer in net.layers]
    kinds = kinds or [layer.type.decode("utf-8", "replace") for layer in net.layer]
    return [
        _Layer(name=message.name.decode("utf-8", "replace"), kind=kind, message=message)
        for kind, message in zip(kinds, net.layers or net.layer, strict=True)
    ]


def _operations(layers: Sequence[_Layer]) -> list[FileOperation]:
    """The operations from the input layers, which have neither inputs nor weights, to the softmax."""
    operations: list[FileOperation] = []
    last = ""
    for layer in layers:
        operation = _operation(layer)
        if operation is None:
            is_input = not layer.message.bottom and not layer.message.blobs
            if layer.kind in _ENDS:
                last = layer.name
            elif layer.kind not in _WITHOUT_EFFECT and not is_input:
                name, kind = shown(layer.name), shown(layer.kind)
                raise SpecError(f"{name}: {kind} in this form is not supported: expected the layers of an AlexNet")
        elif last:
            raise SpecError(f"{shown(layer.name)} comes after {shown(last)}: expected {shown(last)} at the end")
        else:
            operations.append(FileOperation(node=shown(layer.name), operation=operation))
    return operations


def _operation(layer: _Layer) -> Operation | None:
    """The operation of a layer, or None if the layer computes nothing at inference or is of an unknown kind."""
    name, message = shown(layer.name), layer.message
    match layer.kind:
        case "Convolution":
            settings = message.convolution_param
            if _side(name, settings.dilation, default=1) != 1:
                raise SpecError(f"{name}: dilation={shown(list(settings.dilation))}: expected 1")
            size, stride, pad = _window(name, settings)
            kernels, groups = settings.num_output, settings.group
            return Conv(name=name, kernels=kernels, size=size, stride=stride, pad=pad, groups=groups)
        case "InnerProduct":
            if message.inner_product_param.transpose:
                raise SpecError(f"{name}: transpose=true: expected one row of weights per output")
            return Dense(name=name, units=message.inner_product_param.num_output)
        case "ReLU" if message.relu_param.negative_slope == 0:
            return Activation(name=name, kind="relu")
        case "TanH":
            return Activation(name=name, kind="tanh")
        case "LRN":
            settings = message.lrn_param
            size = settings.local_size
            if settings.norm_region or size < 1:
                region = settings.norm_region
                raise SpecError(
                    f"{name}: norm_region={region} local_size={size}: expected normalisation across channels"
                )
            return LRN(name=name, size=size, alpha=settings.alpha / size, beta=settings.beta, k=settings.k)
        case "Pooling":
            settings = message.pooling_param
            size, stride, pad = _window(name, settings)
            if settings.pool or settings.global_pooling or pad:
                raise SpecError(
                    f"{name}: pool={settings.pool} global_pooling={settings.global_pooling} pad={pad}: expected "
                    "the maximum (0) over windows without padding"
                )
            return MaxPool(name=name, size=size, stride=stride)
    return None


def _window(name: str, settings: Any) -> tuple[int, int, int]:
    """Size, stride and padding. Each may be one number, one per direction, or two fields that end in `_h` and `_w`."""
    sides = []
    for short, key, default in (("kernel", "kernel_size", 0), ("stride", "stride", 1), ("pad", "pad", 0)):
        given = [getattr(settings, f"{short}_{axis}") for axis in "hw" if settings.HasField(f"{short}_{axis}")]
        sides.append(_side(name, [*getattr(settings, key), *given], default=default))
    size, stride, pad = sides
    return size, stride, pad


def _side(name: str, sides: Sequence[int], *, default: int) -> int:
    if len({*sides}) > 1:
        raise SpecError(f"{name}: a window with sides {shown(list(sides))}: expected a square")
    return sides[0] if sides else default


def _weights(layer: _Layer) -> Layer:
    blobs = layer.message.blobs
    if len(blobs) > 2:
        raise SpecError(f"{shown(layer.name)} has {len(blobs)} blobs: expected weights and biases")
    tensors = {
        part: _values(f"{layer.name}.{part}", blob, flat=part == "bias" or layer.kind == "InnerProduct")
        for part, blob in zip(("weight", "bias"), blobs, strict=False)
    }
    return Layer(name=layer.name, tensors=tensors)


def _values(name: str, blob: Any, *, flat: bool) -> np.ndarray:
    """A blob as float32. With `flat`, the leading 1s in the shapes of old files' vectors and matrices are removed."""
    from alexnet_infer.importing.caffe_messages import SIDES

    sides = list(blob.shape.dim) if blob.HasField("shape") else [getattr(blob, side) for side in SIDES]
    content, dtype = (b"".join(blob.double_data), "<f8") if blob.double_data else (b"".join(blob.data), "<f4")
    if len(sides) > 4 or min(sides, default=1) < 1 or math.prod(sides) * np.dtype(dtype).itemsize != len(content):
        raise SpecError(f"{shown(name)} has shape {shown(sides)} but {len(content)} bytes of values")
    if flat:
        dimensions = 1 if name.endswith(".bias") else 2
        while len(sides) > dimensions and sides[0] == 1:
            del sides[0]
    return as_float32(np.frombuffer(content, dtype).reshape(sides))
