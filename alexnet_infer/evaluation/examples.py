"""The images in a report: the most confident mistakes and a random sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alexnet_infer.datasets import LabelledImages
from alexnet_infer.decode import read_square
from alexnet_infer.evaluation.assemble import Shards, outputs_of, together
from alexnet_infer.manifest import ClassName
from alexnet_infer.metrics import mean_probabilities
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
    nets: Sequence[Shards], data: LabelledImages, positions: Sequence[int], preprocessing: Preprocessing, seed: int = 0
) -> Examples:
    """Choose images from complete predictions for the images at `positions` of `data`, and read them again.

    Unreadable images are not chosen. The same `seed` gives the same sample. Raises the errors of `data.at`.
    """
    about = nets[0][0].about
    outputs = outputs_of(about.net)
    wnids = [wnid for wnid, _ in about.data["classes"]]
    confidence, wrong, read = [], [], []
    for rows, probabilities in together(nets):
        best = mean_probabilities(probabilities)
        guesses = best.argmax(1)
        confidence.append(best.max(1))
        wrong += [outputs[guess].wnid != wnids[row.label] for row, guess in zip(rows, guesses, strict=True)]
        read += [row.error is None for row in rows]
    mistaken = np.flatnonzero(np.array(wrong) & np.array(read))
    order = np.argsort(-np.concatenate(confidence)[mistaken], kind="stable")
    mistakes = mistaken[order[:SHOWN]].tolist()
    readable = np.flatnonzero(read)
    drawn = np.random.default_rng(seed).choice(readable, min(SHOWN, len(readable)), replace=False).tolist()
    shown = _read(sorted({*mistakes, *drawn}), nets, outputs, data, positions, preprocessing)
    return Examples(mistakes=tuple(shown[i] for i in mistakes), sample=tuple(shown[i] for i in sorted(drawn)))


def _read(
    places: Sequence[int],
    nets: Sequence[Shards],
    outputs: Sequence[ClassName],
    data: LabelledImages,
    positions: Sequence[int],
    preprocessing: Preprocessing,
) -> dict[int, Shown]:
    """Read the images at `places`, which are indices into `positions`. The keys of the result are the places."""
    images = dict(zip(places, data.at([positions[place] for place in places]), strict=True))
    shown, begin = {}, 0
    for rows, probabilities in together(nets):
        best = mean_probabilities(probabilities)
        for place in (place for place in places if begin <= place < begin + len(rows)):
            example, scores, row = images[place], best[place - begin], rows[place - begin]
            order = np.argsort(-scores, kind="stable")[:GUESSES]  # stable: ties go to the lower index
            shown[place] = Shown(
                name=row.name,
                square=read_square(example.data, name=row.name, rescaling=preprocessing.rescaling, apply_exif=False),
                label=data.classes[example.label],
                guesses=tuple((outputs[guess], float(scores[guess])) for guess in order),
            )
        begin += len(rows)
    return shown
