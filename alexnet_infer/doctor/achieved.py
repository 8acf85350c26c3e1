"""How often a net is right on the validation data of its own training, from the best source at hand."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from alexnet_infer import strict_json
from alexnet_infer.errors import ModelFileError, SpecError, one_line
from alexnet_infer.files import MAX_JSON_BYTES, along, read_limited
from alexnet_infer.predict import Net
from alexnet_infer.strict_json import Record, Sha256, Text, whole

RESULTS = "recognition.json"
"""The bundled nets' results for each class, made by `python benchmarks/label_trial.py measure`."""

_PRIOR = 2
"""The net's mean accuracy counts as much as this many images of a class: with 25 images, a rate is uncertain."""
_SPREAD = 0.2
"""Standard deviation of a net's accuracy over the classes, if only its mean is known: 0.19 for the bundled nets."""

_Count = Annotated[int, whole(0, 2**31)]


class ClassResults(Record, kw_only=True):
    """A net's results for each class, in the order of its outputs: `right` of `images` are classified correctly.

    Raises SpecError unless there is one count per class, and each `right` is at most its `images`.
    """

    net: Text
    sha256: Sha256
    data: Text
    views: Text
    images: tuple[_Count, ...]
    right: tuple[_Count, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.images) != len(self.right) or any(r > i for r, i in zip(self.right, self.images, strict=True)):
            raise SpecError("right, images: expected one count per class, and right at most images")
        if not sum(self.images):
            raise SpecError("images: expected at least 1")


@dataclass(frozen=True, kw_only=True)
class Achieved:
    """The probability that a net is right about an image of a class: mean `rates` and its `uncertainty`, float [K].

    `source` says where the figures come from, in words that follow "the net's". `calibrated`: whether the net is known
    not to be far too bold in its probabilities, as measured on the same images.
    """

    rates: np.ndarray
    uncertainty: np.ndarray
    source: str
    calibrated: bool

    def expect(self, classes: np.ndarray) -> tuple[float, float]:
        """Mean and standard deviation of the number of right guesses on images of these `classes`, int [N]."""
        rates, counts = self.rates[classes], np.bincount(classes, minlength=len(self.rates))
        variance = (rates * (1 - rates)).sum() + ((counts * self.uncertainty) ** 2).sum()
        return float(rates.sum()), float(np.sqrt(variance))


def achieved(net: Net) -> Achieved | None:
    """Return what `net` achieves: per class if it is a bundled net, else its mean error if the model file states it.

    None if nothing is known. Raises ModelFileError if the bundled results can't be read.
    """
    count = len(net.classes)
    members = net.opened.members if net.opened is not None else []
    results = class_results()
    if len(members) == 1 and members[0] in results and len(results[members[0]].images) == count:
        return from_counts(results[members[0]].right, results[members[0]].images, "own validation results")
    error = _stated(net)
    if error is None:
        return None
    return Achieved(
        rates=np.full(count, 1 - error),
        uncertainty=np.full(count, _SPREAD),
        source="error as stated in its file",
        calibrated=False,
    )


def from_counts(right: Sequence[int], images: Sequence[int], source: str) -> Achieved:
    """Return what a calibrated net achieves that classified `right` of `images` correctly, both counts per class."""
    right, images = np.array(right, float), np.array(images, float)
    rates = (right + _PRIOR * right.sum() / images.sum()) / (images + _PRIOR)
    uncertainty = np.sqrt(rates * (1 - rates) / (images + _PRIOR + 1))
    return Achieved(rates=rates, uncertainty=uncertainty, source=source, calibrated=True)


def _stated(net: Net) -> float | None:
    """The top-1 error in the net's manifest, from 0 to 1: measured by the trainer, or published for a pulled net."""
    provenance = net.manifest.provenance
    measured = {error.views: error.top1 / error.images for error in provenance.errors}
    if measured:
        return measured.get(net.views, next(iter(measured.values())))
    published = provenance.recipe.get("published_error")
    top1 = published.get("top1") if isinstance(published, dict) else None
    return top1 / 100 if isinstance(top1, int | float) and 0 <= top1 <= 100 else None


@functools.cache
def class_results() -> dict[str, ClassResults]:
    """Return the bundled nets' results by the SHA-256 of the model file. Raises ModelFileError if they are invalid."""
    path = along(RESULTS)
    try:
        _, content = strict_json.parse_format(read_limited(path, MAX_JSON_BYTES), RESULTS, 1)
        nets = strict_json.convert(content.get("nets"), tuple[ClassResults, ...], "nets")
    except OSError as error:
        raise ModelFileError(f"{path}: can't be read ({error.strerror or error}); reinstall alexnet-infer") from None
    except SpecError as error:
        raise ModelFileError(f"{path}: not results of nets ({one_line(error)}); reinstall alexnet-infer") from None
    return {result.sha256: result for result in nets}
