"""Shapes, parameters and multiply-adds against independent arithmetic; specs that do not describe a net."""

from __future__ import annotations

import copy
import json
import math
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from alexnet_infer.architecture import (
    LRN,
    MAX_OPERATIONS,
    MAX_PARAMETERS,
    MAX_VALUES,
    Activation,
    Architecture,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    MaxPool,
    most_work,
)
from alexnet_infer.errors import SpecError, UsageError
from alexnet_infer.presets import Variant

SMALL = Architecture(
    name="small",
    patch=9,
    operations=(
        Conv(name="conv1", kernels=4, size=3, pad=1),
        BatchNorm(name="bn1"),
        Activation(name="act1"),
        LRN(name="norm1", groups=2),
        MaxPool(name="pool1"),
        Conv(name="conv2", kernels=6, size=3, groups=2),
        Activation(name="act2", kind="tanh"),
        Dropout(name="drop"),
        Dense(name="fc1", units=5),
        Dense(name="fc2", units=3),
    ),
)
"""One operation of each kind."""


def single(operation: Any, *, patch: int = 9, channels: int = 3) -> Architecture:
    """A net of one operation and a final fully-connected layer."""
    return Architecture(
        name="single", patch=patch, channels=channels, operations=(operation, Dense(name="last", units=2))
    )


def windows(extent: int, size: int, stride: int) -> int:
    """Number of windows of `size` that fit in `extent`, counted one at a time."""
    return sum(1 for start in range(0, extent, stride) if start + size <= extent)


