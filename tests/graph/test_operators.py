"""The shapes that the rules compute, against ONNX's own shape inference, NumPy and Python's ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper, shape_inference

from alexnet_infer.errors import SpecError
from alexnet_infer.graph.operators import ANY, FLOAT, INT64, OPERATORS, Node, Value, sides

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def ruled(op: str, inputs: list[tuple[int, ...] | list[int]], **attributes: Any) -> tuple[int, ...]:
    """The shape that the rule computes. An input is a shape, or a list for a constant vector of int64."""
    values = [
        Value(INT64, (len(value),), tuple(value)) if isinstance(value, list) else Value(FLOAT, value)
        for value in inputs
    ]
    (first, *_) = OPERATORS["", op].rule(Node(op, values, attributes))
    return first.shape


def inferred(op: str, inputs: list[tuple[int, ...]], **attributes: Any) -> tuple[int, ...]:
    """The shape that ONNX infers."""
    names = [f"x{i}" for i in range(len(inputs))]
    node = helper.make_node(op, names, ["y"], **attributes)
    ends = [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in zip(names, inputs, strict=True)]
    graph = helper.make_graph([node], "g", ends, [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    result = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    return tuple(side.dim_value for side in result.graph.output[0].type.tensor_type.shape.dim)


whole = st.integers


@quick
@given(st.data())
def test_windows_have_the_positions_that_onnx_infers(data):
    channels, groups = data.draw(whole(1, 3)), data.draw(whole(1, 3))
    x = (data.draw(whole(1, 3)), channels * groups, data.draw(whole(1, 30)), data.draw(whole(1, 30)))
    sizes = [data.draw(whole(1, 6)) for _ in range(2)]
    attributes = {
        "kernel_shape": sizes,
        "strides": [data.draw(whole(1, 7)) for _ in range(2)],
        "pads": [data.draw(whole(0, 5)) for _ in range(4)],
    }
    pads = attributes["pads"]
    assume(all(x[2 + i] + pads[i] + pads[2 + i] >= sizes[i] for i in range(2)))
    w = (data.draw(whole(1, 3)) * groups, channels, *sizes)
    assert ruled("Conv", [x, w], group=groups, **attributes) == inferred("Conv", [x, w], group=groups, **attributes)
    assert ruled("MaxPool", [x], **attributes) == inferred("MaxPool", [x], **attributes)
    assume(sizes[0] <= x[2] and sizes[1] <= x[3])
    attributes |= {"pads": [0] * 4, "ceil_mode": 1}
    last = [
        -(-(extent - size) // step) * step
        for extent, size, step in zip(x[2:], sizes, attributes["strides"], strict=True)
    ]
    if any(begin >= extent for begin, extent in zip(last, x[2:], strict=True)):
        with pytest.raises(SpecError, match="begins past the edge"):
            ruled("MaxPool", [x], **attributes)
        return
    assert ruled("MaxPool", [x], **attributes) == inferred("MaxPool", [x], **attributes)


def test_a_window_larger_than_its_input_is_refused():
    with pytest.raises(SpecError, match="its window has 6 pixels"):
        ruled("MaxPool", [(1, 1, 5, 5)], kernel_shape=[6, 6])


@quick
@given(st.data())
def test_slices_are_pythons_slices(data):
    shape = tuple(data.draw(whole(1, 9)) for _ in range(data.draw(whole(1, 4))))
    axes = data.draw(st.lists(whole(0, len(shape) - 1), unique=True, min_size=1))
    limits = st.one_of(whole(-12, 12), st.sampled_from([-(2**63), 2**63 - 1]))
    begins, ends = [data.draw(limits) for _ in axes], [data.draw(limits) for _ in axes]
    steps = [data.draw(st.sampled_from([-3, -2, -1, 1, 2, 3])) for _ in axes]
    places: list[slice] = [slice(None)] * len(shape)
    for axis, *parts in zip(axes, begins, ends, steps, strict=True):
        places[axis] = slice(*parts)
    signed = [axis - data.draw(st.sampled_from([0, len(shape)])) for axis in axes]
    assert ruled("Slice", [shape, begins, ends, signed, steps]) == np.zeros(shape, np.bool_)[tuple(places)].shape


@quick
@given(st.data())
def test_operators_that_arrange_values_agree_with_onnx_or_numpy(data):
    shape = tuple(data.draw(whole(1, 5)) for _ in range(data.draw(whole(1, 4))))
    rank = len(shape)
    axis, order = data.draw(whole(0, rank - 1)), data.draw(st.permutations(range(rank)))
    assert ruled("Flatten", [shape], axis=axis) == inferred("Flatten", [shape], axis=axis)
    assert ruled("Transpose", [shape], perm=[*order]) == np.zeros(shape).transpose(order).shape
    assert ruled("Concat", [shape] * 3, axis=axis) == np.concatenate([np.zeros(shape)] * 3, axis).shape
    assert ruled("Gather", [shape, [0, 0]], axis=axis) == np.zeros(shape).take([0, 0], axis).shape
    mean = ruled("ReduceMean", [shape], axes=[axis - rank], keepdims=0)
    assert mean == np.zeros(shape).mean(axis).shape
    wanted = [*data.draw(st.permutations(shape)), 1]
    if data.draw(st.booleans()):
        wanted[data.draw(whole(0, rank))] = -1
    assert ruled("Reshape", [shape, wanted]) == np.zeros(shape).reshape(wanted).shape


@quick
@given(st.data())
def test_elementwise_operators_broadcast_like_numpy(data):
    shape = [data.draw(whole(1, 4)) for _ in range(data.draw(whole(0, 4)))]
    other = tuple(data.draw(st.sampled_from([1, side, side + 1])) for side in shape[data.draw(whole(0, len(shape))) :])
    try:
        expected = np.broadcast_shapes(tuple(shape), other)
    except ValueError:
        with pytest.raises(SpecError, match="its inputs have shapes"):
            ruled("Mul", [tuple(shape), other])
    else:
        assert ruled("Mul", [tuple(shape), other]) == expected


@pytest.mark.parametrize("turned", [False, True])
def test_products_have_a_row_for_each_image_and_a_column_for_each_unit(turned):
    weights = (9, 4) if turned else (4, 9)
    assert ruled("Gemm", [(ANY, 4), weights, (9,)], transB=int(turned)) == (ANY, 9)
    assert ruled("MatMul", [(ANY, 4), (4, 9)]) == (ANY, 9)


def test_a_shape_that_grows_with_the_batch_is_shown_with_n():
    assert sides((10 * ANY, 3, ANY)) == "[10N, 3, N]"
    assert len(sides((2**60,) * 50)) == 100
