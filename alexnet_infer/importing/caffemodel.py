"""Caffe's `.caffemodel`: a protobuf message with the whole net, its weights and what it does with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_infer.architecture import LRN, Activation, Architecture, Conv, Dense, MaxPool, Operation
from alexnet_infer.errors import SpecError, one_line, shown
from alexnet_infer.importing.comparison import Found, check_operations
from alexnet_infer.importing.roles import Layer, as_float32, by_role

MAX_BYTES = 2**31 - 1
"""Where a protobuf message ends."""

MAX_LAYERS = 1000

_WITHOUT_EFFECT = ("Dropout", "Split", "Silence", "Flatten")
_ENDS = ("Softmax", "SoftmaxWithLoss", "Accuracy")


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """A layer as the file has it, of the old layout or of today's."""

    name: str
    kind: str
    message: Any


def read_caffemodel(path: Path, architecture: Architecture) -> dict[str, np.ndarray]:
    """The tensors of `architecture` from a `.caffemodel`, as float32.

    What Caffe's solver writes lists all layers with their settings, and they must be the architecture's, in its order:
    the tensors of AlexNet and CaffeNet have the same names and shapes. A file that lists layers with weights alone is
    taken by their shapes.

    Raises SpecError on whatever isn't such a file or doesn't fit, OSError when it can't be read.
    """
    if path.stat().st_size > MAX_BYTES:
        raise SpecError(f"has {path.stat().st_size} bytes: expected a caffemodel, which ends at 2 GB")
    layers = _parsed(path.read_bytes())
    if any(not layer.message.blobs for layer in layers):
        check_operations(_operations(layers), architecture)
    return by_role([_weights(layer) for layer in layers if layer.message.blobs], architecture)


def _parsed(content: bytes) -> list[_Layer]:
    from google.protobuf.message import DecodeError

    from alexnet_infer.importing.caffe_messages import V1_KINDS, net_parameter

    net = net_parameter()()
    try:
        net.ParseFromString(content)
    except DecodeError as error:
        raise SpecError(f"damaged, or not a caffemodel ({one_line(error)})") from None
    count = len(net.layers) or len(net.layer)
    if not 0 < count <= MAX_LAYERS:
        raise SpecError(f"has {count} layers: expected a caffemodel, with 1 to {MAX_LAYERS}")
    kinds = [V1_KINDS.get(layer.type, f"kind {layer.type}") for layer in net.layers]
    kinds = kinds or [layer.type.decode("utf-8", "replace") for layer in net.layer]
    return [
        _Layer(name=message.name.decode("utf-8", "replace"), kind=kind, message=message)
        for kind, message in zip(kinds, net.layers or net.layer, strict=True)
    ]


def _operations(layers: Sequence[_Layer]) -> list[Found]:
    """What the net computes, from the layers that fetch images (they take nothing from others) to the softmax."""
    found: list[Found] = []
    ended = ""
    for layer in layers:
        operation = _operation(layer)
        if operation is None:
            fetches = not layer.message.bottom and not layer.message.blobs
            if layer.kind in _ENDS:
                ended = layer.name
            elif layer.kind not in _WITHOUT_EFFECT and not fetches:
                raise SpecError(f"{shown(layer.name)}: {shown(layer.kind)} is no part of an AlexNet here")
        elif ended:
            raise SpecError(f"{shown(layer.name)} comes after {shown(ended)}: expected that at the end")
        else:
            found.append(Found(node=shown(layer.name), operation=operation))
    return found


def _operation(layer: _Layer) -> Operation | None:
    """None for a layer that computes nothing of the net's, or nothing that is known here."""
    name, message = shown(layer.name), layer.message
    match layer.kind:
        case "Convolution":
            said = message.convolution_param
            if _side(name, said.dilation, default=1) != 1:
                raise SpecError(f"{name}: dilation={shown(list(said.dilation))}: expected none")
            size, stride, pad = _window(name, said)
            return Conv(name=name, kernels=said.num_output, size=size, stride=stride, pad=pad, groups=said.group)
        case "InnerProduct":
            if message.inner_product_param.transpose:
                raise SpecError(f"{name}: transpose=true: expected a row of weights for each output")
            return Dense(name=name, units=message.inner_product_param.num_output)
        case "ReLU" if message.relu_param.negative_slope == 0:
            return Activation(name=name, kind="relu")
        case "TanH":
            return Activation(name=name, kind="tanh")
        case "LRN":
            said = message.lrn_param
            if said.norm_region or said.local_size < 1:
                raise SpecError(
                    f"{name}: norm_region={said.norm_region} local_size={said.local_size}: expected "
                    "normalisation across channels"
                )
            return LRN(name=name, size=said.local_size, alpha=said.alpha / said.local_size, beta=said.beta, k=said.k)
        case "Pooling":
            said = message.pooling_param
            size, stride, pad = _window(name, said)
            if said.pool or said.global_pooling or pad:
                raise SpecError(
                    f"{name}: pool={said.pool} global_pooling={said.global_pooling} pad={pad}: expected "
                    "the maximum (0) over windows without padding"
                )
            return MaxPool(name=name, size=size, stride=stride)
    return None


def _window(name: str, said: Any) -> tuple[int, int, int]:
    """Size, stride and padding. A side is given once, once a direction, or under two names."""
    sides = []
    for short, key, default in (("kernel", "kernel_size", 0), ("stride", "stride", 1), ("pad", "pad", 0)):
        given = [getattr(said, f"{short}_{axis}") for axis in "hw" if said.HasField(f"{short}_{axis}")]
        sides.append(_side(name, [*getattr(said, key), *given], default=default))
    size, stride, pad = sides
    return size, stride, pad


def _side(name: str, sides: Sequence[int], *, default: int) -> int:
    if len({*sides}) > 1:
        raise SpecError(f"{name}: a window with sides {shown(list(sides))}: expected a square one")
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
    """A blob as float32. `flat`: the sides of 1 before a vector or matrix, which old files write, are left out."""
    from alexnet_infer.importing.caffe_messages import SIDES

    sides = list(blob.shape.dim) if blob.HasField("shape") else [getattr(blob, side) for side in SIDES]
    content, dtype = (b"".join(blob.double_data), "<f8") if blob.double_data else (b"".join(blob.data), "<f4")
    if len(sides) > 4 or min(sides, default=1) < 1 or math.prod(sides) * np.dtype(dtype).itemsize != len(content):
        raise SpecError(f"{shown(name)} has shape {shown(sides)} and {len(content)} bytes of values: they disagree")
    if flat:
        dimensions = 1 if name.endswith(".bias") else 2
        while len(sides) > dimensions and sides[0] == 1:
            del sides[0]
    return as_float32(np.frombuffer(content, dtype).reshape(sides))