@pytest.mark.parametrize("extent", [5, 7, 8, 13, 55])
@pytest.mark.parametrize(("size", "stride", "pad"), [(1, 1, 0), (3, 1, 1), (3, 2, 0), (5, 4, 2), (4, 3, 1), (2, 5, 3)])
def test_convolution_has_an_output_wherever_its_window_fits_in_the_padded_map(extent, size, stride, pad):
    conv = Conv(name="c", kernels=6, size=size, stride=stride, pad=pad)
    expected = windows(extent + 2 * pad, size, stride)
    assert single(conv, patch=extent).steps[0].output == (6, expected, expected)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_convolution_counts_its_weights_and_multiply_adds_group_by_group(groups):
    step = single(Conv(name="c", kernels=12, size=3, pad=1, groups=groups), patch=5, channels=6).steps[0]
    # Each kernel sees only the channels of its group, at each of 5 x 5 positions.
    assert step.tensors == {"c.weight": (12, 6 // groups, 3, 3), "c.bias": (12,)}
    assert step.parameters == 12 * (6 // groups) * 9 + 12
    assert step.multiply_adds == 5 * 5 * 12 * (6 // groups) * 9


def test_a_dense_layer_sees_every_value_of_its_input_map():
    first, last = single(Dense(name="fc", units=10), patch=4, channels=5).steps
    assert first.tensors == {"fc.weight": (10, 5 * 4 * 4), "fc.bias": (10,)}
    assert (first.parameters, first.multiply_adds) == (10 * 80 + 10, 10 * 80)
    assert last.tensors == {"last.weight": (2, 10), "last.bias": (2,)}


def test_batch_norm_counts_scale_and_shift_as_parameters_and_stores_the_running_statistics():
    step = single(BatchNorm(name="bn"), channels=7).steps[0]
    assert step.parameters == 2 * 7
    assert step.tensors == dict.fromkeys(("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"), (7,))


@pytest.mark.parametrize(
    "operation", [Activation(name="x"), Dropout(name="x"), LRN(name="x", groups=3)], ids=lambda o: o.op
)
def test_operations_without_weights_keep_the_shape_and_cost_nothing(operation):
    step = single(operation).steps[0]
    assert (step.output, step.parameters, step.multiply_adds, step.tensors) == ((3, 9, 9), 0, 0, {})


def caffe_pooled(extent: int, size: int, stride: int) -> int:
    """Caffe's PoolingLayer::Reshape with its clipping: the last window must start inside the image."""
    pooled = math.ceil((extent - size) / stride) + 1
    return pooled - 1 if (pooled - 1) * stride >= extent else pooled


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 3, 5, 7])
def test_ceil_pooling_has_caffes_number_of_windows_and_each_starts_inside_the_map(size, stride):
    for extent in range(1, 40):
        pool = MaxPool(name="p", size=size, stride=stride, ceil=True)
        expected = caffe_pooled(extent, size, stride)
        if expected < 1:
            with pytest.raises(SpecError, match=rf"^p: its {size}-pixel window is larger than the {extent}-pixel map"):
                single(pool, patch=extent)
            continue
        assert single(pool, patch=extent).steps[0].output[1:] == (expected, expected)
        # With the overhang added, the count of windows that fit is Caffe's. The overhang is less than a window.
        assert windows(extent + pool.overhang(extent), size, stride) == expected
        assert 0 <= pool.overhang(extent) < size


@pytest.mark.parametrize("ceil", [False, True])
def test_pooling_has_pytorchs_output_size(ceil):
    torch = pytest.importorskip("torch")
    for extent in range(4, 16):
        for size, stride in ((2, 2), (3, 2), (3, 3), (2, 3), (2, 5), (4, 1)):
            expected = torch.nn.functional.max_pool2d(torch.zeros(1, 1, extent, extent), size, stride, ceil_mode=ceil)
            pool = MaxPool(name="p", size=size, stride=stride, ceil=ceil)
            assert pool.output((1, extent, extent)) == tuple(expected.shape[1:]), (extent, size, stride)


def test_pooling_without_ceil_never_extends_past_the_edge():
    for extent in range(3, 20):
        pool = MaxPool(name="p", size=3, stride=2)
        assert pool.overhang(extent) == 0
        assert pool.output((1, extent, extent))[1] == windows(extent, 3, 2)


@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_alpha_per_size_gives_the_papers_denominator_in_the_libraries_formula(size):
    spec = LRN(name="n", size=size, alpha=1e-4)
    squares = [300.0**2] * size
    paper = spec.k + spec.alpha * sum(squares)
    libraries = spec.k + spec.alpha_per_size / size * sum(squares)
    assert libraries == pytest.approx(paper, rel=1e-12)
    assert paper > 10  # with activations in the hundreds, the sum dominates


def test_pytorchs_lrn_with_alpha_per_size_is_the_papers_formula():
    torch = pytest.importorskip("torch")
    spec = LRN(name="n")
    a = torch.randn(1, 7, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 300
    outputs = torch.nn.functional.local_response_norm(a, spec.size, spec.alpha_per_size, spec.beta, spec.k).flatten()
    values = a.flatten().tolist()
    for i in range(7):
        near = [values[j] ** 2 for j in range(7) if abs(i - j) <= 2]
        assert outputs[i].item() == pytest.approx(values[i] / (2 + 1e-4 * sum(near)) ** 0.75, rel=1e-12)


def test_totals_are_the_sums_over_the_steps_and_tensors_keep_their_order():
    assert SMALL.parameters == (3 * 9 * 4 + 4) + 2 * 4 + (2 * 9 * 6 + 6) + (6 * 2 * 2 * 5 + 5) + (5 * 3 + 3)
    assert SMALL.multiply_adds == 9 * 9 * 4 * 27 + 2 * 2 * 6 * 2 * 9 + 24 * 5 + 5 * 3
    assert list(SMALL.tensors)[:3] == ["conv1.weight", "conv1.bias", "bn1.weight"]
    assert list(SMALL.tensors)[-1] == "fc2.bias"
    assert SMALL.classes == 3
    assert [step.input for step in SMALL.steps[1:]] == [step.output for step in SMALL.steps[:-1]]


def test_json_restores_every_kind_of_operation_exactly():
    text = json.dumps(SMALL.to_json(), allow_nan=False)
    restored = Architecture.from_json(json.loads(text))
    assert restored == SMALL
    assert json.dumps(restored.to_json()) == text
    assert {o.op for o in restored.operations} == {o["op"] for o in SMALL.to_json()["operations"]}


# Specs that do not describe a net.

ENDLESS = pytest.param(10**5000, id="more digits than Python prints")


def refused(build: Callable[[], Any], *parts: str) -> None:
    """Check that `build` raises SpecError with a one-line message that contains all `parts`."""
    with pytest.raises(SpecError) as caught:
        build()
    message = str(caught.value)
    assert message.isprintable(), message
    assert len(message) < 400, message
    for part in parts:
        assert part in message, (part, message)


def changed(*path: str | int, to: Any) -> dict:
    """The JSON of SMALL with one value replaced."""
    data = copy.deepcopy(SMALL.to_json())
    inner: Any = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return data


NOT_A_COUNT = [0, -1, 2**40, 10**5000, 1.0, math.nan, math.inf, True, "3", None, [3], {}]
SHOWN = ["0", "-1", "1099511627776", "thousands of digits", "1.0", "nan", "inf", "True", "'3'", "None", "[3]", "{}"]


@pytest.mark.parametrize(("value", "shown"), list(zip(NOT_A_COUNT, SHOWN, strict=True)), ids=SHOWN)
@pytest.mark.parametrize(
    ("position", "field"),
    [(0, "kernels"), (0, "size"), (0, "stride"), (5, "groups"), (3, "size"), (3, "groups"), (4, "size"), (9, "units")],
)
def test_a_count_that_is_not_a_positive_whole_number_is_refused_by_operation_field_and_value(
    position, field, value, shown
):
    name = SMALL.operations[position].name
    data = changed("operations", position, field, to=value)
    refused(lambda: Architecture.from_json(data), f"{name}: {field}=", shown, "expected a whole number from 1 to")


@pytest.mark.parametrize("value", [-1, 0.5, True, None, 2**40])
def test_padding_is_a_whole_number_from_zero(value):
    refused(
        lambda: Architecture.from_json(changed("operations", 0, "pad", to=value)),
        f"conv1: pad={value!r}: expected a whole number from 0",
    )


@pytest.mark.parametrize("value", [0, -1, 2**20, 9.0, True, "9", None, [9], ENDLESS])
@pytest.mark.parametrize("field", ["patch", "channels"])
def test_patch_and_channels_are_positive_whole_numbers(field, value):
    refused(lambda: Architecture.from_json(changed(field, to=value)), f"{field}=", "expected a whole number from 1 to")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1e-9, 1e300, ENDLESS, True, "1", None, [1.0], {}])
@pytest.mark.parametrize(
    ("position", "field"), [(1, "eps"), (3, "alpha"), (3, "beta"), (3, "k"), (7, "rate")], ids=lambda p: str(p)
)
def test_a_constant_outside_its_range_is_refused_by_operation_field_and_value(position, field, value):
    name = SMALL.operations[position].name
    data = changed("operations", position, field, to=value)
    refused(lambda: Architecture.from_json(data), f"{name}: {field}=", "expected a number from")


@pytest.mark.parametrize(("position", "field"), [(1, "eps"), (3, "k")])
def test_constants_that_prevent_division_by_zero_are_not_zero(position, field):
    refused(lambda: Architecture.from_json(changed("operations", position, field, to=0)), f"{field}=0: expected")


def test_a_dropout_rate_of_1_is_refused():
    refused(lambda: Architecture.from_json(changed("operations", 7, "rate", to=1)), "drop: rate=1: expected")


@pytest.mark.parametrize("value", [1, 0, "true", None, []])
def test_ceil_is_true_or_false(value):
    refused(lambda: Architecture.from_json(changed("operations", 4, "ceil", to=value)), "pool1: ceil=", "true or false")


@pytest.mark.parametrize("value", ["sigmoid", "ReLU", "", None, 0, True, ["relu"], {"relu": 1}])
def test_activation_is_relu_or_tanh(value):
    refused(
        lambda: Architecture.from_json(changed("operations", 2, "kind", to=value)),
        f"act1: kind={value!r}: expected relu or tanh",
    )


@pytest.mark.parametrize(
    "value", ["", "a.b", "conv 1", "conv\n1", "\x1b[31m", "é", "1st", "x" * 65, "\ud800", None, 1, True, ["conv1"], {}]
)
def test_an_operation_name_that_cannot_name_a_tensor_is_refused(value):
    data = changed("operations", 0, "name", to=value)
    refused(lambda: Architecture.from_json(data), "operations[0].name=", "expected at most 64 letters")


def test_two_operations_with_the_same_name_are_refused():
    refused(lambda: Architecture.from_json(changed("operations", 5, "name", to="conv1")), "conv1: two operations")


@pytest.mark.parametrize("value", ["", "two\nlines", "\x1b[2J", "\ud800", None, 7, [], True])
def test_the_nets_name_is_printable_text(value):
    refused(lambda: Architecture.from_json(changed("name", to=value)), "name=", "expected printable text")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("op", "operations[0]: op=None: expected one of conv, dense"),
        ("name", "operations[0]: missing fields: name"),
        ("kernels", "operations[0]: missing fields: kernels"),
        ("groups", "operations[0]: missing fields: groups"),
    ],
)
def test_a_missing_field_is_refused_by_name(field, message):
    data = SMALL.to_json()
    del data["operations"][0][field]
    refused(lambda: Architecture.from_json(data), message)


