"""Stages of a net, and the columns that its maps are in."""

from __future__ import annotations

import pytest

from alexnet_infer.explain.stages import columns, stages, values
from alexnet_infer.layers import PRE, all_layers
from alexnet_infer.presets import PRESETS, preset
from tests.explain.explained import VARIANTS


@pytest.mark.parametrize("name", PRESETS)
def test_stages_have_every_operation_once_and_begin_with_weights(name):
    architecture = preset(name)
    found = stages(architecture)
    assert tuple(step for stage in found for step in stage.steps) == architecture.steps
    assert [stage.name for stage in found if stage.name.startswith("conv")] == [
        o.name for o in architecture.operations if o.op == "conv"
    ]
    for stage in found:
        assert [step.operation.op in ("conv", "dense") for step in stage.steps].count(True) == 1
        assert stage.steps[0].operation.op in ("conv", "dense")


def test_the_papers_maps_are_in_two_columns_and_its_units_in_one():
    divided = columns(preset("alexnet"))
    assert {name: n for name, n in divided.items() if name.startswith(("conv", "norm", "pool"))} == dict.fromkeys(
        ("conv1", "norm1", "pool1", "conv2", "norm2", "pool2", "conv3", "conv4", "conv5", "pool5"), 2
    )
    assert {n for name, n in divided.items() if name.startswith(("fc", "drop", "act_fc"))} == {1}


def test_lrn_across_columns_does_not_merge_them_and_a_sixth_convolution_does():
    assert columns(preset("caffe"))["norm1"] == 2
    divided = columns(preset("alexnet-6conv"))
    assert (divided["pool5"], divided["conv6"], divided["act6"]) == (2, 1, 1)
    assert set(columns(preset("owt")).values()) == {1}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))
def test_every_layer_that_is_not_before_an_activation_is_the_output_of_an_operation_shown(variant):
    architecture = variant.build()
    shown = values(architecture)
    outputs = {layer.operation for layer in all_layers(architecture) if not layer.name.endswith(PRE)}
    dropouts = {o.name for o in architecture.operations if o.op == "dropout"}
    assert outputs - dropouts <= {*shown}
    assert not {*shown} & dropouts
    operation_of = {layer.name: layer.operation for layer in all_layers(architecture)}
    assert all(operation_of[layer] == operation for operation, layer in shown.items())


def test_a_convolution_before_batch_norm_is_not_shown_and_the_batch_norm_is():
    shown = values(VARIANTS["batch norm"].build())
    assert "conv1" not in shown
    assert shown["bn1"] == "conv1:pre"
