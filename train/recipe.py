"""Training recipes: the paper's and a faster one. Every constant of the paper's section 5 is defined here, once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from msgspec.structs import replace

from alexnet_infer.architecture import Architecture, Dropout
from alexnet_infer.errors import UsageError, shown


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a net is trained. The defaults are the paper's (section 5). Raises UsageError on values out of range."""

    name: str = "paper"
    epochs: int = 90
    """Passes through the training set; `plateau` may end earlier."""
    batch: int = 128
    """Images per step."""
    lr: float = 0.01
    """The first learning rate (`plateau`) or the highest (`onecycle`)."""
    schedule: Literal["plateau", "onecycle"] = "plateau"
    """plateau: divide the rate by 10 when the validation error stops improving, at most three times. onecycle: a linear
    rise over the first `warmup` of the run, then a cosine to zero."""
    warmup: float = 0.15
    """onecycle: the share of the run in which the rate rises."""
    patience: int = 5
    """plateau: epochs without improvement before the rate drops. The authors of the paper lowered the rate by hand and
    give no number."""
    momentum: float = 0.9
    weight_decay: float = 0.0005
    init: Literal["paper", "he"] = "paper"
    """paper: N(0, 0.01); biases 1 in conv2, conv4, conv5, conv6 and the hidden fully-connected layers, 0 in the others.
    he: He et al. (2015); the last layer N(0, 0.01); all biases 0."""
    dropout: float = 0.5
    """Rate of every dropout layer (section 4.2). `apply_to` sets it in a net's architecture."""
    label_smoothing: float = 0.0
    mean: Literal["pixel", "channel"] = "pixel"
    """The mean to subtract from an image: the training set's mean at each pixel (section 2), or one value per
    channel."""
    color_sigma: float = 0.1
    """Standard deviation of the coefficients of the colour noise (section 4.1)."""
    training_views: Literal["random", "center"] = "random"
    """What a net is trained on: a random patch of the image, mirrored half of the time (section 4.1), or always the
    central patch."""
    validation_views: Literal["ten", "center"] = "ten"
    """Views for the error after each epoch: the paper's ten patches, or the central patch in a tenth of the time."""
    steps_per_epoch: int | None = None
    """Steps per epoch; None for one pass through the training set. Each epoch draws a new random selection."""
    unit: float = 1.0
    """Grey levels that count as 1 inside the net during training; see `train.model.AlexNet`."""

    def __post_init__(self) -> None:
        for name, high in _WHOLE.items():
            value = getattr(self, name)
            absent = value is None and name == "steps_per_epoch"
            _check(
                absent or (type(value) is int and 1 <= value <= high), name, value, f"a whole number from 1 to {high}"
            )
        _check(0 < self.lr < 1e6, "lr", self.lr, "more than 0 and less than 1000000")
        _check(0.001 <= self.unit < 1e6, "unit", self.unit, "at least 0.001 and less than 1000000")
        for name in ("momentum", "weight_decay", "dropout", "label_smoothing", "warmup"):
            _check(0 <= getattr(self, name) < 1, name, getattr(self, name), "at least 0 and less than 1")
        _check(0 <= self.color_sigma < 10, "color_sigma", self.color_sigma, "at least 0 and less than 10")
        for name, choices in _CHOICES.items():
            _check(getattr(self, name) in choices, name, getattr(self, name), " or ".join(choices))

    def apply_to(self, architecture: Architecture) -> Architecture:
        """Return `architecture` with this recipe's dropout rate in every dropout layer."""
        operations = (replace(o, rate=self.dropout) if isinstance(o, Dropout) else o for o in architecture.operations)
        return replace(architecture, operations=tuple(operations))


_WHOLE = {"epochs": 100_000, "batch": 10**6, "patience": 100_000, "steps_per_epoch": 10**8}
"""Field -> the largest whole number that it may have. The smallest is 1."""

_CHOICES = {
    "schedule": ("plateau", "onecycle"),
    "init": ("paper", "he"),
    "mean": ("pixel", "channel"),
    "training_views": ("random", "center"),
    "validation_views": ("ten", "center"),
}


def _check(good: bool, name: str, value: object, expected: str) -> None:
    if not good:
        text = value if isinstance(value, str) else shown(value)
        raise UsageError(f"--{name.replace('_', '-')} {text}: expected {expected}")


PAPER = Recipe()
FAST = Recipe(
    name="fast",
    epochs=22,
    lr=0.04,
    schedule="onecycle",
    init="he",
    # Short runs underfit and need less dropout: after 6 epochs of the half-width net on Tiny ImageNet (seed 1, ten
    # views), the top-1 error is 64.36 % with 0.2 and 71.72 % with 0.5.
    dropout=0.2,
    label_smoothing=0.1,
    mean="channel",
    validation_views="center",
    unit=16.0,
)
RECIPES = {recipe.name: recipe for recipe in (PAPER, FAST)}