@pytest.mark.parametrize(
    ("field", "named"), [("dilation", "dilation"), ("new\nline", r"new\nline"), ("", "''"), ("x" * 10_000, "x" * 40)]
)
def test_an_unknown_field_is_refused(field, named):
    data = SMALL.to_json()
    data["operations"][0][field] = 1
    with pytest.raises(SpecError) as caught:
        Architecture.from_json(data)
    assert str(caught.value) == f"architecture.operations[0]: unknown fields: {named}"


@pytest.mark.parametrize("op", ["Conv", "softmax", "", "con\nv", None, 1, ["conv"], {"conv": 1}, "x" * 10_000])
def test_an_unknown_operation_is_refused_with_a_list_of_the_known_ones(op):
    refused(
        lambda: Architecture.from_json(changed("operations", 0, "op", to=op)),
        "operations[0]: op=",
        "maxpool",
        "dropout",
    )


@pytest.mark.parametrize("data", [None, [], "alexnet", 1, True])
def test_json_that_is_not_an_object_is_refused(data):
    refused(lambda: Architecture.from_json(data), f"architecture={data!r}: expected an object")


@pytest.mark.parametrize("value", [None, {}, "conv", 3, True, ENDLESS])
def test_operations_that_are_not_a_list_are_refused(value):
    refused(lambda: Architecture.from_json(changed("operations", to=value)), "operations=", "expected a list")


