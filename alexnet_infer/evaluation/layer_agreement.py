"""Compare the layers of two nets on the same images: how far apart they are, and in which layer that begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from alexnet_infer.datasets import LabelledImages
from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.evaluation.pictures import Picture, pictures
from alexnet_infer.graph.info import Precision
from alexnet_infer.photos import Photo
from alexnet_infer.preprocess import Rescaling
from alexnet_infer.reading import Unreadable, batches

IMAGES = 8
"""Images on which `export` compares the layers that a file returns. A wrong layer differs on the first."""

TOLERANCES: Mapping[Precision, float] = {"fp32": 1e-4, "fp16": 0.01, "int8": 0.4}
"""The largest difference that rounding may cause.

The default net's layers differ by at most 2e-7, 5e-4 and 0.03 on the example photos. Another layer, or the value before
an activation instead of the one after it, differs by about 1 or has another shape."""


class Layered(Protocol):
    """A net that gives the values of its layers: a `Net` loaded with them, or `InnerLayers`."""

    @property
    def rescaling(self) -> Rescaling:
        """How an image becomes a square."""
        ...

    def activations(self, squares: Sequence[np.ndarray]) -> Mapping[str, np.ndarray]:
        """Return the values of each layer, by name, for squares uint8 [S, S, 3] RGB."""
        ...


@dataclass(frozen=True, kw_only=True)
class LayerAgreement:
    """The agreement of one layer of two nets."""

    layer: str
    position: int
    """From 1, in the order in which the layers are computed."""
    difference: float
    """The root of the mean squared difference of all values, divided by the root of the reference's mean square.

    Infinity if only the reference's values are all 0, or if a value is not finite."""
    cosine: float | None
    """Of the angle between the two vectors of all values. None if one of them is 0 or not finite."""

    def within(self, tolerance: float) -> bool:
        """Whether the difference is at most `tolerance`."""
        return self.difference <= tolerance

    def to_json(self) -> dict[str, Any]:
        """Return the agreement as objects that `json.dumps` accepts. An infinite difference is None."""
        return asdict(self) | {"difference": self.difference if math.isfinite(self.difference) else None}


@dataclass(frozen=True, kw_only=True)
class LayersCompared:
    """The agreement of all layers, in their order, on `images` images, unreadable ones included."""

    layers: tuple[LayerAgreement, ...]
    images: int
    unreadable: tuple[Unreadable, ...]

    @property
    def worst_first(self) -> list[LayerAgreement]:
        """The layers by their difference, the largest first."""
        return sorted(self.layers, key=lambda layer: -layer.difference)


def compare_layers(
    reference: Layered,
    candidate: Layered,
    images: Iterable[Photo] | LabelledImages,
    layers: Sequence[str],
    limit: int | None = None,
    *,
    most: int | None = None,
    at_once: int = 1,
    on_images: Callable[[int], None] = lambda count: None,
) -> LayersCompared:
    """Compare `layers` of two nets on `images`, or on a stratified sample of `limit` labelled images.

    With `most`, only the first so many readable images are compared; the others are read, so that none is passed over
    silently. `at_once` images are run at a time, and memory does not grow with their number. `on_images` is called with
    the number of images just processed.

    Raises UnreadableInputError if no image can be read, and the errors of `pictures`.
    """
    sums = {name: _Sums() for name in layers}
    unreadable: list[Unreadable] = []
    count = compared = 0
    for batch in batches(pictures(images, {reference.rescaling, candidate.rescaling}, limit), at_once):
        count += len(batch)
        unreadable += [Unreadable(image=picture.name, reason=picture.error) for picture in batch if picture.error]
        readable = [picture for picture in batch if not picture.error]
        readable = readable[: None if most is None else most - compared]
        if readable:
            compared += len(readable)
            expected, actual = (net.activations(_squares(net, readable)) for net in (reference, candidate))
            for name, values in sums.items():
                values.add(expected[name], actual[name])
        on_images(len(batch))
    if not compared:
        first = f" ({unreadable[0].image}: {unreadable[0].reason})" if unreadable else ""
        raise UnreadableInputError(f"no image could be read{first}: expected at least one to compare the layers on")
    agreements = (values.agreement(name, i) for i, (name, values) in enumerate(sums.items(), 1))
    return LayersCompared(layers=tuple(agreements), images=count, unreadable=tuple(unreadable))


def _squares(net: Layered, readable: Sequence[Picture]) -> list[np.ndarray]:
    return [picture.squares[net.rescaling] for picture in readable]


class _Sums:
    """Sums over all values of a layer: of squares of the reference, the candidate and their difference; of products."""

    def __init__(self) -> None:
        self.reference = self.candidate = self.difference = self.product = 0.0

    def add(self, reference: np.ndarray, candidate: np.ndarray) -> None:
        a, b = reference.astype(np.float64).ravel(), candidate.astype(np.float64).ravel()
        with np.errstate(all="ignore"):  # a float16 file may overflow
            difference = b - a
            self.reference += _dot(a, a)
            self.candidate += _dot(b, b)
            self.difference += _dot(difference, difference)
            self.product += _dot(a, b)

    def agreement(self, layer: str, position: int) -> LayerAgreement:
        difference, cosine = math.inf, None
        if math.isfinite(self.difference):
            if self.reference or not self.difference:
                difference = math.sqrt(self.difference / (self.reference or 1.0))
            if self.reference and self.candidate:
                cosine = self.product / math.sqrt(self.reference) / math.sqrt(self.candidate)
                cosine = max(-1.0, min(1.0, cosine))
        return LayerAgreement(layer=layer, position=position, difference=difference, cosine=cosine)


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    """Return the product of two vectors, without BLAS, whose threads would wait for those that run the net."""
    return float(np.einsum("i,i->", a, b))
