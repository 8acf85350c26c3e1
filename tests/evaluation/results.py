"""A small evaluation of two nets and their mean, with known errors, for tests of tables and reports."""

from __future__ import annotations

import numpy as np

from alexnet_infer.evaluation.result import Data, Evaluation, NetFacts, Protocol, Sample, evaluation
from alexnet_infer.evaluation.tally import Tally
from alexnet_infer.manifest import ClassName
from alexnet_infer.reading import Unreadable

WNIDS = ("n00000001", "n00000002", "n00000003", "n00000004", "n00000005", "n00000006", "n00000007")
NAMES = ("ant, pismire", "bee", "cat", "dog", "eel", "fox", "gnu")
CLASSES = tuple(ClassName(wnid=wnid, name=name) for wnid, name in zip(WNIDS, NAMES, strict=True))

LABELS = (0, 0, 1, 1, 2, 2, 3)
GUESSES = {
    "first": (0, 2, 1, 0, 2, 3, 3),  # wrong: images 1, 3, 5
    "second": (1, 0, 1, 0, 2, 3, 2),  # wrong: images 0, 3, 5, 6
    "mean": (0, 0, 1, 0, 2, 3, 3),  # wrong: images 3, 5
}
"""The best class of each image. An unreadable image of class 3 follows."""


def tally(guesses: tuple[int, ...]) -> Tally:
    """Tally a net that gives 0.6 to its guess and 0 to the last two classes. The others are equal."""
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
    """Evaluate eight images. `names` are the names of "first" and "second". With one name there is no ensemble."""
    tallies = [tally(GUESSES[net]) for net in ("first", "second")][: len(names)]
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
        nets=[(facts(name), counts) for name, counts in zip(names, tallies, strict=True)],
        ensemble=tally(GUESSES["mean"]) if len(names) > 1 else None,
    )
