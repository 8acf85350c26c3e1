"""The paper's update rule and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from train.recipe import Recipe


class PaperSGD:
    """The update rule of section 5: v <- momentum v - weight_decay lr w - lr grad; w <- w + v.

    `torch.optim.SGD` applies the learning rate outside of v, which gives different weights once the rate changes.
    """

    def __init__(self, parameters: list[Tensor], momentum: float, weight_decay: float) -> None:
        self.parameters = parameters
        self.momentum, self.weight_decay = momentum, weight_decay
        self.velocity = [torch.zeros_like(w) for w in parameters]
        self._in_one_pass: Callable[..., None] | None = None

    def compile(self) -> None:
        """Compile `step` with `torch.compile`, so that it reads and writes each tensor once."""
        self._in_one_pass = torch.compile(_in_one_pass, dynamic=False)

    @property
    def gradients(self) -> list[Tensor]:
        return [w.grad for w in self.parameters]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        if self._in_one_pass is not None:
            rate = torch.full((), lr, device=self.parameters[0].device)  # a number would be compiled as a constant
            self._in_one_pass(self.parameters, self.velocity, self.gradients, rate, self.momentum, self.weight_decay)
            return
        torch._foreach_mul_(self.velocity, self.momentum)
        torch._foreach_add_(self.velocity, self.parameters, alpha=-self.weight_decay * lr)
        torch._foreach_add_(self.velocity, self.gradients, alpha=-lr)
        torch._foreach_add_(self.parameters, self.velocity)

    def zero_grad(self) -> None:
        for w in self.parameters:
            w.grad = None


def _in_one_pass(
    parameters: list[Tensor],
    velocity: list[Tensor],
    gradients: list[Tensor],
    lr: Tensor,
    momentum: float,
    weight_decay: float,
) -> None:
    for w, v, grad in zip(parameters, velocity, gradients, strict=True):
        v.mul_(momentum).sub_(lr * (weight_decay * w + grad))
        w.add_(v)


def onecycle(recipe: Recipe, progress: float) -> float:
    """Return the learning rate at `progress` (0..1) of the run: a linear rise to `recipe.lr`, then a cosine to 0."""
    if progress < recipe.warmup:
        return recipe.lr * progress / recipe.warmup
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (progress - recipe.warmup) / (1 - recipe.warmup)))


def plateau(recipe: Recipe, errors: list[float]) -> tuple[float, bool]:
    """Return (learning rate, whether training is over) by the paper's rule, from the validation errors of all epochs.

    The rate is divided by 10 after `patience` epochs without a new lowest error, at most three times. Training is over
    when the error does not improve for `patience` more epochs.
    """
    best, waited, drops = math.inf, 0, 0
    for error in errors:
        best, waited = (error, 0) if error < best else (best, waited + 1)
        if waited >= recipe.patience:
            waited, drops = 0, drops + 1
    return recipe.lr / 10 ** min(drops, 3), drops > 3
