"""Jobs: the net to train, and the default size of its images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from alexnet_infer.architecture import Dropout
from alexnet_infer.presets import variant
from train.job import Job, default_size
from train.recipe import FAST, PAPER


@pytest.mark.parametrize("recipe", [PAPER, FAST, replace(FAST, dropout=0.3)])
def test_the_net_has_the_classes_of_the_data_and_the_dropout_rate_of_the_recipe(recipe):
    net = replace(variant("alexnet-64"), dropout=0.9, classes=5)
    job = Job(variant=net, recipe=recipe, data=Path("data"), out=Path("out"), name="net")
    architecture = job.architecture(7)
    assert architecture.classes == 7
    assert [o.rate for o in architecture.operations if isinstance(o, Dropout)] == [recipe.dropout] * 2


@pytest.mark.parametrize(("patch", "size"), [(227, 256), (224, 256), (57, 64), (64, 96)])
def test_the_default_size_leaves_room_around_the_patch(patch, size):
    assert default_size(patch) == size
