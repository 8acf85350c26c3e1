"""How fast nets learn: the updates until a training error is reached, as in the paper's Figure 1."""

from __future__ import annotations

from train.reproduction.record import Curve

TARGET = 0.25
"""The training error, which is 25 % in the paper's Figure 1."""


def updates(curve: Curve | None) -> float | None:
    """Return how many updates a run takes to the training error TARGET; None if it does not reach it.

    The mean error of an epoch counts as that in its middle; between epochs, the error is taken to be on a line.
    """
    if curve is None or not curve.training_error or curve.steps_per_epoch is None:
        return None
    errors = curve.training_error
    first = next((epoch for epoch, error in enumerate(errors) if error <= TARGET), None)
    if first is None:
        return None
    middle = first + 0.5
    if first > 0:
        middle -= (TARGET - errors[first]) / (errors[first - 1] - errors[first])
    return middle * curve.steps_per_epoch
