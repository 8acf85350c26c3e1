"""The update rule and the schedules against sequences computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch

from train import optimizer
from train.optimizer import PaperSGD, onecycle, plateau
from train.recipe import FAST, PAPER

GRADIENTS = [0.5, -1.0, 2.0, 0.25, -0.75]
RATES = [0.1, 0.1, 0.01, 0.001, 0.05]


def run(gradients: list[float], rates: list[float], weight: float = 1.0) -> list[float]:
    """Weights after each step of PaperSGD with momentum 0.9 and weight decay 0.0005."""
    w = torch.tensor([weight], dtype=torch.float64, requires_grad=True)
    optimizer, weights = PaperSGD([w], 0.9, 0.0005), []
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.zero_grad()
        (w * gradient).sum().backward()
        optimizer.step(rate)
        weights.append(w.item())
    return weights


def test_update_is_section_5_with_a_changing_rate():
    w, v, expected = 1.0, 0.0, []
    for gradient, rate in zip(GRADIENTS, RATES, strict=True):
        v = 0.9 * v - 0.0005 * rate * w - rate * gradient
        w = w + v
        expected.append(w)
    assert run(GRADIENTS, RATES) == pytest.approx(expected, rel=1e-12)


def pytorch(gradients: list[float], rates: list[float]) -> list[float]:
    w = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    optimizer, weights = torch.optim.SGD([w], lr=1.0, momentum=0.9, weight_decay=0.0005), []
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        (w * gradient).sum().backward()
        optimizer.step()
        weights.append(w.item())
    return weights


def test_pytorchs_sgd_gives_the_same_weights_only_at_a_constant_rate():
    constant = [0.1] * 5
    assert run(GRADIENTS, constant) == pytest.approx(pytorch(GRADIENTS, constant), rel=1e-12)
    # After a step at 0.1 with gradient 1, a drop to 0.01: the paper's momentum still moves at the old rate.
    paper, sgd = run([1.0, 0.0], [0.1, 0.01]), pytorch([1.0, 0.0], [0.1, 0.01])
    assert paper[1] - paper[0] == pytest.approx(-0.9 * 0.1, rel=1e-2)
    assert sgd[1] - sgd[0] == pytest.approx(-0.9 * 0.01, rel=1e-2)


def test_onecycle_rises_linearly_and_falls_as_a_cosine():
    recipe = replace(FAST, lr=0.4, warmup=0.2)
    by_hand = {0.0: 0.0, 0.1: 0.2, 0.2: 0.4, 0.4: 0.4 * (1 + math.sqrt(0.5)) / 2, 0.6: 0.2, 1.0: 0.0}
    assert [onecycle(recipe, at) for at in by_hand] == pytest.approx(list(by_hand.values()), abs=1e-15)


def test_onecycle_without_warmup_starts_at_the_highest_rate():
    assert onecycle(replace(FAST, lr=0.4, warmup=0.0), 0.0) == 0.4


def plateau_rates(errors: list[float], patience: int) -> list[float]:
    """Return the rate of every epoch, including the one after the last error."""
    recipe = replace(PAPER, lr=1.0, patience=patience)
    return [plateau(recipe, errors[:count])[0] for count in range(len(errors) + 1)]


def test_plateau_divides_by_ten_after_patience_epochs_without_a_new_lowest_error():
    #            best     1    2 -> drop   best       1    2 -> drop
    errors = [0.9, 0.8, 0.8, 0.85, 0.79, 0.80, 0.79, 0.7]
    assert plateau_rates(errors, patience=2) == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_plateau_waits_again_after_each_drop_and_ends_after_the_fourth_wait():
    recipe = replace(PAPER, lr=1.0, patience=3)
    states = [plateau(recipe, [0.5] + [0.6] * waited) for waited in range(13)]
    assert [rate for rate, _ in states] == pytest.approx([1] * 3 + [0.1] * 3 + [0.01] * 3 + [0.001] * 4)
    assert [finished for _, finished in states] == [False] * 12 + [True]


def test_an_error_equal_to_the_lowest_is_no_improvement():
    assert plateau_rates([0.5, 0.5], patience=1)[-1] == pytest.approx(0.1)


def test_the_rule_for_the_compiler_gives_the_same_weights():
    """The function that `compile` compiles for a GPU, here not compiled."""
    results = []
    for in_one_pass in (None, optimizer._in_one_pass):
        torch.manual_seed(0)
        weights = [torch.randn(4, 3, dtype=torch.float64), torch.randn(5, dtype=torch.float64)]
        rule = PaperSGD(weights, 0.9, 0.0005)
        rule._in_one_pass = in_one_pass
        for rate in RATES:
            for w in weights:
                w.grad = torch.randn_like(w)
            rule.step(rate)
        results.append(torch.cat([tensor.flatten() for tensor in (*weights, *rule.velocity)]))
    torch.testing.assert_close(*results, rtol=1e-6, atol=0)  # its learning rate is a float32
