"""Parts of ONNX nodes, read without trusting them: attributes, windows, and the values of tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_infer.architecture import MAX_PARAMETERS, MaxPool
from alexnet_infer.errors import SpecError, one_line, shown
from alexnet_infer.export.onnx_file import external_place

if TYPE_CHECKING:
    import onnx


def whole(name: str, get: Mapping[str, Any], key: str, default: int = 0) -> int:
    """A node's attribute that counts something. Raises SpecError unless it is from 1 to 8192."""
    value = get.get(key, default)
    if type(value) is not int or not 1 <= value <= 8192:
        raise SpecError(f"{name}: {key}={shown(value)}: expected a whole number from 1 to 8192")
    return value


def real(name: str, get: Mapping[str, Any], key: str, default: float) -> float:
    """A node's attribute that is a number. Raises SpecError when it is none."""
    value = get.get(key, default)
    if type(value) is not float or not math.isfinite(value):
        raise SpecError(f"{name}: {key}={shown(value)}: expected a number")
    return value


def values_of(tensor: onnx.TensorProto, folder: Path, *, integers: bool = False) -> np.ndarray:
    """A tensor's values as float32 (or int64), from the message or from a file in `folder`.

    Raises SpecError when it has fewer or more bytes than its shape says, another type, or lies elsewhere.
    """
    from onnx import TensorProto, helper, numpy_helper

    kinds = (TensorProto.INT64,) if integers else (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    name, sides = shown(tensor.name), list(tensor.dims)
    if tensor.data_type not in kinds:
        raise SpecError(f"{name} has type {tensor.data_type}: expected {'int64' if integers else 'floats'}")
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    count = math.prod(sides)
    if min(sides, default=0) < 0 or count > MAX_PARAMETERS:
        raise SpecError(f"{name} has shape {shown(sides)}: expected at most {MAX_PARAMETERS} values")
    if tensor.data_location == TensorProto.EXTERNAL:
        place, begin, length = external_place(tensor, folder)
        if length != count * dtype.itemsize:
            raise SpecError(f"{name} has shape {shown(sides)} and {length} bytes of values: they disagree")
        values = np.fromfile(place, dtype.newbyteorder("<"), count, offset=begin).reshape(sides)
    else:
        try:
            values = numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise SpecError(f"{name}: its values do not fit its shape {shown(sides)} ({one_line(error)})") from None
    with np.errstate(over="ignore"):
        return values.astype(np.int64 if integers else np.float32)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    import onnx

    try:
        return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    except ValueError as error:
        raise SpecError(f"{shown(node.name)}: an attribute can't be read ({one_line(error)})") from None


def window(name: str, get: Mapping[str, Any]) -> tuple[int, int, int]:
    """Size, stride and padding of a square window that is the same in both directions and on all sides."""
    found = []
    low = {"pads": 0}
    defaults = {"kernel_shape": [], "strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1]}
    for key, default in defaults.items():
        sides = get.get(key, default)
        if (
            not isinstance(sides, list)
            or len(sides) != len(default or [0, 0])
            or len({*sides}) != 1
            or type(sides[0]) is not int
            or not low.get(key, 1) <= sides[0] <= 4096
        ):
            raise SpecError(f"{name}: {key}={shown(sides)}: expected a square window, the same on all sides")
        found.append(sides[0])
    size, stride, pad, dilation = found
    if dilation != 1 or get.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or get.get("storage_order", 0):
        raise SpecError(f"{name}: expected no dilation, no auto_pad and rows first")
    return size, stride, pad


def pool(name: str, get: Mapping[str, Any], shape: tuple[int, ...]) -> MaxPool:
    """Max pooling; padding at the lower right that lets one more window hang over the edge is `ceil`."""
    pads = get.get("pads", [0, 0, 0, 0])
    size, stride, _ = window(name, {**get, "pads": [0, 0, 0, 0]})
    plain = MaxPool(name="pool", size=size, stride=stride)
    hanging = replace(plain, ceil=True)
    if not isinstance(pads, list) or len(pads) != 4 or any(pads[:2]) or pads[2] != pads[3]:
        raise SpecError(f"{name}: pads={shown(pads)}: expected none at the upper left, the same at the lower right")
    beyond = pads[2]
    if type(beyond) is not int:
        raise SpecError(f"{name}: pads={shown(pads)}: expected whole numbers")
    if get.get("ceil_mode", 0) and not beyond:
        beyond = hanging.overhang(shape[-1])
    for pool in (plain, hanging):
        if 0 <= beyond < size and (shape[-1] + beyond - size) // stride + 1 == pool.output(shape)[-1]:
            return pool
    raise SpecError(f"{name}: pads={shown(pads)}: expected padding that only the last window needs")
