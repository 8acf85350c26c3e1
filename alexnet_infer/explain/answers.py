"""The answer, and how the votes of the ten patches make it."""

from __future__ import annotations

from typing import Any

import numpy as np

from alexnet_infer import pages
from alexnet_infer.explain.measure import CENTRAL, Explained
from alexnet_infer.explain.occlusion import View

SMALL = 128
"""An image of at most this many pixels is shown with its pixels visible, and stored as PNG."""


def pixels(image: np.ndarray) -> str:
    """Return an image uint8 [H, W, 3] as a data URI: exact if it is small, otherwise a JPEG of the same size."""
    side = max(image.shape)
    return pages.png(np.ascontiguousarray(image)) if side <= SMALL else pages.jpeg(np.ascontiguousarray(image), side)


def view_of_answers(net: Explained) -> dict[str, Any]:
    """Return what the template shows of the answer and the votes.

    "top": the classes of the answer with their probabilities; "votes": each patch with its own ones, and its
    probabilities for the classes of the answer; "outlines": the different places where patches are cut.
    """
    classes = net.top(net.mean)
    side = net.manifest.preprocessing.patch
    votes = [
        {
            "name": view_name(i, place),
            "place": place,
            "outline": i % 5,
            "picture": pixels(_cut(net.square, place, side)),
            "top": _labelled(net, votes),
            "shares": [float(votes[c]) for c in classes],
            "central": i == CENTRAL,
        }
        for i, (place, votes) in enumerate(zip(net.places, net.votes, strict=True))
    ]
    return {
        "top": _labelled(net, net.mean),
        "votes": votes,
        "outlines": [(place.column, place.row) for place in net.places[:5]],
        "square": pixels(net.square),
        "means": [float(net.mean[c]) for c in classes],
        "agreeing": sum(int(vote.argmax()) == classes[0] for vote in net.votes),
    }


def _labelled(net: Explained, probabilities: np.ndarray) -> list[tuple[Any, float]]:
    return [(net.named(c), float(probabilities[c])) for c in net.top(probabilities)]


def view_name(i: int, place: View) -> str:
    """Return the name of the i-th of the ten views."""
    name = ("upper left", "upper right", "lower left", "lower right", "centre")[i % 5]
    return f"{name}, mirrored" if place.mirrored else name


def _cut(square: np.ndarray, place: View, side: int) -> np.ndarray:
    """Return a view of the square as an image uint8 [side, side, 3] RGB."""
    patch = square[place.row : place.row + side, place.column : place.column + side]
    return patch[:, ::-1] if place.mirrored else patch
