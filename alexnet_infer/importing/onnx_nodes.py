"""Read parts of untrusted ONNX nodes: attributes, windows, and the values of tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import replace

from alexnet_infer.architecture import LRN, MAX_PARAMETERS, MaxPool
from alexnet_infer.errors import SpecError, one_line, shown
from alexnet_infer.graph.file import external_place
from alexnet_infer.importing.roles import as_float32

if TYPE_CHECKING:
    import onnx


def whole(name: str, get: Mapping[str, Any], key: str, default: int = 0) -> int:
    """Return a node's integer attribute. Raises SpecError unless it is from 1 to 8192."""
    value = get.get(key, default)
    if type(value) is not int or not 1 <= value <= 8192:
        raise SpecError(f"{name}: {key}={shown(value)}: expected a whole number from 1 to 8192")
    return value


def real(name: str, get: Mapping[str, Any], key: str, default: float) -> float:
    """Return a node's float attribute. Raises SpecError unless it is a finite float."""
    value = get.get(key, default)
    if type(value) is not float or not math.isfinite(value):
        raise SpecError(f"{name}: {key}={shown(value)}: expected a number")
    return value


def values_of(tensor: onnx.TensorProto, folder: Path) -> np.ndarray:
    """Return a tensor's values as float32, from the message or from a file in `folder`.

    Raises SpecError if it has no float type, if its size doesn't match its shape, or if its file is not in `folder`.
    """
    from onnx import TensorProto, helper

    name, sides = shown(tensor.name), list(tensor.dims)
    if not is_float(tensor):
        raise SpecError(f"{name} has type {_type(tensor)}: expected FLOAT, FLOAT16 or DOUBLE")
    count = math.prod(sides)
    if not all(0 < side <= MAX_PARAMETERS for side in sides) or len(sides) > 4 or count > MAX_PARAMETERS:
        raise SpecError(f"{name} has shape {shown(sides)}: expected at most {MAX_PARAMETERS} values")
    if tensor.data_location != TensorProto.EXTERNAL:
        return as_float32(_array(tensor))
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    place, begin, length = external_place(tensor, folder)
    if length != count * dtype.itemsize:
        raise SpecError(f"{name} has shape {shown(sides)} but {length} bytes of values")
    return as_float32(np.fromfile(place, dtype.newbyteorder("<"), count, offset=begin).reshape(sides))


def integers_of(tensor: onnx.TensorProto) -> list[int]:
    """Return an int64 vector of up to 8 elements from the message. Raises SpecError for any other tensor."""
    from onnx import TensorProto

    if (
        tensor.data_type != TensorProto.INT64
        or len(tensor.dims) != 1
        or not 1 <= tensor.dims[0] <= 8
        or tensor.data_location == TensorProto.EXTERNAL
    ):
        sides = shown(list(tensor.dims))
        raise SpecError(
            f"{shown(tensor.name)} has type {_type(tensor)}, shape {sides}: expected an INT64 vector of up to 8 values"
        )
    return _array(tensor).tolist()


def is_float(tensor: onnx.TensorProto) -> bool:
    """Whether the tensor has a float type that weights can be read from."""
    from onnx import TensorProto

    return tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def _type(tensor: onnx.TensorProto) -> str:
    from onnx import TensorProto

    known = TensorProto.DataType.DESCRIPTOR.values_by_number
    return known[tensor.data_type].name if tensor.data_type in known else str(tensor.data_type)


def _array(tensor: onnx.TensorProto) -> np.ndarray:
    from onnx import numpy_helper

    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        sides = shown(list(tensor.dims))
        raise SpecError(f"{shown(tensor.name)}: its values do not fit its shape {sides} ({one_line(error)})") from None


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes by name. Raises SpecError if one can't be read."""
    import onnx

    try:
        return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    except ValueError as error:
        raise SpecError(f"{shown(node.name)}: an attribute can't be read ({one_line(error)})") from None


def window(name: str, get: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return size, stride and padding of a square window, with the same padding on all sides.

    Raises SpecError for any other window, and for dilation.
    """
    values = []
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
        values.append(sides[0])
    size, stride, pad, dilation = values
    _check_auto_pad(name, get)
    if dilation != 1 or get.get("storage_order", 0):
        raise SpecError(f"{name}: expected no dilation, and storage_order 0")
    return size, stride, pad


def _check_auto_pad(name: str, get: Mapping[str, Any]) -> None:
    """Raise SpecError unless `pads` alone gives the padding. VALID is accepted with `pads` of 0."""
    auto_pad, pads = get.get("auto_pad", b"NOTSET"), get.get("pads", [0])
    if auto_pad != b"NOTSET" and (auto_pad != b"VALID" or not isinstance(pads, list) or any(pads)):
        raise SpecError(f"{name}: auto_pad={shown(auto_pad)}, pads={shown(pads)}: expected pads alone")


def lrn(name: str, get: Mapping[str, Any]) -> LRN:
    """Return local response normalisation, with ONNX's constants converted to the paper's form."""
    size = whole(name, get, "size")
    alpha, beta, k = (real(name, get, *entry) for entry in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    return LRN(name="norm", size=size, alpha=alpha / size, beta=beta, k=k)


def pool(name: str, get: Mapping[str, Any], shape: tuple[int, ...]) -> MaxPool:
    """Return max pooling. Padding at the lower right that adds a window past the edge becomes `ceil`."""
    pads = get.get("pads", [0, 0, 0, 0])
    _check_auto_pad(name, get)
    size, stride, _ = window(name, {**get, "pads": [0, 0, 0, 0]})
    plain = MaxPool(name="pool", size=size, stride=stride)
    with_ceil = replace(plain, ceil=True)
    if not isinstance(pads, list) or len(pads) != 4 or any(pads[:2]) or pads[2] != pads[3]:
        raise SpecError(f"{name}: pads={shown(pads)}: expected 0 at the upper left, equal values at the lower right")
    padding = pads[2]
    if type(padding) is not int:
        raise SpecError(f"{name}: pads={shown(pads)}: expected whole numbers")
    if get.get("ceil_mode", 0) and not padding:
        padding = with_ceil.overhang(shape[-1])
    elif get.get("ceil_mode", 0):
        padding += -(shape[-1] + padding - size) % stride
    for operation in (plain, with_ceil):
        if 0 <= padding < size and (shape[-1] + padding - size) // stride + 1 == operation.output(shape)[-1]:
            return operation
    raise SpecError(f"{name}: pads={shown(pads)}: expected padding without effect, or that of ceil_mode=1")
