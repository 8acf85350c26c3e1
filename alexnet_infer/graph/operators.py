"""The operators that an exported file may have, and the type and shape of what each one computes.

These are the operators that `export` writes, and those of the quantized graphs that `import` adopts. Each rule checks
what the shape of its output and the cost of computing it depend on. Everything else is left to the runtime, which
refuses what it can't run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from alexnet_infer.architecture import SLOW
from alexnet_infer.errors import SpecError, shown
from alexnet_infer.graph.net import PLUGIN, PLUGIN_DOMAIN

FLOAT, UINT8, INT8, INT32, INT64, BOOL, FLOAT16 = 1, 2, 3, 6, 7, 9, 10
"""ONNX's numbers of element types. Only these may occur."""

ITEM_BYTES = {FLOAT: 4, UINT8: 1, INT8: 1, INT32: 4, INT64: 8, BOOL: 1, FLOAT16: 2}
FLOATS = (FLOAT, FLOAT16)

ONNX, MICROSOFT = "", "com.microsoft"
DOMAINS = {"": ONNX, "ai.onnx": ONNX, MICROSOFT: MICROSOFT, PLUGIN_DOMAIN: PLUGIN_DOMAIN}
"""Domain in a file -> the domain's name in `OPERATORS`."""

VERSIONS = {ONNX: range(7, 26), MICROSOFT: range(1, 2), PLUGIN_DOMAIN: range(1, 2)}
"""The versions of the operators that the rules describe. Since version 7 of ONNX's, shapes are broadcast."""

MAX_SIDE = 2**31 - 1
MAX_WINDOW = 4096
"""The largest window, stride and padding that an architecture may have."""
MAX_GROUPS = 8192
SLOWEST = 16 * SLOW
"""Multiply-adds that take as long as one value of a softmax of few values, or of a slice with steps other than 1. Some
runtimes compute those one by one."""

ANY = 2**61 - 1
"""The batch of a file that takes any number of images. It is a prime number, so that exactly the sizes that grow with
the batch are multiples of it."""

Shape = tuple[int, ...]


def sides(shape: Shape) -> str:
    """Return a shape for a message, as in "[10N, 3, 227, 227]"."""
    texts = [f"{side // ANY if side > ANY else ''}N" if side and side % ANY == 0 else str(side) for side in shape]
    text = f"[{', '.join(texts)}]"
    return text if len(text) <= 100 else f"{text[:97]}..."


class Value(NamedTuple):
    """A tensor in a graph: its element type, its shape and, for short constant vectors, its values."""

    kind: int
    shape: Shape
    numbers: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.size * ITEM_BYTES[self.kind]


@dataclass
class Node:
    """A node with its attributes and what its inputs are. An input that is left out is None."""

    name: str
    inputs: Sequence[Value | None]
    attributes: Mapping[str, Any]
    work: int = 0
    """Set by the rule: multiply-adds, if they are more than SLOW for each value of the output."""
    scratch: int = 0
    """Set by the rule: bytes of working memory that a runtime may take."""

    def wrong(self, text: str) -> SpecError:
        return SpecError(f"{self.name}: {text}")

    def value(self, place: int, kinds: Sequence[int] = tuple(ITEM_BYTES), rank: int | None = None) -> Value:
        """Return an input. Raises SpecError if it is missing, of another type or of another rank."""
        value = self.inputs[place] if place < len(self.inputs) else None
        if value is None:
            raise self.wrong(f"has no input {place}")
        if value.kind not in kinds or rank not in (None, len(value.shape)):
            raise self.wrong(f"its input {place} has type {value.kind} and shape {sides(value.shape)}")
        return value

    def optional(self, place: int) -> Value | None:
        return self.inputs[place] if place < len(self.inputs) else None

    def numbers(self, place: int) -> tuple[int, ...]:
        """Return the values of an input that must be a short constant vector of int64."""
        numbers = self.value(place, (INT64,)).numbers
        if numbers is None:
            raise self.wrong(f"its input {place} is computed or long: expected a short constant")
        return numbers

    def integer(self, key: str, default: int | None, low: int, high: int) -> int:
        """Return a whole attribute from `low` to `high`."""
        number = self.attributes.get(key, default)
        if number is None or not low <= number <= high:
            raise self.wrong(f"{key}={shown(number)}: expected a whole number from {low} to {high}")
        return number

    def integers(self, key: str, default: Sequence[int], low: int, high: int) -> list[int]:
        """Return as many whole numbers as `default` has, from `low` to `high`."""
        numbers = self.attributes.get(key, default)
        if len(numbers) != len(default) or not all(low <= number <= high for number in numbers):
            raise self.wrong(f"{key}={shown(numbers)}: expected {len(default)} whole numbers from {low} to {high}")
        return list(numbers)

    def axis(self, default: int | None, rank: int) -> int:
        """Return the attribute `axis` of a value of this rank, counted from the front."""
        return self.integer("axis", default, -rank, rank - 1) % rank


