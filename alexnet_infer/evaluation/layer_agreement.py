"""Compare the layers that an exported file returns with those of the net that it was made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np

from alexnet_infer.datasets import LabelledImages
from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.evaluation.pictures import pictures
from alexnet_infer.graph.info import Precision
from alexnet_infer.photos import Photo
from alexnet_infer.predict import Net

IMAGES = 8
"""Images that are compared, readable ones. A wrong layer differs on the first."""

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
) -> list[LayerAgreement]:
    """Compare the layers that both nets were loaded with on the first IMAGES of `images`, or of a sample of `limit`.

    Both nets average the same views. Raises UnreadableInputError if no image can be read.
    """
    readable = (picture for picture in pictures(images, {reference.rescaling}, limit) if not picture.error)
    squares = [picture.squares[reference.rescaling] for picture in islice(readable, IMAGES)]
    if not squares:
        raise UnreadableInputError("no image could be read: expected at least one to compare the layers on")
    expected, actual = reference.activations(squares), candidate.activations(squares)
    return [LayerAgreement(layer=name, difference=_difference(actual[name], expected[name])) for name in expected]


def _difference(actual: np.ndarray, expected: np.ndarray) -> float:
    size = float(np.linalg.norm(expected.astype(np.float64)))
    return float(np.linalg.norm(actual.astype(np.float64) - expected)) / (size or 1.0)