@pytest.mark.parametrize("item", [None, [], "conv", 3, [["conv"]], {}])
def test_an_operation_that_is_not_an_object_is_refused(item):
    refused(lambda: Architecture.from_json(changed("operations", 0, to=item)), "[0]: op=None: expected one of")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "missing fields: channels, name, operations, patch"),
        ({"name": "x", "channels": 3, "operations": []}, "missing fields: patch"),
        ({1: 2, "b\n": 3}, r"; unknown fields: 1, b\n"),
        (SMALL.to_json() | {"surplus": 1}, "unknown fields: surplus"),
    ],
)
def test_missing_and_unknown_fields_of_the_architecture_are_refused(data, message):
    refused(lambda: Architecture.from_json(data), "architecture: ", message)


@pytest.mark.parametrize("operations", [(), (Activation(name="a"),), (Dense(name="fc", units=3), Dropout(name="d"))])
def test_a_net_that_does_not_end_in_a_dense_layer_is_refused(operations):
    refused(
        lambda: Architecture(name="open", patch=5, operations=operations), "open: the last operation must be a fully"
    )


@pytest.mark.parametrize(
    "operation",
    [Conv(name="late", kernels=2, size=1), MaxPool(name="late"), LRN(name="late"), BatchNorm(name="late")],
    ids=lambda o: o.op,
)
def test_a_map_operation_after_a_dense_layer_is_refused(operation):
    operations = (Dense(name="fc", units=4), operation, Dense(name="last", units=2))
    refused(lambda: Architecture(name="n", patch=5, operations=operations), "late: needs a map")


