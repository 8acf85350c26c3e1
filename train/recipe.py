"""Training recipes: the paper's, and a faster one. Every constant of the paper's section 5 stands here, once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alexnet_infer.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a net is trained. The defaults are the paper's (section 5). Raises UsageError on values out of range."""

    name: str = "paper"
    epochs: int = 90
    batch: int = 128
    lr: float = 0.01
    """Learning rate: the first one (`plateau`) or the highest (`onecycle`)."""
    schedule: Literal["plateau", "onecycle"] = "plateau"
    """plateau: divided by 10 whenever validation error stops improving, three times at most. onecycle: linear rise
    over the first `warmup` of the run, then a cosine to zero."""
    warmup: float = 0.15
    patience: int = 5
    """plateau: epochs without improvement before the rate drops. The paper did it by hand and gives no number."""
    momentum: float = 0.9
    weight_decay: float = 0.0005
    init: Literal["paper", "he"] = "paper"
    """paper: N(0, 0.01), biases 1 in conv2, conv4, conv5 and the hidden fully-connected layers, else 0.
    he: He et al. (2015), the last layer N(0, 0.01), all biases 0."""
    label_smoothing: float = 0.0
    mean: Literal["pixel", "channel"] = "pixel"
    """What is subtracted from an image: the training set's mean at each pixel (section 2), or one value a channel."""
    color_sigma: float = 0.1
    """Standard deviation of the colour noise's coefficients (section 4.1)."""
    validation_views: Literal["ten", "center"] = "ten"
    """What each epoch's error is measured on: the paper's ten patches, or the central one in a tenth of the time."""
    steps_per_epoch: int | None = None
    """End an epoch after so many steps; None for the whole set. Each epoch draws other images."""
    unit: float = 1.0
    """Grey levels that count as 1 inside the net while it trains; see `train.model.AlexNet`."""

    def __post_init__(self) -> None:
        for name, low in (("epochs", 1), ("batch", 1), ("patience", 1)):
            _check(getattr(self, name) >= low, name, getattr(self, name), f"at least {low}")
        for name in ("lr", "unit"):
            _check(0 < getattr(self, name) < 1e6, name, getattr(self, name), "more than 0")
        for name in ("momentum", "weight_decay", "label_smoothing", "warmup"):
            _check(0 <= getattr(self, name) < 1, name, getattr(self, name), "from 0 to below 1")
        _check(0 <= self.color_sigma < 10, "color_sigma", self.color_sigma, "from 0 to below 10")
        steps = self.steps_per_epoch
        _check(steps is None or steps >= 1, "steps_per_epoch", steps, "at least 1")
        for name, (one, other) in _CHOICES.items():
            _check(getattr(self, name) in (one, other), name, getattr(self, name), f"{one} or {other}")


_CHOICES = {
    "schedule": ("plateau", "onecycle"),
    "init": ("paper", "he"),
    "mean": ("pixel", "channel"),
    "validation_views": ("ten", "center"),
}


def _check(good: bool, name: str, value: object, expected: str) -> None:
    if not good:
        raise UsageError(f"--{name.replace('_', '-')} {value}: expected {expected}")


PAPER = Recipe()
FAST = Recipe(
    name="fast",
    epochs=22,
    lr=0.04,
    schedule="onecycle",
    init="he",
    label_smoothing=0.1,
    mean="channel",
    validation_views="center",
    unit=16.0,
)
RECIPES = {recipe.name: recipe for recipe in (PAPER, FAST)}
