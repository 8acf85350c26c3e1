"""The presets against independent figures: the paper, torchvision, Caffe, and published counts."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from msgspec import structs

from alexnet_infer.architecture import LRN, Activation, Architecture, BatchNorm, Conv, Dense, Dropout, MaxPool, Step
from alexnet_infer.errors import SpecError, UsageError
from alexnet_infer.presets import PRESETS, Variant, kernel_counts, preset, variant

RELU_LRN_POOL = ["relu", "lrn 5", "maxpool 3/2"]

PAPERS_TABLE = [
    # layer, kernels or units, size / stride / pad, groups, the operations after it, their output
    ("conv1", 96, (11, 4, 0), 1, RELU_LRN_POOL, (96, 27, 27)),
    ("conv2", 256, (5, 1, 2), 2, RELU_LRN_POOL, (256, 13, 13)),
    ("conv3", 384, (3, 1, 1), 1, ["relu"], (384, 13, 13)),
    ("conv4", 384, (3, 1, 1), 2, ["relu"], (384, 13, 13)),
    ("conv5", 256, (3, 1, 1), 2, ["relu", "maxpool 3/2"], (256, 6, 6)),
    ("fc6", 4096, None, None, ["relu", "dropout 0.5"], (4096,)),
    ("fc7", 4096, None, None, ["relu", "dropout 0.5"], (4096,)),
    ("fc8", 1000, None, None, [], (1000,)),
]
"""Sections 3.1-3.5 and figure 2 of the paper, with 227 pixels in place of its 224."""


def layers(net: Architecture) -> list[list[Step]]:
    """The steps in groups: each layer with weights and the operations that follow it."""
    groups: list[list[Step]] = []
    for step in net.steps:
        if isinstance(step.operation, Conv | Dense):
            groups.append([])
        groups[-1].append(step)
    return groups


def written(operation) -> str:
    match operation:
        case Activation(kind=kind):
            return kind
        case LRN(size=size):
            return f"lrn {size}"
        case MaxPool(size=size, stride=stride):
            return f"maxpool {size}/{stride}"
        case Dropout(rate=rate):
            return f"dropout {rate}"
        case BatchNorm():
            return "batchnorm"
    raise AssertionError(operation)


def row(steps: list[Step]) -> tuple:
    o = steps[0].operation
    after = [written(step.operation) for step in steps[1:]]
    if isinstance(o, Conv):
        return (o.name, o.kernels, (o.size, o.stride, o.pad), o.groups, after, steps[-1].output)
    return (o.name, o.units, None, None, after, steps[-1].output)


def named(net: Architecture, name: str) -> Step:
    return next(step for step in net.steps if step.operation.name == name)


def of_kind(net: Architecture, kind: type) -> list:
    return [o for o in net.operations if isinstance(o, kind)]


def map_sides(net: Architecture) -> list[int]:
    """Side lengths of the square maps, in order, without repetitions."""
    sides = [step.output[1] for step in net.steps if len(step.output) == 3]
    return [side for side, before in zip(sides, [None, *sides], strict=False) if side != before]


@pytest.mark.parametrize("expected", PAPERS_TABLE, ids=lambda expected: expected[0])
def test_alexnet_is_the_papers_table_row_by_row(expected):
    rows = {steps[0].operation.name: row(steps) for steps in layers(preset("alexnet"))}
    assert rows[expected[0]] == expected


def test_alexnet_has_the_papers_layers_and_no_others():
    assert [steps[0].operation.name for steps in layers(preset("alexnet"))] == [row[0] for row in PAPERS_TABLE]
    assert preset("alexnet").patch == 227
    assert preset("alexnet").channels == 3


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("alexnet", 60_965_224),
        ("alexnet-onecol", 62_378_344),
        ("caffe", 60_965_224),  # bvlc_alexnet.caffemodel
        ("caffenet", 60_965_224),
        ("owt", 61_100_840),  # torchvision.models.AlexNet_Weights.IMAGENET1K_V1.meta["num_params"]
        ("alexnet-6conv", 60_965_224 + 256 * 256 * 3 * 3 + 256),
    ],
)
def test_published_numbers_of_parameters(name, parameters):
    assert preset(name).parameters == parameters


def test_no_preset_has_the_parameter_count_that_many_tables_give():
    assert 62_416_616 not in {preset(name).parameters for name in PRESETS}


@pytest.mark.parametrize(
    ("layer", "neurons"),
    [("conv2", 186_624), ("conv3", 64_896), ("conv4", 64_896), ("conv5", 43_264), ("fc6", 4096), ("fc8", 1000)],
)
def test_the_papers_own_numbers_of_neurons(layer, neurons):
    # Figure 2's caption. (Its 253,440 for conv1 would be 55 x 48 x 96; the map is 55 x 55.)
    assert math.prod(named(preset("alexnet"), layer).output) == neurons


def test_published_multiply_adds_of_the_papers_net():
    # 666 million in the convolutions (Chen et al., "Eyeriss", ISSCC 2016) and 58.6 million in the dense layers (Sze et
    # al., "Efficient Processing of Deep Neural Networks", 2017, table II).
    net = preset("alexnet")
    convolutions = {
        "conv1": 55**2 * 96 * 3 * 11**2,
        "conv2": 27**2 * 256 * 48 * 5**2,
        "conv3": 13**2 * 384 * 256 * 3**2,
        "conv4": 13**2 * 384 * 192 * 3**2,
        "conv5": 13**2 * 256 * 192 * 3**2,
    }
    assert {name: named(net, name).multiply_adds for name in convolutions} == convolutions
    dense = 6 * 6 * 256 * 4096 + 4096 * 4096 + 4096 * 1000
    assert net.multiply_adds == sum(convolutions.values()) + dense
    assert round(sum(convolutions.values()) / 1e6) == 666
    assert round(dense / 1e6, 1) == 58.6


def test_published_multiply_adds_of_torchvisions_net():
    # torchvision.models.AlexNet_Weights.IMAGENET1K_V1.meta["_ops"]: 0.714 * 10^9.
    assert round(preset("owt").multiply_adds / 1e9, 3) == 0.714


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "four-layer"])
def test_every_preset_of_the_papers_net_has_its_map_sizes(name):
    assert map_sides(preset(name)) == [55, 27, 13, 6]


def test_the_net_of_figure_1_has_four_layers_with_weights_and_none_that_regularises():
    net = preset("four-layer")
    assert [o.name for o in net.operations] == [
        *("conv1", "act1", "pool1", "conv2", "act2", "pool2", "conv3", "act3", "pool3", "fc4"),
    ]
    assert [step.output for step in net.steps if step.operation.name.startswith("pool")] == [
        (32, 13, 13),
        (32, 6, 6),
        (64, 2, 2),
    ]
    assert (net.patch, net.classes) == (28, 1000)


def test_a_net_without_hidden_units_has_only_the_last_dense_layer():
    with_hidden, without = Variant(sixth_conv=16).build(), Variant(sixth_conv=16, hidden=0).build()
    assert without.operations[:-1] == with_hidden.operations[: len(without.operations) - 1]
    assert without.operations[-1] == Dense(name="fc6", units=1000)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_restored_from_json_and_has_its_name(name):
    net = preset(name)
    assert net.name == name
    assert Architecture.from_json(json.loads(json.dumps(net.to_json(), allow_nan=False))) == net


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_a_one_line_summary(name):
    assert PRESETS[name][1].isprintable()
    assert 0 < len(PRESETS[name][1]) < 70


def test_lrn_has_the_papers_constants_in_the_papers_form():
    for norm in of_kind(preset("alexnet"), LRN):
        assert (norm.k, norm.size, norm.alpha, norm.beta) == (2, 5, 1e-4, 0.75)
        assert norm.alpha_per_size == pytest.approx(5e-4)


@pytest.mark.parametrize("name", ["caffe", "caffenet"])
def test_lrn_of_the_caffe_nets_has_the_constants_of_their_prototxt(name):
    # train_val.prototxt: lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }, k = 1 by default
    norms = of_kind(preset(name), LRN)
    assert len(norms) == 2
    for norm in norms:
        assert (norm.k, norm.size, norm.beta, norm.groups) == (1, 5, 0.75, 1)
        assert norm.alpha_per_size == pytest.approx(1e-4)
        assert norm.alpha == pytest.approx(2e-5)


@pytest.mark.parametrize(("name", "groups"), [("alexnet", 2), ("alexnet-64", 2), ("alexnet-6conv", 2)])
def test_lrn_stays_inside_the_columns_of_a_two_column_net(name, groups):
    assert [norm.groups for norm in of_kind(preset(name), LRN)] == [groups, groups]


def test_one_column_has_no_groups_anywhere():
    net = preset("alexnet-onecol")
    assert {o.groups for o in (*of_kind(net, Conv), *of_kind(net, LRN))} == {1}
    two = preset("alexnet")
    assert [o.name for o in net.operations] == [o.name for o in two.operations]
    assert [s.output for s in net.steps] == [s.output for s in two.steps]


def test_convolutions_and_lrn_can_have_different_columns_as_in_caffes_net():
    caffe = preset("caffe")
    assert [o.groups for o in of_kind(caffe, Conv)] == [1, 2, 1, 2, 2]
    assert [o.groups for o in of_kind(caffe, LRN)] == [1, 1]


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("caffe", ["conv1", "act1", "norm1", "pool1", "conv2"]),
        ("caffenet", ["conv1", "act1", "pool1", "norm1", "conv2"]),
    ],
)
def test_caffenet_pools_before_lrn_and_bvlc_alexnet_after(name, order):
    assert [o.name for o in preset(name).operations][:5] == order


def test_the_sixth_convolution_follows_pool5_and_is_connected_to_both_columns():
    net = preset("alexnet-6conv")
    names = [o.name for o in net.operations]
    assert names[names.index("conv6") - 1] == "pool5"
    assert names[names.index("conv6") + 1 :][:2] == ["act6", "fc6"]
    step = named(net, "conv6")
    assert (step.operation.size, step.operation.stride, step.operation.pad, step.operation.groups) == (3, 1, 1, 1)
    assert step.input == step.output == (256, 6, 6)
    assert step.tensors["conv6.weight"] == (256, 256, 3, 3)  # all 256 channels: both columns


def test_alexnet_64_takes_patches_of_57_and_has_the_papers_layers_after_conv1():
    small, paper = preset("alexnet-64"), preset("alexnet")
    conv1 = named(small, "conv1")
    assert conv1.input == (3, 57, 57)
    assert (conv1.operation.kernels, conv1.operation.size, conv1.operation.stride, conv1.operation.pad) == (96, 3, 1, 0)
    assert small.operations[1:] == paper.operations[1:]


def test_owt_is_torchvisions_net():
    net = preset("owt")
    table = [(o.kernels, o.size, o.stride, o.pad, o.groups) for o in of_kind(net, Conv)]
    assert table == [(64, 11, 4, 2, 1), (192, 5, 1, 2, 1), (384, 3, 1, 1, 1), (256, 3, 1, 1, 1), (256, 3, 1, 1, 1)]
    assert net.patch == 224
    assert not of_kind(net, LRN)
    assert [o.name for o in net.operations][-8:] == [
        "pool5", "drop6", "fc6", "act_fc6", "drop7", "fc7", "act_fc7", "fc8"
    ]  # fmt: skip


def test_dropout_follows_the_papers_hidden_layers():
    names = [o.name for o in preset("alexnet").operations]
    assert names[-7:] == ["fc6", "act_fc6", "drop6", "fc7", "act_fc7", "drop7", "fc8"]


# The switches whose effect the paper measures.


def test_tanh_replaces_every_relu_and_nothing_else():
    relu, tanh = Variant().build(), Variant(activation="tanh").build()
    assert {o.kind for o in of_kind(relu, Activation)} == {"relu"}
    assert {o.kind for o in of_kind(tanh, Activation)} == {"tanh"}
    assert tanh.operations == tuple(
        structs.replace(o, kind="tanh") if isinstance(o, Activation) else o for o in relu.operations
    )


def test_batch_norm_replaces_lrn_and_comes_between_every_convolution_and_its_activation():
    net = Variant(normalization="batchnorm", sixth_conv=256).build()
    assert not of_kind(net, LRN)
    for conv in of_kind(net, Conv):
        index = net.operations.index(conv)
        assert [o.op for o in net.operations[index : index + 3]] == ["conv", "batchnorm", "activation"]
    kernels = 96 + 256 + 384 + 384 + 256 + 256
    assert net.parameters == Variant(sixth_conv=256).build().parameters + 2 * kernels  # a scale and a shift per channel


def test_without_normalisation_only_lrn_is_removed():
    with_lrn, without = Variant().build(), Variant(normalization="none").build()
    assert without.operations == tuple(o for o in with_lrn.operations if not isinstance(o, LRN))
    assert len(with_lrn.operations) - len(without.operations) == 2


def test_pooling_without_overlap_keeps_the_map_sizes():
    # Section 3.4 compares z = 3 with "the non-overlapping scheme s = 2, z = 2, which produces output of equivalent
    # dimensions".
    net = Variant(pool_size=2).build()
    assert {(o.size, o.stride) for o in of_kind(net, MaxPool)} == {(2, 2)}
    assert [step.output for step in net.steps] == [step.output for step in Variant().build().steps]


def test_pooling_first_only_swaps_each_lrn_with_its_pool():
    after, before = Variant().build(), Variant(pool_first=True).build()
    assert sorted(o.name for o in after.operations) == sorted(o.name for o in before.operations)
    names = [o.name for o in before.operations]
    assert names.index("pool1") < names.index("norm1") < names.index("conv2")
    assert names.index("pool2") < names.index("norm2") < names.index("conv3")
    assert before.parameters == after.parameters


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (0.125, [16, 32, 48, 48, 32, 32]),  # 12 is not a multiple of 16
        (0.5, [48, 128, 192, 192, 128, 128]),
        (2.0, [192, 512, 768, 768, 512, 512]),
    ],
)
def test_width_scales_every_kernel_count_and_nothing_else(width, expected):
    net = Variant(width=width, sixth_conv=256).build()
    assert [o.kernels for o in of_kind(net, Conv)] == expected
    assert [o.units for o in of_kind(net, Dense)] == [4096, 4096, 1000]


def test_kernel_counts_are_unchanged_without_scaling():
    net = Variant(kernels=(6, 10, 4, 2, 8), columns=2).build()
    assert [o.kernels for o in of_kind(net, Conv)] == [6, 10, 4, 2, 8]


@pytest.mark.parametrize("width", [0.01, 0.05, 0.3, 0.77])
def test_any_width_gives_kernel_counts_that_two_columns_can_share(width):
    assert all(o.kernels % 2 == 0 for o in of_kind(Variant(width=width).build(), Conv))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, "width=0: expected"),
        ({"width": -1.0}, "width=-1.0: expected"),
        ({"width": math.nan}, "width=nan: expected"),
        ({"width": math.inf}, "width=inf: expected"),
        ({"width": 65.0}, "width=65.0: expected more than 0 and at most 64"),
        ({"width": 64.0}, "conv2: kernels=16384: expected"),
        ({"normalization": "instance"}, "normalization='instance': expected lrn, batchnorm or none"),
        ({"activation": "gelu"}, "act1: kind='gelu': expected relu or tanh"),
        ({"kernels": ()}, "expected at least one number"),
        ({"kernels": (96, 256, 0, 384, 256)}, "conv3: kernels=0: expected"),
        ({"kernels": (96, 256, 0, 384, 256), "width": 0.5}, "conv3: kernels=0: expected"),
        ({"columns": 0}, "groups=0: expected"),
        ({"columns": 3}, "conv2: groups=3 must divide both the 96 input channels and the 256 kernels"),
        ({"lrn_columns": 0}, "norm1: groups=0: expected"),
        ({"lrn_columns": 7}, "norm1: groups=7 must divide the 96 channels"),
        ({"lrn_constants": (1e-4, 0.0)}, "norm1: k=0.0: expected"),
        ({"sixth_conv": -256}, "conv6: kernels=-256: expected"),
        ({"pool_size": 2, "patch": 20}, "window is larger than the"),
        ({"patch": 10}, "conv1: its 11-pixel window is larger than the 10-pixel map"),
        ({"hidden": -1}, "fc6: units=-1: expected"),
        ({"classes": 0}, "fc8: units=0: expected"),
        ({"dropout": 1.0}, "drop6: rate=1.0: expected"),
        ({"conv1": (11, 0, 0)}, "conv1: stride=0: expected"),
    ],
    ids=str,
)
def test_values_that_do_not_describe_a_net_are_refused_by_name_and_value(fields, message):
    with pytest.raises(SpecError, match=message) as caught:
        Variant(**fields).build()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "name", "kernels", "sixth_conv"),
    [
        ("48,128,192,192,256", "alexnet", (48, 128, 192, 192, 256), 0),
        ("1,2,3,4,5,9999", "alexnet", (1, 2, 3, 4, 5), 9999),
        ("8,8,16", "four-layer", (8, 8, 16), 0),
        ("8,8,16,4", "four-layer", (8, 8, 16), 4),
    ],
)
def test_numbers_of_kernels_are_as_many_as_the_preset_has_or_one_more(text, name, kernels, sixth_conv):
    assert kernel_counts(text, variant(name)) == {"kernels": kernels, "sixth_conv": sixth_conv}


@pytest.mark.parametrize(
    "text", ["", "1,2,3,4", "1,2,3,4,5,6,7", "0,2,3,4,5", "1,2,3,4,5,", "1, 2,3,4,5", "1,2,3,4,-5"]
)
def test_other_numbers_of_kernels_are_refused(text):
    with pytest.raises(UsageError, match=r"--kernels .*: expected the numbers of kernels of conv1 to conv5, such as"):
        kernel_counts(text, variant("alexnet"))


def test_an_unknown_preset_is_a_usage_error_that_lists_the_known_ones():
    with pytest.raises(UsageError, match="no preset is called 'vgg'") as caught:
        preset("vgg")
    assert all(name in str(caught.value) for name in PRESETS)
    assert caught.value.exit_code == 2


def test_a_variant_can_be_changed_without_changing_the_preset():
    assert replace(variant("alexnet-64"), classes=200, hidden=1024, width=0.5).build().classes == 200
    assert variant("alexnet-64").classes == 1000
