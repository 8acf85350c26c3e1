"""Recipes: the paper's figures, values that are refused, and the dropout rate of a net."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from alexnet_infer.architecture import Dropout
from alexnet_infer.errors import UsageError
from alexnet_infer.presets import PRESETS, variant
from train.recipe import FAST, PAPER, RECIPES, Recipe

HINTS = get_type_hints(Recipe)
CHOICES = {name: get_args(hint) for name, hint in HINTS.items() if get_origin(hint) is Literal}


def test_the_paper_recipe_has_the_figures_of_the_paper():
    # Section 5: batch, momentum, weight decay, the initial rate, "roughly 90 cycles".
    assert (PAPER.batch, PAPER.momentum, PAPER.weight_decay, PAPER.lr, PAPER.epochs) == (128, 0.9, 0.0005, 0.01, 90)
    assert (PAPER.schedule, PAPER.init) == ("plateau", "paper")
    # Section 2: the mean over the training set at each pixel. Section 4.1: the noise's deviation, ten patches.
    assert (PAPER.mean, PAPER.color_sigma, PAPER.validation_views) == ("pixel", 0.1, "ten")
    assert PAPER.training_views == "random"
    # Section 4.2.
    assert PAPER.dropout == 0.5
    # Settings that are not in the paper are off.
    assert (PAPER.label_smoothing, PAPER.unit, PAPER.steps_per_epoch) == (0, 1, None)
    assert Recipe() == PAPER


def test_recipes_are_found_by_their_own_names():
    assert {"paper": PAPER, "fast": FAST} == RECIPES
    assert all(recipe.name == name for name, recipe in RECIPES.items())


def test_the_fields_with_choices_are_these():
    assert CHOICES.keys() == {"schedule", "init", "mean", "training_views", "validation_views"}


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_takes_its_values_and_refuses_any_other_naming_the_option(name):
    for value in CHOICES[name]:
        assert getattr(replace(PAPER, **{name: value}), name) == value
    for value in ("other", "", CHOICES[name][0].upper(), None, 1):
        refused(name, value, " or ".join(CHOICES[name]))


@pytest.mark.parametrize(
    ("name", "good", "wrong", "expected"),
    [
        ("epochs", [1, 100_000], [0, -1, 100_001, 1.5, True, None], "a whole number from 1 to 100000"),
        ("batch", [1, 10**6], [0, 10**6 + 1, float("nan")], "a whole number from 1 to 1000000"),
        ("patience", [1, 100_000], [0, 10**30], "a whole number from 1 to 100000"),
        ("steps_per_epoch", [1, 10**8, None], [0, -5, 10**9], "a whole number from 1 to 100000000"),
        ("lr", [1e-9, 10.0], [0, -0.1, 1e6, 1e30, float("nan"), float("inf")], "more than 0 and less than 1000000"),
        ("unit", [0.001, 16.0], [0, 1e-4, 1e6, float("nan"), float("inf")], "at least 0.001 and less than 1000000"),
        ("momentum", [0, 0.999], [1, -0.1, float("nan")], "at least 0 and less than 1"),
        ("weight_decay", [0, 0.5], [1, -0.1, float("nan")], "at least 0 and less than 1"),
        ("dropout", [0, 0.2, 0.999], [1, 1.0, -0.1, float("nan")], "at least 0 and less than 1"),
        ("label_smoothing", [0, 0.1], [1, -0.1, float("nan")], "at least 0 and less than 1"),
        ("warmup", [0, 0.5], [1, -0.1, float("nan")], "at least 0 and less than 1"),
        ("color_sigma", [0, 1.0], [10, -0.1, float("nan")], "at least 0 and less than 10"),
    ],
)
def test_a_number_out_of_range_is_refused_naming_the_option(name, good, wrong, expected):
    for value in good:
        assert getattr(replace(PAPER, **{name: value}), name) == value
    for value in wrong:
        refused(name, value, expected)


def test_a_number_of_any_length_is_refused_in_a_short_line():
    with pytest.raises(UsageError, match=r"--epochs 999.*: expected a whole number from 1 to 100000") as caught:
        replace(PAPER, epochs=10**4000 - 1)
    assert len(str(caught.value)) < 600


def refused(name: str, value: Any, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        replace(PAPER, **{name: value})
    assert str(caught.value) == f"--{name.replace('_', '-')} {value}: expected {expected}"
    assert caught.value.exit_code == 2


def test_every_field_is_checked_but_the_name():
    changes = {field.name: -1 for field in fields(Recipe)}
    del changes["name"]
    for name, value in changes.items():
        with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} -1"):
            replace(PAPER, **{name: value})


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_a_recipe_sets_the_rate_of_every_dropout_layer_and_nothing_else(name, rate):
    recipe, net = replace(FAST, dropout=rate), variant(name)
    architecture = recipe.apply_to(net.build())
    assert [o.rate for o in architecture.operations if isinstance(o, Dropout)] == [rate, rate] * bool(net.hidden)
    assert architecture == replace(net, dropout=rate).build()
