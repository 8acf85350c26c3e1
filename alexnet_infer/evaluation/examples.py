"""The images in a report: the most confident mistakes and a random sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from alexnet_infer.datasets import LabelledImages
from alexnet_infer.evaluation.assemble import Shards, outputs_of, together
from alexnet_infer.evaluation.predictions import ImageRow
from alexnet_infer.manifest import ClassName
from alexnet_infer.metrics import highest, mean_probabilities
from alexnet_infer.preprocess import Preprocessing

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


def choose_examples(
    nets: Sequence[Shards], data: LabelledImages, positions: Sequence[int], preprocessing: Preprocessing
) -> Examples:
    """Choose images from complete predictions for the images at `positions` of `data`, and read them again.

    Unreadable images are not chosen. Equal predictions give the same sample. Raises the errors of `data.at`.
    """
    about = nets[0][0].about
    outputs = outputs_of(about.net)
    wnids = [wnid for wnid, _ in about.data["classes"]]
    confidence, wrong, read = [], [], []
    for rows, best in _averaged(nets):
        confidence.append(best.max(1))
        wrong += [outputs[guess].wnid != wnids[row.label] for row, guess in zip(rows, best.argmax(1), strict=True)]
        read += [row.error is None for row in rows]
    mistaken = np.flatnonzero(np.array(wrong) & np.array(read))
    mistakes = mistaken[highest(np.concatenate(confidence)[mistaken], SHOWN)].tolist()
    readable = np.flatnonzero(read)
    drawn = sorted(np.random.default_rng(0).choice(readable, min(SHOWN, len(readable)), replace=False).tolist())
    places = sorted({*mistakes, *drawn})
    examples = data.at([positions[place] for place in places])
    shown = {
        place: Shown(
            name=row.name,
            square=example.square(preprocessing.rescaling),
            label=data.classes[example.label],
            guesses=tuple((outputs[guess], float(scores[guess])) for guess in highest(scores, GUESSES)),
        )
        for place, example, (row, scores) in zip(places, examples, _at(places, nets), strict=True)
    }
    return Examples(mistakes=tuple(shown[i] for i in mistakes), sample=tuple(shown[i] for i in drawn))


def _averaged(nets: Sequence[Shards]) -> Iterator[tuple[list[ImageRow], np.ndarray]]:
    """Yield the images in order, B at a time, with the mean probabilities of the nets, float32 [B, classes]."""
    for rows, probabilities in together(nets):
        yield rows, mean_probabilities(probabilities)


def _at(places: Sequence[int], nets: Sequence[Shards]) -> Iterator[tuple[ImageRow, np.ndarray]]:
    """Yield the images at `places`, in ascending order, with their mean probabilities [classes]."""
    begin = 0
    for rows, best in _averaged(nets):
        yield from ((rows[i - begin], best[i - begin]) for i in places if begin <= i < begin + len(rows))
        begin += len(rows)