@pytest.mark.parametrize(
    ("operation", "parts"),
    [
        (Conv(name="c", kernels=4, size=1, groups=2), ("c: groups=2", "3 input channels", "4 kernels")),
        (Conv(name="c", kernels=4, size=1, groups=3), ("c: groups=3", "3 input channels", "4 kernels")),
        (LRN(name="n", groups=2), ("n: groups=2", "3 channels")),
    ],
)
def test_groups_that_do_not_divide_are_refused_with_both_numbers(operation, parts):
    refused(lambda: single(operation), *parts)


@pytest.mark.parametrize(
    ("operation", "parts"),
    [
        (Conv(name="c", kernels=1, size=10), ("c: its 10-pixel window", "9-pixel map")),
        (Conv(name="c", kernels=1, size=14, pad=2), ("c: its 14-pixel window", "9-pixel map plus 4 pixels beyond")),
        (MaxPool(name="p", size=10), ("p: its 10-pixel window", "9-pixel map")),
    ],
)
def test_a_window_larger_than_its_map_is_refused_with_both_sizes(operation, parts):
    refused(lambda: single(operation), *parts)


def test_a_window_as_large_as_its_map_is_accepted():
    assert single(Conv(name="c", kernels=1, size=9)).steps[0].output == (1, 1, 1)
    assert single(Conv(name="c", kernels=1, size=13, pad=2)).steps[0].output == (1, 1, 1)
    assert single(MaxPool(name="p", size=9)).steps[0].output == (3, 1, 1)


@pytest.mark.parametrize("size", [2, 4])
def test_lrn_over_an_even_number_of_channels_is_refused(size):
    refused(lambda: single(LRN(name="n", size=size)), f"n: size={size}: expected an odd number")


@pytest.mark.parametrize(
    "build",
    [
        lambda: single(Conv(name="c", kernels=8192, size=1), patch=2000),
        lambda: single(Conv(name="c", kernels=1, size=1, pad=4096), patch=2000),
        lambda: single(Conv(name="c", kernels=8192, size=1), patch=91),
    ],
)
def test_a_map_that_is_too_large_is_refused_with_its_operation(build):
    refused(build, "c: an output of", f"expected at most {MAX_VALUES} values")


def test_an_input_that_is_too_large_is_refused():
    pool = MaxPool(name="p", size=2048)
    refused(lambda: single(pool, patch=4096), "single: an input of 3 x 4096 x 4096: expected at most")
    assert single(pool, patch=2048).steps[0].output == (3, 1, 1)


def test_too_many_weights_are_refused():
    layers = tuple(Dense(name=f"fc{i}", units=2**16) for i in range(2))
    refused(
        lambda: Architecture(name="fat", patch=1, operations=layers),
        "fat: ",
        str(2**32 + 2**16 * 5),
        f"at most {MAX_PARAMETERS}",
    )


WIDE, WHOLE = Conv(name="c", kernels=64, size=1), MaxPool(name="p", size=500)
"""The largest map of a patch of 500, and what reduces it to one pixel, so that the last layer has few weights."""


