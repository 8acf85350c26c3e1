"""A small evaluation of two nets and their mean, with known errors, for the tests of what is made of it."""

from __future__ import annotations

import numpy as np

from alexnet_infer.artifact import ClassName
from alexnet_infer.evaluation.result import Data, Evaluation, NetFacts, Protocol, Sample, Unreadable, evaluation
from alexnet_infer.evaluation.statistics import Tally

WNIDS = ("n00000001", "n00000002", "n00000003", "n00000004", "n00000005", "n00000006", "n00000007")
NAMES = ("ant, pismire", "bee", "cat", "dog", "eel", "fox", "gnu")
CLASSES = tuple(ClassName(wnid=wnid, name=name) for wnid, name in zip(WNIDS, NAMES, strict=True))

LABELS = (0, 0, 1, 1, 2, 2, 3)
GUESSES = {
    "first": (0, 2, 1, 0, 2, 3, 3),  # wrong: images 1, 3, 5
    "second": (1, 0, 1, 0, 2, 3, 2),  # wrong: images 0, 3, 5, 6
    "mean": (0, 0, 1, 0, 2, 3, 3),  # wrong: images 3, 5
}
"""Best class of each image; then one that can't be read, of class 3, follows."""


def tally(guesses: tuple[int, ...]) -> Tally:
    """Of nets that give 0.6 to their guess and to the last two classes nothing, so that a tie decides the rest."""
    probabilities = np.full((len(guesses), 7), 0.1)
    probabilities[:, 5:] = 0
    probabilities[np.arange(len(guesses)), guesses] = 0.6
    result = Tally(len(CLASSES))
    result.add(probabilities, np.array(LABELS), np.array(LABELS))
    result.add_unreadable(3)
    return result


def facts(name: str) -> NetFacts:
    return NetFacts(name=name, sha256="ab" * 32, backend="NumPy", parameters=12)


def result(
    *,
    names: tuple[str, ...] = ("first", "second"),
    data: str = "zoo",
    classes: tuple[ClassName, ...] = CLASSES,
    sample: Sample | None = None,
    deviations: tuple[str, ...] = ("The data is another.",),
    views: str = "ten",
    reason: str = "broken.jpg: truncated",
) -> Evaluation:
    """Eight images. `names` stand for "first" and "second"; with one name there is no ensemble."""
    tallies = [tally(GUESSES[which]) for which in ("first", "second")][: len(names)]
    return evaluation(
        data=Data(
            name=data,
            listing="cd" * 32,
            images=8,
            classes=7,
            sample=sample,
            unreadable=(Unreadable(image="broken.jpg", reason=reason),),
        ),
        protocol=Protocol(views=views, nets=len(names), deviations=deviations),
        classes=classes,
        guesses=classes,
        nets=[(facts(name), one) for name, one in zip(names, tallies, strict=True)],
        ensemble=tally(GUESSES["mean"]) if len(names) > 1 else None,
    )
