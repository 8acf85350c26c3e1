"""Write `.caffemodel` files byte by byte from the published message layout, independently of the reader."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np

from alexnet_infer.architecture import LRN, Activation, Architecture, Conv, Dense, Dropout, MaxPool, Operation

V1_KINDS = {
    "Convolution": 4, "InnerProduct": 14, "LRN": 15, "Pooling": 17, "ReLU": 18, "Dropout": 6, "Softmax": 20,
    "SoftmaxWithLoss": 21, "Accuracy": 1, "Data": 5, "Split": 22, "Power": 26, "Sigmoid": 19,
}  # fmt: skip


def varint(value: int) -> bytes:
    value %= 2**64  # int64: negative numbers take ten bytes
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def part(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def blob(
    values: np.ndarray, *, legacy: bool = False, double: bool = False, shape: Sequence[int] | None = None
) -> bytes:
    sides = values.shape if shape is None else shape
    if legacy:
        padded = (1,) * (4 - len(sides)) + tuple(sides)
        head = b"".join(number(field, side) for field, side in enumerate(padded, start=1))
    else:
        head = part(7, part(1, b"".join(varint(side) for side in sides)))
    return head + part(8 if double else 5, values.astype("<f8" if double else "<f4").tobytes())


SETTINGS = {
    "Convolution": (106, 10),
    "InnerProduct": (117, 17),
    "LRN": (118, 18),
    "Pooling": (121, 19),
    "ReLU": (123, 30),
}
"""Layer type -> field of its settings, in the current layout and in that of 2014."""


def layer(name: str, kind: str, blobs: Sequence[bytes] = (), *, settings: bytes = b"", v1: bool = False) -> bytes:
    encoded = part(SETTINGS[kind][v1], settings) if settings else b""
    bottom = b"" if kind == "Data" else b"bottom"
    if v1:
        content = part(2, bottom) if bottom else b""
        content += part(3, name.encode()) + part(4, name.encode()) + number(5, V1_KINDS[kind])
        return part(2, content + b"".join(part(6, b) for b in blobs) + encoded)
    content = part(1, name.encode()) + part(2, kind.encode()) + (part(3, bottom) if bottom else b"")
    content += part(4, name.encode())
    # Field 5, loss_weight, is a float that a reader must skip.
    content += varint(5 << 3 | 5) + struct.pack("<f", 1)
    return part(100, content + b"".join(part(7, b) for b in blobs) + encoded)


def real(field: int, value: float) -> bytes:
    return varint(field << 3 | 5) + struct.pack("<f", value)


def settings(o: Operation) -> bytes:
    """The content of `convolution_param` and so on. Like Caffe, it omits defaults."""
    match o:
        case Conv():
            pad, stride = number(3, o.pad) if o.pad else b"", number(6, o.stride) if o.stride != 1 else b""
            groups = number(5, o.groups) if o.groups != 1 else b""
            return number(1, o.kernels) + pad + number(4, o.size) + groups + stride
        case Dense():
            return number(1, o.units)
        case LRN():
            return number(1, o.size) + real(2, o.alpha_per_size) + real(3, o.beta) + (real(5, o.k) if o.k != 1 else b"")
        case MaxPool():
            return number(1, 0) + number(2, o.size) + number(3, o.stride)
    return b""


KINDS = {
    Conv: "Convolution",
    Dense: "InnerProduct",
    LRN: "LRN",
    MaxPool: "Pooling",
    Activation: "ReLU",
    Dropout: "Dropout",
}


def caffemodel(
    architecture: Architecture, tensors: Mapping[str, np.ndarray], *, v1: bool = False, double: bool = False
) -> bytes:
    """The net as Caffe's solver stores it. With `v1`, it has the layout of 2014, whose shapes have four dimensions."""
    content = part(1, b"AlexNet")
    for step in architecture.steps:
        blobs = [blob(tensors[name], legacy=v1, double=double) for name in step.tensors]
        kind, encoded = KINDS[type(step.operation)], settings(step.operation)
        content += layer(step.operation.name, kind, blobs, settings=encoded, v1=v1)
    return content + layer("prob", "Softmax", v1=v1)


def prototxt(architecture: Architecture) -> str:
    """The text of deploy.prototxt, which Caffe stores beside the weights."""
    side = architecture.patch
    lines = [
        'name: "AlexNet"',
        'layer { name: "data" type: "Input" top: "data" input_param { shape: '
        f"{{ dim: 1 dim: 3 dim: {side} dim: {side} }} }} }}",
    ]
    bottom = "data"
    for step in architecture.steps:
        o = step.operation
        match o:
            case Conv():
                settings = f"convolution_param {{ num_output: {o.kernels} kernel_size: {o.size} stride: {o.stride} "
                settings += f"pad: {o.pad} group: {o.groups} }}"
            case Dense():
                settings = f"inner_product_param {{ num_output: {o.units} }}"
            case LRN():
                settings = f"lrn_param {{ local_size: {o.size} alpha: {o.alpha_per_size!r} beta: {o.beta} k: {o.k} }}"
            case MaxPool():
                settings = f"pooling_param {{ pool: MAX kernel_size: {o.size} stride: {o.stride} }}"
            case Dropout():
                settings = f"dropout_param {{ dropout_ratio: {o.rate} }}"
            case _:
                settings = ""
        kind = KINDS[type(o)]
        lines.append(f'layer {{ name: "{o.name}" type: "{kind}" bottom: "{bottom}" top: "{o.name}" {settings} }}')
        bottom = o.name
    lines.append(f'layer {{ name: "prob" type: "Softmax" bottom: "{bottom}" top: "prob" }}')
    return "\n".join(lines) + "\n"