@pytest.mark.parametrize(
    ("operations", "patch", "words"),
    [
        ([Dropout(name=f"d{i}") for i in range(MAX_OPERATIONS)], 1, "501 operations: expected at most 500"),
        (
            [Conv(name="c", kernels=96, size=11, pad=5), Conv(name="d", kernels=100, size=11, pad=5)],
            400,
            "multiply-adds",
        ),
        ([Conv(name="c", kernels=5, size=48)], 1024, "multiply-adds"),
        ([MaxPool(name="p", size=120, stride=1)], 900, "multiply-adds"),
        (
            [WIDE, *[Activation(name=f"a{i}", kind="tanh") for i in range(40)], WHOLE],
            500,
            "multiply-adds",
        ),
        ([WIDE, *[BatchNorm(name=f"b{i}") for i in range(40)], WHOLE], 500, "multiply-adds"),
        ([WIDE, *[LRN(name=f"n{i}") for i in range(6)], WHOLE], 500, "multiply-adds"),
        ([WIDE, LRN(name="n", size=4095), WHOLE], 500, "multiply-adds"),
        ([Conv(name="c", kernels=4097, size=1), LRN(name="n")], 1, "LRN's convolutions"),
        ([Conv(name="c", kernels=4096, size=1), *[LRN(name=f"n{i}") for i in range(2)]], 1, "LRN's convolutions"),
    ],
)
def test_a_net_that_would_take_too_long_or_too_much_memory_is_refused(operations, patch, words):
    last = Dense(name="fc", units=2)
    refused(lambda: Architecture(name="net", patch=patch, operations=(*operations, last)), "net: ", words)


def test_the_limits_allow_nets_far_larger_than_the_papers():
    wide = tuple(Dense(name=f"fc{i}", units=2**14) for i in range(4))
    assert Architecture(name="wide", patch=1, operations=wide).parameters > 10 * 60_965_224
    deep = Conv(name="c", kernels=96, size=3)
    assert single(deep, patch=400).steps[0].output == (96, 398, 398)
    assert Variant(width=8).build().multiply_adds > 50 * Variant().build().multiply_adds


def test_the_work_that_is_allowed_grows_with_the_weights_and_is_10_times_the_papers_without_any():
    paper = sum(step.operation.work(step.input) for step in Variant().build().steps)
    assert paper < 1.2 * Variant().build().multiply_adds
    assert 10 * paper < most_work(0) < 11 * paper
    assert most_work(10**6) - most_work(0) == 1024 * 10**6


def test_absurd_specs_are_refused_before_memory_is_allocated():
    tracemalloc.start()
    try:
        for field, value in (("kernels", 8192), ("pad", 4096), ("kernels", 2**40), ("size", 2**40)):
            with pytest.raises(SpecError):
                Architecture.from_json(changed("operations", 0, field, to=value) | {"patch": 4096})
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


HOSTILE = [None, True, -1, 0, 2**63, 10**400, -0.0, 1e308, math.nan, "", "x", "\n", [], [[]], {}, {"op": "conv"}]
HOSTILE.append([[[[[[[[[[["deep"]]]]]]]]]]])


def paths(data: Any, here: tuple = ()) -> Iterator[tuple]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*here, key)
        yield from paths(value, (*here, key))


def test_any_value_at_any_position_gives_a_net_or_a_one_line_spec_error():
    messages = []
    for path in paths(SMALL.to_json()):
        for value in HOSTILE:
            try:
                Architecture.from_json(changed(*path, to=value))
            except SpecError as error:
                messages.append(str(error))
    assert len(messages) > 700
    assert [message for message in messages if not message.isprintable() or len(message) > 400] == []


def test_a_spec_error_is_a_usage_error_with_exit_code_2():
    with pytest.raises(UsageError) as caught:
        replace(SMALL, patch=0)
    assert caught.value.exit_code == 2
