"""The images in a report: the most confident mistakes and a random sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from alexnet_infer.datasets import LabelledImages
from alexnet_infer.evaluation.predictions import ImageRow
from alexnet_infer.evaluation.scoring import Scores
from alexnet_infer.manifest import ClassName
from alexnet_infer.metrics import highest
from alexnet_infer.preprocess import Rescaling

SHOWN = 24
"""The largest number of images of each kind."""

GUESSES = 5
"""Guesses per image."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One image with the guesses of the ensemble or of the only net."""

    name: str
    square: np.ndarray
    """uint8 [S, S, 3] RGB, from which the net's patches are cut."""
    label: ClassName
    guesses: tuple[tuple[ClassName, float], ...]
    """The five most likely classes with their probabilities, the most likely first."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The images of a report."""

    mistakes: tuple[Shown, ...]
    """Images whose first guess is wrong, the most confident first."""
    sample: tuple[Shown, ...]
    """Images drawn at random, in the set's order."""
    as_seen: bool = True
    """Whether the squares are those that the net sees."""


def choose_examples(
    scores: Scores, data: LabelledImages, positions: Sequence[int], rescaling: Rescaling | None = None
) -> Examples:
    """Choose images from complete predictions for the images at `positions` of `data`, and read them again.

    `rescaling` makes the squares that the net sees. If it isn't known, they are central squares of 256 x 256.
    Unreadable images are not chosen. Equal predictions give the same sample. Raises the errors of `data.at`.
    """
    confidence, wrong, read, at = [], [], [], []
    for chunk in scores.chunks():
        best = chunk.mean
        confidence.append(best.max(1))
        wrong.append((best.argmax(1)[:, None] != chunk.right).all(1))
        read += [row.error is None for row in chunk.rows]
        at += [positions[place] for place in chunk.places]
    confidence, wrong = np.concatenate(confidence), np.concatenate(wrong)
    mistaken = np.flatnonzero(wrong & np.array(read))
    mistakes = mistaken[highest(confidence[mistaken], SHOWN)].tolist()
    readable = np.flatnonzero(read)
    drawn = sorted(np.random.default_rng(0).choice(readable, min(SHOWN, len(readable)), replace=False).tolist())
    places = sorted({*mistakes, *drawn})
    examples = data.at([at[place] for place in places])
    shown = {
        place: Shown(
            name=row.name,
            square=example.square(rescaling or Rescaling(size=256)),
            label=data.classes[example.label],
            guesses=tuple((scores.outputs[guess], float(values[guess])) for guess in highest(values, GUESSES)),
        )
        for place, example, (row, values) in zip(places, examples, _at(places, scores), strict=True)
    }
    return Examples(
        mistakes=tuple(shown[i] for i in mistakes),
        sample=tuple(shown[i] for i in drawn),
        as_seen=rescaling is not None,
    )


def _at(places: Sequence[int], scores: Scores) -> Iterator[tuple[ImageRow, np.ndarray]]:
    """Yield the scored images at `places`, in ascending order, with their mean probabilities [outputs]."""
    begin = 0
    for chunk in scores.chunks():
        best, end = chunk.mean, begin + len(chunk.rows)
        yield from ((chunk.rows[i - begin], best[i - begin]) for i in places if begin <= i < end)
        begin = end
