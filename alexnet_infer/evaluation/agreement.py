"""Compare the probabilities of nets with those of a reference: exported files and their source, or any model files.

All nets see the same real images. Noise is not sufficient: it drives every unit to about the same value, so a net that
is wrong only on real photos would pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from alexnet_infer.datasets import LabelledImages
from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.evaluation.differences import Count, Differences
from alexnet_infer.evaluation.flips import ClassFlips, flips_by_class
from alexnet_infer.evaluation.pictures import pictures
from alexnet_infer.evaluation.statistics import Pairing
from alexnet_infer.evaluation.tally import Tally
from alexnet_infer.graph.info import Precision
from alexnet_infer.max_drop import Metric
from alexnet_infer.metrics import mean_probabilities
from alexnet_infer.photos import Photo
from alexnet_infer.predict import Net
from alexnet_infer.preprocess import Views
from alexnet_infer.reading import PHOTOS_PER_CALL, Unreadable, batches

TOLERANCES: Mapping[Precision, float] = {"fp32": 1e-5, "fp16": 0.01, "int8": 0.15}
"""The largest probability difference that rounding may cause.

An error d of a logit changes its probability by at most d / 4.

- fp32: a different order of summation changes a logit by a few times 2^-24 of its value. For logits of 20 this gives
  1e-5. The default net differs by 9e-8.
- fp16: every activation is rounded to 2^-11 of its value. This is 0.01 for a logit of 20, and the earlier layers add as
  much again. The default net differs by 0.0008 if every activation is rounded (5,000 images, ten views).
- int8: a step is 1/127 of a layer's largest activation, so logits change by a few tenths. On 300 images a half-width
  net differed by 0.03 with signed activations and by 0.09 with unsigned ones.

A wrong LRN constant or channel order changes probabilities by more than any of these on some photo.
"""


class MeanNet(Net):
    """The equal-weight mean of nets that take the same squares, like an exported file with several nets.

    Views, backend and manifest are those of the first net. The name joins the names of all nets.
    """

    def __init__(self, nets: Sequence[Net]) -> None:
        name = " + ".join(net.manifest.name for net in nets)
        super().__init__(msgspec.structs.replace(nets[0].manifest, name=name), nets[0].backend, nets[0].views)
        self._nets = nets

    def probabilities(self, squares: Sequence[np.ndarray]) -> np.ndarray:
        """Return the mean probabilities float32 [N, classes] of N squares uint8 [S, S, 3] RGB."""
        return mean_probabilities([net.probabilities(squares) for net in self._nets])


@dataclass(frozen=True, kw_only=True)
class Party:
    """One of the two nets: its name and its backend."""

    net: str
    backend: str


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The agreement of two nets on `images` images, unreadable ones included."""

    reference: Party
    candidate: Party
    views: Views
    images: int
    classes: int
    largest: float
    """The largest |p - q| over all images and classes."""
    largest_image: str
    """The name of the image with the largest difference."""
    mean: float
    """The mean |p - q| over all images and classes. With C classes it is at most 2 / C, since probabilities add up to
    1."""
    flips: int
    """Images whose first guess differs. If probabilities are equal, the lower class index ranks first."""
    near_ties: int
    """Flips for which the reference's probabilities of the two guesses differ by at most `differences.NEAR_TIE`."""
    calibration_images: int | None = 0
    """Images among the `counted` ones that the int8 ranges of one of the nets were measured on, where the nets may
    agree better than on others. None if a net is int8 and its file does not name the images."""
    judged: int | None = None
    """Images that errors count: those that can be read and are of a class of the nets. On others both nets are wrong
    for sure, which says nothing of their difference and would only narrow its interval. None without labels."""
    top1: Pairing | None = None
    """The candidate's errors (first) against the reference's on those images, with the score interval. None if there
    are none."""
    top5: Pairing | None = None
    flips_by_class: tuple[ClassFlips, ...] | None = None
    """The classes whose images have flips, those with the most first. None without labels."""
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def pairs(self) -> dict[Metric, Pairing]:
        """The errors by metric. Empty without labels, or if no image is judged."""
        pairs: dict[Metric, Pairing | None] = {"top1": self.top1, "top5": self.top5}
        return {metric: pair for metric, pair in pairs.items() if pair is not None}

    @property
    def counted(self) -> int:
        """The number of images that errors count or, without labels, of readable images."""
        return self.compared if self.judged is None else self.judged

    @property
    def compared(self) -> int:
        """The number of readable images."""
        return self.images - len(self.unreadable)

    def within(self, tolerance: float) -> bool:
        """Return whether no probability differs by more than `tolerance`."""
        return self.largest <= tolerance

    def to_json(self) -> dict[str, Any]:
        """Return the agreement as objects that `json.dumps` accepts."""
        return dataclasses.asdict(self) | {"top1": _json(self.top1), "top5": _json(self.top5)}


