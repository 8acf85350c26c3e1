"""Names of layers, and the values that they mean."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alexnet_infer.errors import UsageError
from alexnet_infer.layers import all_layers, columns_of, find_layers
from alexnet_infer.presets import PRESETS, preset
from tests.nets import TINY


def test_a_layers_name_is_the_value_after_its_activation_and_pre_the_value_before():
    operations = {layer.name: (layer.operation, layer.shape) for layer in all_layers(preset("alexnet"))}
    assert operations["fc7"] == ("act_fc7", (4096,))
    assert operations["fc7:pre"] == ("fc7", (4096,))
    assert operations["conv1"] == ("act1", (96, 55, 55))
    assert operations["pool5"] == ("pool5", (256, 6, 6))
    assert operations["fc8"] == ("fc8", (1000,))
    assert operations["probabilities"] == ("probabilities", (1000,))
    assert "fc8:pre" not in operations


def test_batch_norm_belongs_to_the_value_before_the_activation():
    operations = {layer.name: layer.operation for layer in all_layers(replace(TINY, normalization="batchnorm").build())}
    assert (operations["conv1"], operations["conv1:pre"], operations["bn1"]) == ("act1", "bn1", "bn1")


@pytest.mark.parametrize("name", PRESETS)
def test_every_operation_that_info_prints_is_a_layer_with_its_shape(name):
    architecture = preset(name)
    layers = {layer.name: layer for layer in all_layers(architecture)}
    shapes = {step.operation.name: step.output for step in architecture.steps}
    assert {*shapes} == {layer.partition(":")[0] for layer in layers} - {"probabilities"}
    for layer in layers.values():
        if layer.operation != "probabilities":
            assert layer.shape == shapes[layer.operation]


def test_an_unknown_layer_is_refused_with_the_names_there_are():
    with pytest.raises(UsageError) as raised:
        find_layers(preset("alexnet"), ["fc7", "fc9"])
    message = str(raised.value)
    assert message.startswith("alexnet has no layer 'fc9' (did you mean fc")
    assert "pool5 fc6 act_fc6" in message
    assert message.endswith("with :pre, the value before the activation: conv1 conv2 conv3 conv4 conv5 fc6 fc7")
    assert len(message) < 600


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "no layer: expected"),
        (("fc7", "fc6", "fc7"), "layer 'fc7' is named twice"),
        ("fc7", r"layers='fc7': expected a list of names, as in \['fc7'\]"),
    ],
)
def test_no_layer_or_one_twice_is_refused(names, message):
    with pytest.raises(UsageError, match=message):
        find_layers(preset("alexnet"), names)


def test_the_papers_maps_are_in_two_columns_and_its_units_in_one():
    divided = columns_of(preset("alexnet"))
    assert {name: n for name, n in divided.items() if name.startswith(("conv", "norm", "pool"))} == dict.fromkeys(
        ("conv1", "norm1", "pool1", "conv2", "norm2", "pool2", "conv3", "conv4", "conv5", "pool5"), 2
    )
    assert {n for name, n in divided.items() if name.startswith(("fc", "drop", "act_fc"))} == {1}


def test_lrn_across_columns_does_not_merge_them_and_a_sixth_convolution_does():
    assert columns_of(preset("caffe"))["norm1"] == 2
    divided = columns_of(preset("alexnet-6conv"))
    assert (divided["pool5"], divided["conv6"], divided["act6"]) == (2, 1, 1)
    assert set(columns_of(preset("owt")).values()) == {1}