Rule = Callable[[Node], list[Value]]
"""Returns all outputs. A node may leave out the last ones."""


def _same(node: Node) -> list[Value]:
    x = node.value(0)
    return [Value(x.kind, x.shape)]


def _dropout(node: Node) -> list[Value]:
    return [*_same(node), Value(BOOL, node.value(0).shape)]


def _of_floats(node: Node) -> list[Value]:
    x = node.value(0, FLOATS)
    return [Value(x.kind, x.shape)]


def _softmax(node: Node) -> list[Value]:
    x = node.value(0)
    node.axis(-1, len(x.shape))
    node.work = SLOWEST * x.size
    return _rounded(node, 3) if len(node.inputs) > 1 else _of_floats(node)


def _rounded(node: Node, place: int) -> list[Value]:
    """The first input, rounded to 8 bits with the scale at `place` and the zero point after it."""
    return [Value(_eight_bits(node, place + 1), node.value(0).shape)]


def _eight_bits(node: Node, place: int) -> int:
    """Return the 8-bit type of the zero point at `place`, which is the type of the output."""
    zero = node.optional(place)
    if zero is not None and zero.kind not in (UINT8, INT8):
        raise node.wrong(f"its zero point has type {zero.kind}: expected 8 bits")
    return UINT8 if zero is None else zero.kind


def _elementwise(node: Node) -> list[Value]:
    values = [node.value(place, FLOATS) for place in range(len(node.inputs))]
    if len({value.kind for value in values}) != 1:
        raise node.wrong("its inputs have different types")
    result = Value(values[0].kind, _broadcast(node, [value.shape for value in values]))
    node.work = SLOW * len(values) * result.size
    return [result]


def _power(node: Node) -> list[Value]:
    (result,) = _elementwise(node)
    node.work = 4 * SLOW * result.size
    return [result]


def _quantized_sum(node: Node) -> list[Value]:
    shapes = [node.value(place, (UINT8, INT8)).shape for place in (0, 3)]
    return [Value(_eight_bits(node, 7), _broadcast(node, shapes))]


def _broadcast(node: Node, shapes: Sequence[Shape]) -> Shape:
    rank = max(map(len, shapes))
    broad = []
    for column in zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True):
        different = {*column} - {1}
        if len(different) > 1:
            raise node.wrong(f"its inputs have shapes {' and '.join(map(sides, shapes[:3]))}")
        broad.append(different.pop() if different else 1)
    return tuple(broad)


def _batch_norm(node: Node) -> list[Value]:
    x = node.value(0, FLOATS, rank=4)
    if any(node.value(place, FLOATS).shape != x.shape[1:2] for place in range(1, 5)):
        raise node.wrong(f"expected {x.shape[1]} values of each parameter")
    return [Value(x.kind, x.shape)]


def _lrn(node: Node) -> list[Value]:
    x = node.value(0, FLOATS, rank=4)
    count, channels, *map_shape = x.shape
    size = node.integer("size", None, 1, MAX_WINDOW)
    groups = node.integer("groups", 1, 1, MAX_GROUPS)  # of ONNX's LRN it is no attribute
    if channels % groups or size % 2 == 0:
        raise node.wrong(f"size={size} groups={groups}: expected an odd size, and groups that divide {channels}")
    node.work = SLOW * size * x.size
    # Squares with zeros at the edges of each column, and two values in the definition of the plugin's node.
    node.scratch = 4 * (count * (channels + groups * size) * math.prod(map_shape) + 2 * x.size)
    return [Value(x.kind, x.shape)]


