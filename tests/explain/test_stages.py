"""Stages of a net."""

from __future__ import annotations

import pytest

from alexnet_infer.explain.stages import stages, values
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
