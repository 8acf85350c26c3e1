"""In which classes a candidate's first guesses differ from the reference's, and whether they became wrong or right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alexnet_infer.evaluation.tally import Tally
from alexnet_infer.manifest import ClassName


@dataclass(frozen=True, kw_only=True)
class ClassFlips:
    """The readable images of one class whose first guess differs between two nets."""

    wnid: str
    name: str
    images: int
    """Readable images of the class."""
    flips: int
    became_wrong: int
    """Flips that only the candidate got wrong."""
    became_right: int
    """Flips that only the reference got wrong. The other flips are from one wrong guess to another."""


def flips_by_class(reference: Tally, candidate: Tally, classes: Sequence[ClassName]) -> tuple[ClassFlips, ...]:
    """Return the classes with flips, those with the most first, then in the order of `classes`.

    Both tallies are of the same images in the same order. `classes` are those of the data.
    """
    labels, before, after = reference.records["label"], reference.records["guess"], candidate.records["guess"]
    read, wrong_before, wrong_after = before >= 0, reference.wrong(1), candidate.wrong(1)
    masks = (read, before != after, ~wrong_before & wrong_after, wrong_before & ~wrong_after)
    counts = np.stack([np.bincount(labels[mask], minlength=len(classes)) for mask in masks], 1).tolist()
    rows = [
        ClassFlips(
            wnid=named.wnid, name=named.name, images=images, flips=flips, became_wrong=worse, became_right=better
        )
        for named, (images, flips, worse, better) in zip(classes, counts, strict=True)
        if flips
    ]
    return tuple(sorted(rows, key=lambda row: -row.flips))
