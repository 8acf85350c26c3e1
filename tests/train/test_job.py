"""Jobs: the net to train, and the default size of its images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from alexnet_infer.architecture import Dropout
from alexnet_infer.errors import UsageError
from alexnet_infer.presets import PRESETS, Variant, variant
from train.job import Job, default_size
from train.recipe import FAST, PAPER, Recipe


def job_of(net: Variant, recipe: Recipe = PAPER) -> Job:
    return Job(variant=net, recipe=recipe, data=Path("data"), out=Path("out"), name="net")


@pytest.mark.parametrize("recipe", [PAPER, FAST, replace(FAST, dropout=0.3)])
def test_the_net_has_the_classes_of_the_data_and_the_dropout_rate_of_the_recipe(recipe):
    net = replace(variant("alexnet-64"), dropout=0.9, classes=5)
    architecture = job_of(net, recipe).architecture(7)
    assert architecture.classes == 7
    assert [o.rate for o in architecture.operations if isinstance(o, Dropout)] == [recipe.dropout] * 2


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden", -1, "--hidden -1: expected 0 to 65536"),
        ("hidden", 65537, "--hidden 65537: expected 0 to 65536"),
        ("columns", 0, "--net-columns 0: expected 1 or 2"),
        ("columns", 4, "--net-columns 4: expected 1 or 2"),
        ("pool_size", 1, "--pool-size 1: expected 2 or 3"),
        ("pool_size", 4, "--pool-size 4: expected 2 or 3"),
    ],
)
def test_an_impossible_net_is_refused_naming_the_option(field, value, message):
    with pytest.raises(UsageError) as caught:
        job_of(replace(variant("alexnet-64"), **{field: value}))
    assert str(caught.value) == message


@pytest.mark.parametrize("net", PRESETS)
@pytest.mark.parametrize("pool_size", [2, 3])
@pytest.mark.parametrize("columns", [1, 2])
def test_every_preset_can_have_one_or_two_columns_and_either_pooling(net, columns, pool_size):
    changed = replace(variant(net), columns=columns, pool_size=pool_size)
    assert job_of(changed).architecture(10).classes == 10


@pytest.mark.parametrize(("patch", "size"), [(227, 256), (224, 256), (57, 64), (64, 96)])
def test_the_default_size_leaves_room_around_the_patch(patch, size):
    assert default_size(patch) == size
