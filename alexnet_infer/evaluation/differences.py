"""Count how the probabilities of candidates differ from those of a reference, image by image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alexnet_infer.datasets import map_classes
from alexnet_infer.errors import ModelFileError, UsageError
from alexnet_infer.evaluation.pictures import Picture
from alexnet_infer.evaluation.tally import Tally
from alexnet_infer.manifest import ClassName, difference_of_classes
from alexnet_infer.metrics import are_probabilities
from alexnet_infer.predict import Net
from alexnet_infer.reading import Unreadable

NEAR_TIE = 0.01
"""A flip is a near tie if the reference's probabilities of the two nets' first guesses differ by at most this."""


class Differences:
    """The differences of one candidate from the reference over the readable images so far.

    `total` and `largest` are the sum and the maximum of |p - q| over images and classes. `tally` has the candidate's
    results on all images, if they have labels. `calibration` are the digests of the images on which one of the two nets
    was calibrated, of which `calibration_images` came up; both are None if a net's file does not name them. `role` is
    the candidate's name in messages.
    """

    def __init__(self, reference: Net, candidate: Net, role: str, tally: Tally | None) -> None:
        _check_comparable(reference, candidate, role)
        self.net, self.role, self.tally = candidate, role, tally
        self.flips = self.near_ties = 0
        self.total, self.largest, self.largest_image = 0.0, -1.0, ""
        named = [_calibrated_on(net) for net in (reference, candidate)]
        self.calibration = None if None in named else frozenset.union(*named)
        self.calibration_images = None if self.calibration is None else 0

    def add(self, pictures: Sequence[Picture], reference: np.ndarray, candidate: np.ndarray) -> None:
        """Add images and their probabilities [B, classes]."""
        differences = np.abs(reference.astype(np.float64) - candidate)
        self.total += float(differences.sum())
        worst = differences.max(1)
        place = int(worst.argmax())
        if worst[place] > self.largest:
            self.largest, self.largest_image = float(worst[place]), pictures[place].name
        guesses, candidate_guesses = reference.argmax(1), candidate.argmax(1)
        flipped = np.flatnonzero(guesses != candidate_guesses)
        lead = reference[flipped, guesses[flipped]] - reference[flipped, candidate_guesses[flipped]]
        self.flips += len(flipped)
        self.near_ties += int((lead <= NEAR_TIE).sum())

    def find_calibration_images(self, pictures: Sequence[Picture]) -> None:
        """Count the images of calibration among those that errors count or, without labels, among all."""
        if self.calibration:
            self.calibration_images += sum(picture.digest in self.calibration for picture in pictures)


class Count:
    """The counts of one or more candidates over the images so far. With the data's `classes`, errors are counted, too.

    Raises UsageError if a candidate can't be compared with the reference, or if no class of the data is theirs.
    """

    def __init__(self, reference: Net, candidates: Sequence[Net], classes: Sequence[ClassName]) -> None:
        roles = ["candidate"] if len(candidates) == 1 else [f"candidate {i + 1}" for i in range(len(candidates))]
        tallies = [Tally(len(classes)) if classes else None for _ in (reference, *candidates)]
        self._reference, self.tally, self.classes = reference, tallies[0], classes
        self.candidates = [Differences(reference, *its) for its in zip(candidates, roles, tallies[1:], strict=True)]
        self._to_net = np.array(map_classes(classes, reference.manifest.classes)) if classes else None
        self.images = 0
        self.unreadable: list[Unreadable] = []

    @property
    def needs_digests(self) -> bool:
        """Whether pictures need their digests, to be found among those of calibration."""
        return any(differences.calibration for differences in self.candidates)

    def add(self, batch: Sequence[Picture]) -> None:
        """Run all nets on the next images. Raises ModelFileError if outputs are not probabilities."""
        self.images += len(batch)
        for picture in batch:
            if not picture.squares:
                self._add_unreadable(picture)
        if readable := [picture for picture in batch if picture.squares]:
            judged = [picture for picture in readable if self._to_net is None or self._to_net[picture.label] >= 0]
            expected = _probabilities(self._reference, "reference", readable)
            self._score(self.tally, readable, expected)
            for differences in self.candidates:
                values = _probabilities(differences.net, differences.role, readable)
                self._score(differences.tally, readable, values)
                differences.add(readable, expected, values)
                differences.find_calibration_images(judged)

    def _add_unreadable(self, picture: Picture) -> None:
        self.unreadable.append(Unreadable(image=picture.name, reason=picture.error))
        for tally in (self.tally, *(differences.tally for differences in self.candidates)):
            if tally is not None:
                tally.add_unreadable(picture.label)

    def _score(self, tally: Tally | None, pictures: Sequence[Picture], probabilities: np.ndarray) -> None:
        if tally is not None:
            labels = np.array([picture.label for picture in pictures])
            tally.add(probabilities, labels, self._to_net[labels])


def _calibrated_on(net: Net) -> frozenset[str] | None:
    """Return the digests of the images that a net was calibrated on, or None if its file does not name them."""
    opened = net.opened
    if opened is not None and opened.address is not None and opened.sha256 is None:
        return None  # the server may have another net than it says
    info = opened.info if opened is not None else None
    if info is not None and info.calibration is not None:
        return frozenset(info.calibration.images)
    return None if net.backend.precision == "int8" else frozenset()


def _probabilities(net: Net, role: str, pictures: Sequence[Picture]) -> np.ndarray:
    values = net.probabilities([picture.squares[net.rescaling] for picture in pictures])
    net.check_unchanged()  # the figures are those of one net
    assert values.shape == (len(pictures), len(net.manifest.classes)), values.shape
    valid = are_probabilities(values).all(1)
    if not valid.all():
        name = pictures[int((~valid).argmax())].name
        raise ModelFileError(
            f"{name}: the outputs of the {role} ({net.backend.description}) are not probabilities: expected "
            "numbers from 0 to 1; the file is damaged, or its precision is too low for this net: export it as fp32"
        )
    return values


def _check_comparable(reference: Net, candidate: Net, role: str) -> None:
    which = "" if role == "candidate" else f"{role}: "
    if difference := difference_of_classes(reference.manifest.wnids, candidate.manifest.wnids):
        raise UsageError(f"{which}the nets have different classes ({difference}): expected the same, in the same order")
    if reference.views != candidate.views:
        raise UsageError(
            f"{which}one net averages views={reference.views}, the other views={candidate.views}: expected the same; "
            "export again with the same --views, or without --views"
        )