def _window(node: Node, extents: Sequence[int], sizes: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return (positions, extents with padding) of a window of these sizes, for rows and columns."""
    strides = node.integers("strides", [1, 1], 1, MAX_WINDOW)
    pads = node.integers("pads", [0] * 4, 0, MAX_WINDOW)
    node.integers("dilations", [1, 1], 1, 1)
    node.integer("storage_order", 0, 0, 0)
    up = node.integer("ceil_mode", 0, 0, 1)
    auto = node.attributes.get("auto_pad", b"NOTSET")
    if (auto != b"NOTSET" or up) and (auto not in (b"NOTSET", b"VALID") or any(pads)):
        raise node.wrong(f"auto_pad={shown(auto)} ceil_mode={up}: expected pads alone, or none of them")
    padded = [extent + before + after for extent, before, after in zip(extents, pads[:2], pads[2:], strict=True)]
    positions = []
    for extent, whole, size, stride in zip(extents, padded, sizes, strides, strict=True):
        if not 1 <= size <= min(whole, MAX_WINDOW):
            raise node.wrong(f"its window has {size} pixels: expected 1 to {MAX_WINDOW}, and no more than its input")
        steps = (whole - size + up * (stride - 1)) // stride
        if up and steps * stride >= extent:
            raise node.wrong("its last window begins past the edge, and runtimes differ in whether it counts")
        positions.append(steps + 1)
    return positions, padded


def _convolution(node: Node, weights: int, bias: int | None, kind: int | None = None) -> list[Value]:
    x, w = node.value(0, rank=4), node.value(weights, rank=4)
    count, channels, *extents = x.shape
    kernels, depth, *sizes = w.shape
    groups = node.integer("group", 1, 1, MAX_GROUPS)
    node.integers("kernel_shape", sizes, 1, MAX_WINDOW)
    if channels != depth * groups or kernels % groups or node.attributes.get("kernel_shape", sizes) != sizes:
        raise node.wrong(f"its weights {sides(w.shape)} in {groups} groups don't fit {channels} channels")
    b = None if bias is None else node.optional(bias)
    if b is not None and b.shape != (kernels,):
        raise node.wrong(f"its biases have shape {sides(b.shape)}: expected {[kernels]}")
    positions, padded = _window(node, extents, sizes)
    outputs = count * math.prod(positions)
    node.work = outputs * w.size
    # A copy with the padding, and the windows of one image as a matrix.
    node.scratch = 4 * channels * (count * math.prod(padded) + math.prod(positions) * math.prod(sizes))
    return [Value(x.kind if kind is None else kind, (count, kernels, *positions))]


def _conv(node: Node) -> list[Value]:
    node.value(1, (node.value(0, FLOATS).kind,))
    return _convolution(node, 1, 2)


def _conv_integer(node: Node) -> list[Value]:
    return _convolution(node, 1, None, INT32)


def _conv_8_bits(node: Node) -> list[Value]:
    return _convolution(node, 3, 8, _eight_bits(node, 7))


def _pool(node: Node) -> list[Value]:
    x = node.value(0, rank=4)
    sizes = node.integers("kernel_shape", [0, 0], 1, MAX_WINDOW)
    positions, padded = _window(node, x.shape[2:], sizes)
    shape = (*x.shape[:2], *positions)
    node.work = SLOW * math.prod(shape) * math.prod(sizes)
    node.scratch = 4 * math.prod((*x.shape[:2], *padded))
    return [Value(x.kind, shape)]


def _product(node: Node, weights: int, kind: int | None = None) -> list[Value]:
    x, w = node.value(0), node.value(weights, rank=2)
    if len(x.shape) < 2 or x.shape[-1] != w.shape[0]:
        raise node.wrong(f"its weights {sides(w.shape)} don't fit {sides(x.shape)}")
    node.work = x.size * w.shape[1]
    return [Value(x.kind if kind is None else kind, (*x.shape[:-1], w.shape[1]))]


def _matmul(node: Node) -> list[Value]:
    node.value(1, (node.value(0, FLOATS).kind,))
    return _product(node, 1)


def _matmul_integer(node: Node) -> list[Value]:
    return _product(node, 1, INT32)


def _matmul_8_bits(node: Node) -> list[Value]:
    return _product(node, 3, _eight_bits(node, 7))


def _dense(node: Node, weights: int, bias: int, kind: int) -> list[Value]:
    x, w = node.value(0, rank=2), node.value(weights, rank=2)
    node.integer("transA", 0, 0, 0)
    units, inputs = w.shape if node.integer("transB", 0, 0, 1) else w.shape[::-1]
    b = node.optional(bias)
    if x.shape[1] != inputs or (b is not None and b.shape not in ((units,), (1, units))):
        raise node.wrong(f"its weights {sides(w.shape)} and biases don't fit {sides(x.shape)}")
    node.work = x.size * units
    return [Value(kind, (x.shape[0], units))]


def _gemm(node: Node) -> list[Value]:
    kind = node.value(1, (node.value(0, FLOATS).kind,)).kind
    return _dense(node, 1, 2, kind)


def _gemm_8_bits(node: Node) -> list[Value]:
    return _dense(node, 3, 6, FLOAT if node.optional(7) is None else _eight_bits(node, 8))


def _flatten(node: Node) -> list[Value]:
    x = node.value(0)
    axis = node.integer("axis", 1, 0, len(x.shape))
    return [Value(x.kind, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))]


def _reshape(node: Node) -> list[Value]:
    x, shape = node.value(0), list(node.numbers(1))
    node.integer("allowzero", 0, 0, 0)
    for i, side in enumerate(shape):
        if side == 0 and i < len(x.shape):
            shape[i] = x.shape[i]
    known = math.prod(side for side in shape if side != -1)
    if shape.count(-1) == 1 and known > 0:
        shape[shape.index(-1)] = x.size // known
    if max(node.numbers(1)) > MAX_SIDE or min(shape) < 1 or math.prod(shape) != x.size:
        raise node.wrong(f"{shown(list(node.numbers(1)))} is not a shape for {sides(x.shape)}")
    return [Value(x.kind, tuple(shape))]


def _transpose(node: Node) -> list[Value]:
    x = node.value(0)
    order = node.attributes.get("perm", [])
    if sorted(order) != [*range(len(x.shape))]:
        raise node.wrong(f"perm={shown(order)}: expected each axis of {sides(x.shape)} once")
    return [Value(x.kind, tuple(x.shape[axis] for axis in order))]


def _slice(node: Node) -> list[Value]:
    x = node.value(0)
    begins, ends = node.numbers(1), node.numbers(2)
    axes = range(len(begins)) if node.optional(3) is None else node.numbers(3)
    steps = (1,) * len(begins) if node.optional(4) is None else node.numbers(4)
    rank, shape = len(x.shape), list(x.shape)
    if not len(begins) == len(ends) == len(axes) == len(steps) == len({axis % rank for axis in axes if rank}):
        raise node.wrong("expected a begin, an end and a step for each axis")
    for begin, end, axis, step in zip(begins, ends, axes, steps, strict=True):
        if not -rank <= axis < rank or not step:
            raise node.wrong(f"axis {axis} and step {step}: expected an axis of {sides(x.shape)}, and a step")
        span = slice(begin, end, step).indices(x.shape[axis])
        shape[axis] = _steps(*span)
    result = Value(x.kind, tuple(shape))
    if {*steps} != {1}:
        node.work = SLOWEST * result.size
    return [result]


def _steps(begin: int, end: int, step: int) -> int:
    """Return the number of elements of a range, which `len` doesn't give beyond 2^63."""
    return max(0, (end - begin + step - (1 if step > 0 else -1)) // step)


def _gather(node: Node) -> list[Value]:
    x, places = node.value(0), node.numbers(1)
    axis = node.axis(0, len(x.shape))
    if not all(-x.shape[axis] <= place < x.shape[axis] for place in places):
        raise node.wrong(f"{shown(list(places))}: expected places on an axis of {x.shape[axis]}")
    return [Value(x.kind, (*x.shape[:axis], len(places), *x.shape[axis + 1 :]))]


def _concat(node: Node) -> list[Value]:
    values = [node.value(place) for place in range(len(node.inputs))]
    rank = len(values[0].shape)
    axis = node.axis(None, rank)
    others = {(v.kind, len(v.shape), v.shape[:axis], v.shape[axis + 1 :]) for v in values}
    if len(others) != 1:
        raise node.wrong(f"its inputs have shapes {' and '.join(sides(value.shape) for value in values[:3])}")
    first = values[0]
    joined = sum(value.shape[axis] for value in values)
    return [Value(first.kind, (*first.shape[:axis], joined, *first.shape[axis + 1 :]))]


def _reduce_mean(node: Node) -> list[Value]:
    x = node.value(0, FLOATS)
    axes = node.attributes.get("axes", [])
    if len(axes) != 1 or not -len(x.shape) <= axes[0] < len(x.shape) or node.integer("keepdims", 1, 0, 1):
        raise node.wrong(f"axes={shown(axes)}: expected one axis, and keepdims=0")
    axis = axes[0] % len(x.shape)
    node.work = SLOW * x.size
    return [Value(x.kind, (*x.shape[:axis], *x.shape[axis + 1 :]))]


def _cast(node: Node) -> list[Value]:
    kind = node.attributes.get("to")
    if kind not in ITEM_BYTES:
        raise node.wrong(f"to={shown(kind)}: expected one of the types {shown(list(ITEM_BYTES))}")
    return [Value(kind, node.value(0).shape)]


def _quantize(node: Node) -> list[Value]:
    _check_scale(node, FLOATS)
    return _rounded(node, 1)


def _dequantize(node: Node) -> list[Value]:
    scale = _check_scale(node, (INT8, UINT8, INT32))
    return [Value(scale.kind, node.value(0).shape)]


def _check_scale(node: Node, kinds: Sequence[int]) -> Value:
    """Return the scale, which must be one number or one for each position on the axis."""
    x, scale, zero = node.value(0, kinds), node.value(1, FLOATS), node.optional(2)
    count = x.shape[node.axis(1, len(x.shape))] if scale.size > 1 and x.shape else 1
    if scale.shape not in ((), (count,)) or (zero is not None and zero.size != scale.size):
        raise node.wrong(f"its scale {sides(scale.shape)} and zero point don't fit {sides(x.shape)}")
    return scale


def _dynamic(node: Node) -> list[Value]:
    return [Value(UINT8, node.value(0, (FLOAT,)).shape), Value(FLOAT, ()), Value(UINT8, ())]


@dataclass(frozen=True)
class Operator:
    """An operator: its rule, the least and the greatest number of inputs, and the names of its attributes."""

    rule: Rule
    inputs: tuple[int, int]
    attributes: frozenset[str]


def _operator(rule: Rule, least: int, most: int, attributes: str = "") -> Operator:
    return Operator(rule, (least, most), frozenset(attributes.split()))


_WINDOW = "auto_pad dilations kernel_shape pads strides"
_MOST = 64
"""The most inputs of a node: the mean has as many as there are nets in the file."""

OPERATORS: dict[tuple[str, str], Operator] = {
    (ONNX, "Conv"): _operator(_conv, 2, 3, f"{_WINDOW} group"),
    (ONNX, "ConvInteger"): _operator(_conv_integer, 2, 4, f"{_WINDOW} group"),
    (ONNX, "QLinearConv"): _operator(_conv_8_bits, 8, 9, f"{_WINDOW} group"),
    (ONNX, "MaxPool"): _operator(_pool, 1, 1, f"{_WINDOW} ceil_mode storage_order"),
    (ONNX, "AveragePool"): _operator(_pool, 1, 1, f"{_WINDOW} ceil_mode count_include_pad"),
    (ONNX, "LRN"): _operator(_lrn, 1, 1, "alpha beta bias size"),
    (PLUGIN_DOMAIN, PLUGIN): _operator(_lrn, 1, 1, "alpha beta k size groups plugin_namespace plugin_version"),
    (ONNX, "BatchNormalization"): _operator(_batch_norm, 5, 5, "epsilon momentum"),
    **{(ONNX, name): _operator(_of_floats, 1, 1) for name in ("Tanh", "Sqrt")},
    **{(ONNX, name): _operator(_same, 1, 1) for name in ("Relu", "Identity")},
    (ONNX, "Dropout"): _operator(_dropout, 1, 2, "ratio seed"),
    (ONNX, "Softmax"): _operator(_softmax, 1, 1, "axis"),
    (MICROSOFT, "QLinearSoftmax"): _operator(_softmax, 5, 5, "axis opset"),
    **{(ONNX, name): _operator(_elementwise, 2, 2) for name in ("Add", "Sub", "Mul", "Div")},
    (ONNX, "Pow"): _operator(_power, 2, 2),
    (ONNX, "Mean"): _operator(_elementwise, 1, _MOST),
    (MICROSOFT, "QLinearAdd"): _operator(_quantized_sum, 7, 8),
    (ONNX, "Gemm"): _operator(_gemm, 2, 3, "alpha beta transA transB"),
    (MICROSOFT, "QGemm"): _operator(_gemm_8_bits, 6, 9, "alpha transA transB"),
    (ONNX, "MatMul"): _operator(_matmul, 2, 2),
    (ONNX, "MatMulInteger"): _operator(_matmul_integer, 2, 4),
    (ONNX, "QLinearMatMul"): _operator(_matmul_8_bits, 8, 8),
    (ONNX, "Flatten"): _operator(_flatten, 1, 1, "axis"),
    (ONNX, "Reshape"): _operator(_reshape, 2, 2, "allowzero"),
    (ONNX, "Transpose"): _operator(_transpose, 1, 1, "perm"),
    (ONNX, "Slice"): _operator(_slice, 3, 5),
    (ONNX, "Gather"): _operator(_gather, 2, 2, "axis"),
    (ONNX, "Concat"): _operator(_concat, 1, _MOST, "axis"),
    (ONNX, "ReduceMean"): _operator(_reduce_mean, 1, 1, "axes keepdims"),
    (ONNX, "Cast"): _operator(_cast, 1, 1, "to"),
    (ONNX, "QuantizeLinear"): _operator(_quantize, 2, 3, "axis"),
    (ONNX, "DequantizeLinear"): _operator(_dequantize, 2, 3, "axis"),
    (ONNX, "DynamicQuantizeLinear"): _operator(_dynamic, 1, 1),
}
"""By domain and name."""
