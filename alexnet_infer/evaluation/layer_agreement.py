"""Compare the layers that an exported file returns with those of the net that it was made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from alexnet_infer.datasets import LabelledImages
from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.evaluation.pictures import pictures
from alexnet_infer.graph.info import Precision
from alexnet_infer.photos import Photo
from alexnet_infer.predict import Net
from alexnet_infer.reading import Unreadable

IMAGES = 8
"""Images whose layers are compared. A wrong layer differs on the first."""

TOLERANCES: Mapping[Precision, float] = {"fp32": 1e-4, "fp16": 0.01, "int8": 0.4}
"""The largest difference that rounding may cause.

The default net's layers differ by at most 2e-7, 5e-4 and 0.03 on the example photos. Another layer, or the value before
an activation instead of the one after it, differs by about 1 or has another shape."""


@dataclass(frozen=True, kw_only=True)
class LayerAgreement:
    """The agreement of one layer of two nets."""

    layer: str
    difference: float
    """The root of the mean squared difference of all values, divided by the root of the reference's mean square."""

    def within(self, tolerance: float) -> bool:
        """Whether the difference is at most `tolerance`."""
        return self.difference <= tolerance


def compare_layers(
    reference: Net, candidate: Net, images: Iterable[Photo] | LabelledImages, limit: int | None = None
) -> tuple[list[LayerAgreement], list[Unreadable]]:
    """Compare the layers that both nets were loaded with on IMAGES of `images`, or of a sample of `limit`.

    Both nets average the same views. Returns the agreement of each layer, and the images that can't be read among all
    of them: each is read, so that none is passed over silently. Raises UnreadableInputError if none can be read.
    """
    squares: list[np.ndarray] = []
    unreadable: list[Unreadable] = []
    for picture in pictures(images, {reference.rescaling}, limit):
        if picture.error:
            unreadable.append(Unreadable(image=picture.name, reason=picture.error))
        elif len(squares) < IMAGES:
            squares.append(picture.squares[reference.rescaling])
    if not squares:
        first = f" ({unreadable[0].image}: {unreadable[0].reason})" if unreadable else ""
        raise UnreadableInputError(f"no image could be read{first}: expected at least one to compare the layers on")
    expected, actual = reference.activations(squares), candidate.activations(squares)
    agreements = [LayerAgreement(layer=name, difference=_difference(actual[name], expected[name])) for name in expected]
    return agreements, unreadable


def _difference(actual: np.ndarray, expected: np.ndarray) -> float:
    size = float(np.linalg.norm(expected.astype(np.float64)))
    return float(np.linalg.norm(actual.astype(np.float64) - expected)) / (size or 1.0)
