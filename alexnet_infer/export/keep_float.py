"""Choose the layers that an 8-bit file keeps in float: as few as the allowed drop in accuracy permits.

A layer's share in the error is measured on the float net with only that layer quantized. Rounding errors of different
layers are nearly independent, so their squares add up, and keeping the layer with the largest share in float removes
the most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_infer.backends.inner import session_of
from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.export.quantize import Calibrated, layers
from alexnet_infer.layers import PROBABILITIES
from alexnet_infer.max_drop import Metric
from alexnet_infer.metrics import classes_ahead, highest
from alexnet_infer.predict import Net
from alexnet_infer.progress import counting

if TYPE_CHECKING:
    import onnx

Inputs = tuple[np.ndarray, np.ndarray]
"""The model's inputs for a few images, and the images' labels int [N] in the net's order. A label is -1 if the net
lacks the class, or if images have no labels."""


@dataclass(frozen=True, kw_only=True)
class LayerShare:
    """A layer's share in the error of the net with all layers quantized."""

    layer: str
    """The name of its weights, which begins with the net's if there are several."""
    share: float
    """From 0 to 1: the mean squared change of the probabilities with only this layer quantized, divided by the sum of
    these over all layers."""
    kept: bool
    """Whether it stays in float."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The drop in accuracy, in points, with a number of layers in float, the largest shares first."""

    kept: int
    top1: float
    """With labels, the increase of the error. Without, the images whose first guess changes: an upper limit of it."""
    top5: float
    """The same for the five first guesses, whatever their order."""

    def within(self, limits: Mapping[Metric, float]) -> bool:
        """Whether no limit, in points, is exceeded."""
        drops = {"top1": self.top1, "top5": self.top5}
        return all(drops[metric] <= points for metric, points in limits.items())


@dataclass(frozen=True, kw_only=True)
class FloatLayers:
    """The choice, and what it was made on."""

    layers: tuple[LayerShare, ...]
    """The largest share first."""
    trials: tuple[Trial, ...]
    """With 0 layers in float, 1, 2 and so on. The last is within the limits."""
    limits: Mapping[Metric, float]
    """The largest allowed drop, in points."""
    images: int
    judged: int
    """The images that the drop counts: those of the net's classes or, without labels, all."""
    labelled: bool
    """Whether there are images with labels of the net's classes."""

    @property
    def kept(self) -> tuple[str, ...]:
        """The layers that stay in float, the largest share first."""
        return tuple(layer.layer for layer in self.layers if layer.kept)

    def to_json(self) -> dict[str, Any]:
        """Return the choice as objects that `json.dumps` accepts."""
        return asdict(self)


def choose_float_layers(
    calibrated: Calibrated,
    read: Callable[[], Iterator[Inputs]],
    limits: Mapping[Metric, float],
    *,
    images: int,
    labelled: bool,
) -> FloatLayers:
    """Return the fewest layers, by their share in the error, with which the drop is within `limits`.

    Each call of `read` yields the same `images` images again. The probabilities of the float net are kept in memory: 4
    bytes per image and class. Raises UnreadableInputError if the images change.
    """
    names = list(layers(calibrated.model))
    with counting("measuring layers", images * (1 + len(names))) as advance:
        reference, labels = _outputs(calibrated.model, read, images, advance)
        labelled = labelled and bool((labels >= 0).any())
        errors = {}
        for name in names:
            only = calibrated.quantized([other for other in names if other != name])
            probabilities, _ = _outputs(only, read, images, advance)
            errors[name] = float(np.square(probabilities - reference).sum(1, dtype=np.float64).mean())
    ranked = sorted(names, key=lambda name: -errors[name])
    trials: list[Trial] = []
    while not (trials and trials[-1].within(limits)):
        kept = ranked[: len(trials)]
        with counting(f"trying {len(kept)} layers in float", images) as advance:
            probabilities, _ = _outputs(calibrated.quantized(kept), read, images, advance)
        trials.append(_trial(len(kept), reference, probabilities, labels if labelled else None))
    total = sum(errors.values()) or 1.0
    judged = int((labels >= 0).sum()) if labelled else images
    return FloatLayers(
        layers=tuple(LayerShare(layer=name, share=errors[name] / total, kept=name in kept) for name in ranked),
        trials=tuple(trials),
        limits=limits,
        images=images,
        judged=judged,
        labelled=labelled,
    )


def _outputs(
    model: onnx.ModelProto, read: Callable[[], Iterator[Inputs]], images: int, advance: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities [N, classes] of all images, averaged over their views, and the labels [N]."""
    session = session_of(model, [PROBABILITIES])
    (source,) = (node.name for node in session.get_inputs())
    probabilities, labels = [], []
    for inputs, some in read():
        (scores,) = session.run([PROBABILITIES], {source: inputs})
        probabilities.append(Net.mean_over_views(scores, len(some)))
        labels.append(some)
        advance(len(some))
    if sum(map(len, labels)) != images:
        raise UnreadableInputError("--calibrate: its images have changed since they were first read; export again")
    return np.concatenate(probabilities), np.concatenate(labels)


def _trial(kept: int, reference: np.ndarray, probabilities: np.ndarray, labels: np.ndarray | None) -> Trial:
    """Return the drop from the probabilities `reference` to `probabilities`, both [N, classes].

    Images of other classes (label -1) are left out: both nets are wrong on them, which says nothing of the drop.
    """
    if labels is not None:
        known = labels >= 0
        reference, probabilities, labels = reference[known], probabilities[known], labels[known]
    changes = []
    for k in (1, 5):
        if labels is None:
            first, second = (np.sort(highest(scores, k), axis=1) for scores in (reference, probabilities))
            changes.append(int((first != second).any(1).sum()))
        else:
            before, after = (_wrong(scores, labels, k) for scores in (reference, probabilities))
            changes.append(after - before)
    top1, top5 = (100 * change / len(reference) for change in changes)
    return Trial(kept=kept, top1=top1, top5=top5)


def _wrong(scores: np.ndarray, labels: np.ndarray, k: int) -> int:
    return int((classes_ahead(scores, labels) >= k).sum())