def _json(pair: Pairing | None) -> dict[str, Any] | None:
    if pair is None:
        return None
    changes = pair.to_json(reference_only_wrong=pair.second_only, candidate_only_wrong=pair.first_only)
    return {"reference": dataclasses.asdict(pair.second), "candidate": dataclasses.asdict(pair.first), **changes}


def default_tolerance(*nets: Net) -> float:
    """Return the tolerance of the coarsest precision among the nets' backends."""
    return max(TOLERANCES[net.backend.precision] for net in nets)


def check_tolerance(value: float) -> float:
    """Return `value`. Raises UsageError if it can't be a difference of probabilities."""
    if not 0 <= value <= 1:  # also refuses NaN
        raise UsageError(f"--tolerance {value}: expected a difference of probabilities, from 0 to 1")
    return value


def compare(
    reference: Net,
    candidate: Net,
    images: Iterable[Photo] | LabelledImages,
    *,
    limit: int | None = None,
    on_images: Callable[[int], None] = lambda count: None,
) -> Agreement:
    """Run both nets on the same images and compare their probabilities, as `compare_all` does."""
    (agreement,) = compare_all(reference, [candidate], images, limit=limit, on_images=on_images)
    return agreement


def compare_all(
    reference: Net,
    candidates: Sequence[Net],
    images: Iterable[Photo] | LabelledImages,
    *,
    limit: int | None = None,
    on_images: Callable[[int], None] = lambda count: None,
) -> list[Agreement]:
    """Run all nets on the same images, and compare the probabilities of each candidate with those of the reference.

    Images are read once, and the reference runs once. Each net gets the square that its own preprocessing makes from an
    image. A photo counts as five images, the full photo and its quarters, so that a few photos suffice. A labelled set
    is used in full, or as a stratified sample of `limit` images. Memory does not grow with the number of images, except
    for a few bytes per labelled image and net. `on_images` is called with the number of images just processed.

    Raises UsageError if the nets differ in classes or views, if the nets and the data share no class, or if `limit` is
    out of range or given for photos. Raises ModelFileError if a net's outputs are not probabilities, for example NaN.
    Raises UnreadableInputError if no image can be read.
    """
    classes = images.classes if isinstance(images, LabelledImages) else ()
    count = Count(reference, candidates, classes)
    rescalings = {net.rescaling for net in (reference, *candidates)}
    for batch in batches(pictures(images, rescalings, limit, digests=count.needs_digests), PHOTOS_PER_CALL):
        count.add(batch)
        on_images(len(batch))
    if len(count.unreadable) == count.images:
        first = "".join(f"; the first is {image.image}: {image.reason}" for image in count.unreadable[:1])
        raise UnreadableInputError(f"none of the {count.images} images can be read{first}")
    return [_agreement(reference, count, differences) for differences in count.candidates]


def _agreement(reference: Net, count: Count, differences: Differences) -> Agreement:
    nets = (reference, differences.net)
    parties = [Party(net=net.manifest.name, backend=net.backend.description) for net in nets]
    outputs = len(reference.manifest.classes)
    return Agreement(
        reference=parties[0],
        candidate=parties[1],
        views=reference.views,
        images=count.images,
        classes=outputs,
        largest=differences.largest,
        largest_image=differences.largest_image,
        mean=differences.total / ((count.images - len(count.unreadable)) * outputs),
        flips=differences.flips,
        near_ties=differences.near_ties,
        calibration_images=differences.calibration_images,
        judged=None if count.tally is None else int(count.tally.judged.sum()),
        top1=_pairing(count.tally, differences.tally, 1),
        top5=_pairing(count.tally, differences.tally, 5),
        flips_by_class=_flips_by_class(count, differences),
        unreadable=tuple(count.unreadable),
    )


def _flips_by_class(count: Count, differences: Differences) -> tuple[ClassFlips, ...] | None:
    if count.tally is None or differences.tally is None:
        return None
    return flips_by_class(count.tally, differences.tally, count.classes)


def _pairing(reference: Tally | None, candidate: Tally | None, k: int) -> Pairing | None:
    if reference is None or candidate is None or not (judged := reference.judged).any():
        return None
    return Pairing.of(candidate.wrong(k)[judged], reference.wrong(k)[judged], interval="score")
