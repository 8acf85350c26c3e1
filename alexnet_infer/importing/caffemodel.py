"""Caffe's `.caffemodel`: a protobuf message with the whole net, of which names, kinds and weights are read.

The message is BVLC's `src/caffe/proto/caffe.proto`; only the fields below are declared, and protobuf passes over the
rest. Files from before 2014 call their layers `layers` and number their kinds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_infer.architecture import LRN, Architecture, Conv, Dense, MaxPool
from alexnet_infer.errors import SpecError, one_line, shown
from alexnet_infer.importing.roles import Layer, by_role
from alexnet_infer.presets import preset

MAX_BYTES = 2**31 - 1
"""Where a protobuf message ends."""

_SIDES = ("num", "channels", "height", "width")
"""How old files write a shape."""

_V1_KINDS = {4: "Convolution", 14: "InnerProduct", 15: "LRN", 17: "Pooling"}


def read_caffemodel(path: Path, architecture: Architecture) -> dict[str, np.ndarray]:
    """The tensors of `architecture` from a `.caffemodel`, as float32.

    A file also lists layers without weights. Where it has pooling and LRN layers, their order must be the
    architecture's, since the tensors of AlexNet and CaffeNet have the same names and shapes.

    Raises SpecError on whatever isn't such a file or doesn't fit, OSError when it can't be read.
    """
    if path.stat().st_size > MAX_BYTES:
        raise SpecError(f"has {path.stat().st_size} bytes: expected a caffemodel, which ends at 2 GB")
    layers = _parsed(path.read_bytes())
    if not layers:
        raise SpecError("has no layers: expected a caffemodel")
    _check_order([kind for _, kind, _ in layers], architecture)
    return by_role([_layer(*layer) for layer in layers if layer[2]], architecture)


def _parsed(content: bytes) -> list[tuple[bytes, str, Any]]:
    """(Name, kind, blobs) of each layer, in order."""
    from google.protobuf.message import DecodeError

    net = _message_class()()
    try:
        net.ParseFromString(content)
    except DecodeError as error:
        raise SpecError(f"damaged, or not a caffemodel ({one_line(error)})") from None
    old = [(layer.name, _V1_KINDS.get(layer.type, ""), layer.blobs) for layer in net.layers]
    return old or [(layer.name, layer.type.decode("utf-8", "replace"), layer.blobs) for layer in net.layer]


@functools.cache
def _message_class() -> type:
    """NetParameter with the fields that are read.

    Weights are declared as bytes, which a packed list of floats is on the wire: NumPy takes them as they lie, where
    protobuf would make a Python number of each.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    messages = {
        "BlobShape": [("dim", 1, field.TYPE_INT64, True)],
        "BlobProto": [
            *((side, number, field.TYPE_INT64, False) for number, side in enumerate(_SIDES, start=1)),
            ("data", 5, field.TYPE_BYTES, True),
            ("shape", 7, "BlobShape", False),
            ("double_data", 8, field.TYPE_BYTES, True),
        ],
        "LayerParameter": [
            ("name", 1, field.TYPE_BYTES, False),
            ("type", 2, field.TYPE_BYTES, False),
            ("blobs", 7, "BlobProto", True),
        ],
        "V1LayerParameter": [
            ("name", 4, field.TYPE_BYTES, False),
            ("type", 5, field.TYPE_INT32, False),
            ("blobs", 6, "BlobProto", True),
        ],
        "NetParameter": [("layers", 2, "V1LayerParameter", True), ("layer", 100, "LayerParameter", True)],
    }
    file = descriptor_pb2.FileDescriptorProto(name="alexnet_infer/caffe.proto", package="caffe", syntax="proto2")
    for message, fields in messages.items():
        declared = file.message_type.add(name=message)
        for name, number, kind, repeated in fields:
            label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            own = declared.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                own.type, own.type_name = field.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                own.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))


def _layer(name: bytes, kind: str, blobs: Any) -> Layer:
    shown_name = name.decode("utf-8", "replace")
    if len(blobs) > 2:
        raise SpecError(f"{shown(shown_name)} has {len(blobs)} blobs: expected weights and biases")
    tensors = {
        part: _values(f"{shown_name}.{part}", blob, flat=part == "bias" or kind == "InnerProduct")
        for part, blob in zip(("weight", "bias"), blobs, strict=False)
    }
    return Layer(name=shown_name, tensors=tensors)


def _values(name: str, blob: Any, *, flat: bool) -> np.ndarray:
    """A blob as float32. `flat`: the sides of 1 before a vector or matrix, which old files write, are left out."""
    sides = list(blob.shape.dim) if blob.HasField("shape") else [getattr(blob, side) for side in _SIDES]
    content, dtype = (b"".join(blob.double_data), "<f8") if blob.double_data else (b"".join(blob.data), "<f4")
    if min(sides, default=1) < 0 or math.prod(sides) * np.dtype(dtype).itemsize != len(content):
        raise SpecError(f"{shown(name)} has shape {shown(sides)} and {len(content)} bytes of values: they disagree")
    if flat:
        dimensions = 1 if name.endswith(".bias") else 2
        while len(sides) > dimensions and sides[0] == 1:
            del sides[0]
    with np.errstate(over="ignore"):
        return np.frombuffer(content, dtype).reshape(sides).astype(np.float32, copy=False)


_KINDS = {Conv: "Convolution", Dense: "InnerProduct", LRN: "LRN", MaxPool: "Pooling"}


def _check_order(kinds: Sequence[str], architecture: Architecture) -> None:
    found = [kind for kind in kinds if kind in _KINDS.values()]
    if not {"LRN", "Pooling"} & {*found} or found == _order(architecture):
        return
    others = [name for name in ("caffe", "caffenet") if _order(preset(name)) == found]
    fix = f"import it --as {others[0]}" if others else "it is another net"
    raise SpecError(f"its layers are {shown(' '.join(found))}: {architecture.name} has them in another order; {fix}")


def _order(architecture: Architecture) -> list[str]:
    return [_KINDS[type(o)] for o in architecture.operations if type(o) in _KINDS]
