"""Compare the probabilities of two nets: an exported file and its source, or any two model files.

Both nets see the same real images. Noise is not sufficient: it drives every unit to about the same value, so a net that
is wrong only on real photos would pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from alexnet_infer.datasets import LabelledImages, map_classes
from alexnet_infer.errors import ModelFileError, UnreadableInputError, UsageError
from alexnet_infer.evaluation.pictures import Picture, pictures
from alexnet_infer.evaluation.statistics import Pairing
from alexnet_infer.evaluation.tally import Tally
from alexnet_infer.graph.info import Precision
from alexnet_infer.manifest import ClassName, difference_of_classes
from alexnet_infer.metrics import are_probabilities, mean_probabilities
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

NEAR_TIE = 0.01
"""A flip is a near tie if the reference's probabilities of the two nets' first guesses differ by at most this."""


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
    """Flips for which the reference's probabilities of the two guesses differ by at most NEAR_TIE."""
    top1: Pairing | None = None
    """The candidate's errors (first) against the reference's. None if the images have no labels."""
    top5: Pairing | None = None
    unreadable: tuple[Unreadable, ...] = ()

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
    """Run both nets on the same images and compare their probabilities.

    Each net gets the square that its own preprocessing makes from an image. A photo counts as five images, the full
    photo and its quarters, so that a few photos suffice. A labelled set is used in full, or as a stratified sample of
    `limit` images. Memory does not grow with the number of images, except for a few bytes per labelled image.
    `on_images` is called with the number of images just processed.

    Raises UsageError if the nets differ in classes or views, if the nets and the data share no class, or if `limit` is
    out of range or given for photos. Raises ModelFileError if a net's outputs are not probabilities, for example NaN.
    Raises UnreadableInputError if no image can be read.
    """
    _check_comparable(reference, candidate)
    count = _Count(reference, candidate, images.classes if isinstance(images, LabelledImages) else ())
    for batch in batches(pictures(images, {reference.rescaling, candidate.rescaling}, limit), PHOTOS_PER_CALL):
        count.add(batch)
        on_images(len(batch))
    return count.agreement()


def _check_comparable(reference: Net, candidate: Net) -> None:
    if difference := difference_of_classes(reference.manifest.wnids, candidate.manifest.wnids):
        raise UsageError(f"the nets have different classes ({difference}): expected the same, in the same order")
    if reference.views != candidate.views:
        raise UsageError(
            f"one net averages views={reference.views}, the other views={candidate.views}: expected the same; export "
            "again with the same --views, or without --views"
        )


class _Count:
    """The counts over the images so far. With the data's `classes`, errors are counted, too."""

    def __init__(self, reference: Net, candidate: Net, classes: Sequence[ClassName]) -> None:
        self._nets = {"reference": reference, "candidate": candidate}
        self._outputs = len(reference.manifest.classes)
        self._to_net = np.array(map_classes(classes, reference.manifest.classes)) if classes else None
        self._tallies = [Tally(len(classes)) for _ in self._nets] if classes else []
        self._images = self._flips = self._near_ties = 0
        self._total, self._largest, self._largest_image = 0.0, -1.0, ""
        self._unreadable: list[Unreadable] = []

    def add(self, batch: Sequence[Picture]) -> None:
        self._images += len(batch)
        for picture in batch:
            if not picture.squares:
                self._unreadable.append(Unreadable(image=picture.name, reason=picture.error))
                for tally in self._tallies:
                    tally.add_unreadable(picture.label)
        if readable := [picture for picture in batch if picture.squares]:
            self._add_readable(readable, *(self._probabilities(role, readable) for role in self._nets))

    def _add_readable(self, pictures: Sequence[Picture], reference: np.ndarray, candidate: np.ndarray) -> None:
        differences = np.abs(reference.astype(np.float64) - candidate)
        self._total += float(differences.sum())
        worst = differences.max(1)
        place = int(worst.argmax())
        if worst[place] > self._largest:
            self._largest, self._largest_image = float(worst[place]), pictures[place].name
        guesses, candidate_guesses = reference.argmax(1), candidate.argmax(1)
        flipped = np.flatnonzero(guesses != candidate_guesses)
        lead = reference[flipped, guesses[flipped]] - reference[flipped, candidate_guesses[flipped]]
        self._flips += len(flipped)
        self._near_ties += int((lead <= NEAR_TIE).sum())
        if self._tallies:
            labels = np.array([picture.label for picture in pictures])
            for tally, values in zip(self._tallies, (reference, candidate), strict=True):
                tally.add(values, labels, self._to_net[labels])

    def _probabilities(self, role: str, pictures: Sequence[Picture]) -> np.ndarray:
        net = self._nets[role]
        values = net.probabilities([picture.squares[net.rescaling] for picture in pictures])
        assert values.shape == (len(pictures), self._outputs), values.shape
        valid = are_probabilities(values).all(1)
        if not valid.all():
            name = pictures[int((~valid).argmax())].name
            raise ModelFileError(
                f"{name}: the outputs of the {role} ({net.backend.description}) are not probabilities: expected "
                "numbers from 0 to 1; the file is damaged, or its precision is too low for this net: export it as fp32"
            )
        return values

    def agreement(self) -> Agreement:
        compared = self._images - len(self._unreadable)
        if not compared:
            first = "".join(f"; the first is {image.image}: {image.reason}" for image in self._unreadable[:1])
            raise UnreadableInputError(f"none of the {self._images} images can be read{first}")
        reference, candidate = (
            Party(net=net.manifest.name, backend=net.backend.description) for net in self._nets.values()
        )
        return Agreement(
            reference=reference,
            candidate=candidate,
            views=self._nets["reference"].views,
            images=self._images,
            classes=self._outputs,
            largest=self._largest,
            largest_image=self._largest_image,
            mean=self._total / (compared * self._outputs),
            flips=self._flips,
            near_ties=self._near_ties,
            top1=self._pairing(1),
            top5=self._pairing(5),
            unreadable=tuple(self._unreadable),
        )

    def _pairing(self, k: int) -> Pairing | None:
        if not self._tallies:
            return None
        reference, candidate = (tally.wrong(k) for tally in self._tallies)
        return Pairing.of(candidate, reference)
