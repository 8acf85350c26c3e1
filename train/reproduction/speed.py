"""How fast nets learn: the updates until a training error is reached, as in the paper's Figure 1."""

from __future__ import annotations

from train.reproduction.record import Curve

TARGET = 0.25
"""The training error, which is 25 % in the paper's Figure 1."""


def updates(curve: Curve | None) -> float | None:
    """Return how many updates a run takes to the training error TARGET; None if it does not reach it.

    The mean error of an epoch counts as that in its middle; between epochs, the error is taken to be on a line.
    """
    earlier = None
    for at, error in training_errors(curve) if curve else []:
        if error <= TARGET:
            if earlier is None:
                return at
            share = (TARGET - error) / (earlier[1] - error)
            return at - share * (at - earlier[0])
        earlier = at, error
    return None


def training_errors(curve: Curve) -> list[tuple[float, float]]:
    """Return the mean training error of each epoch with the updates until its middle; nothing if it was not logged."""
    if curve.steps_per_epoch is None:
        return []
    return [((epoch + 0.5) * curve.steps_per_epoch, error) for epoch, error in enumerate(curve.training_error)]
