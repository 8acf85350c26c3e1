"""Compare a set's labels with the guesses of a net, to find permuted or swapped classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from alexnet_infer.datasets import LabelledImages
from alexnet_infer.datasets.base import Example
from alexnet_infer.datasets.classes import map_classes
from alexnet_infer.datasets.sampling import spread
from alexnet_infer.doctor.finding import PERMUTED, Finding
from alexnet_infer.errors import UsageError
from alexnet_infer.manifest import ClassName
from alexnet_infer.predict import Net
from alexnet_infer.progress import counting
from alexnet_infer.reading import batches, decode_ahead

CLASSES, IMAGES = 40, 20
"""Number of classes in the sample, and of images per class. 20 images show which guess dominates, and a net classifies
the whole sample in seconds."""

JUDGED = 5
"""Minimum number of images needed to judge a class."""

DOMINANT = 0.3
"""A guess dominates a class if at least this share of the class's images get it. Nets of the 2010s are right more often
than this, and guesses that are unrelated to the class almost never reach it."""


def try_net(data: LabelledImages, net: Net) -> Finding:
    """Compare the labels of a sample of the images with a net's guesses."""
    try:
        to_net = np.array(map_classes(data.classes, net.manifest.classes))
    except UsageError as error:
        return Finding(level="note", title="the net was not tried", detail=str(error))
    labels, guesses = _guesses(data, _sample(np.array(data.labels), to_net), net)
    return judge(labels, guesses, to_net, data.classes, net.manifest.classes)


def _sample(labels: np.ndarray, to_net: np.ndarray) -> list[int]:
    """Ascending positions of a sample: evenly spaced images of evenly spaced classes that the net knows."""
    known = [label for label in np.unique(labels) if to_net[label] >= 0]
    chosen: list[int] = []
    for label in spread(known, CLASSES):
        chosen += spread(np.flatnonzero(labels == label).tolist(), IMAGES)
    return sorted(chosen)


def _guesses(data: LabelledImages, positions: Sequence[int], net: Net) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and the net's top guesses as indices of its classes, both int [N], of the images that can be read."""
    square = partial(Example.square, rescaling=net.rescaling)
    labels, guesses, read = [], [], decode_ahead(data.at(positions, "yield"), square)
    with counting("trying a net", len(positions)) as advance:
        for batch in batches(read, 32):
            readable = [image for image in batch if image.error is None]  # the others have been reported already
            if readable:
                labels += [image.source.label for image in readable]
                guesses += net.probabilities([image.image for image in readable]).argmax(1).tolist()
            advance(len(batch))
    return np.array(labels, int), np.array(guesses, int)


def judge(
    labels: np.ndarray,
    guesses: np.ndarray,
    to_net: np.ndarray,
    classes: Sequence[ClassName],
    net_classes: Sequence[ClassName],
) -> Finding:
    """Judge whether labels, int [N], fit a net's guesses, int [N]. `to_net` maps each label to the net's class.

    If accuracy is near chance but most classes are dominated by a wrong guess, which mostly differs between classes,
    labels look permuted: the net recognises the images, but under other labels. If accuracy is near chance and most
    classes have no such guess, images and labels are unrelated or the net is useless. If accuracy is well above chance,
    classes that are dominated by a wrong guess and almost never recognised may be swapped.
    """
    if len(labels) < IMAGES:
        detail = f"{len(labels)} images of the net's classes can be read; at least {IMAGES} are needed"
        return Finding(level="note", title="the net was not tried", detail=detail)
    accuracy, chance = float((guesses == to_net[labels]).mean()), _chance(to_net[labels], guesses, len(net_classes))
    facts = f"{accuracy:.1%} of {len(labels)} images are classified correctly; chance is {chance:.1%}"
    judged = [int(label) for label in np.unique(labels) if (labels == label).sum() >= JUDGED]
    confusions = {label: c for label in judged if (c := _confusion(guesses[labels == label], to_net[label]))}
    pairs = {label: c.guess for label, c in confusions.items() if c.right <= c.images / 10}
    examples = {
        label: f"{classes[label].wnid} {classes[label].short}: {c.count} of {c.images} are classified as "
        f"{net_classes[c.guess].wnid} {net_classes[c.guess].short}"
        for label, c in confusions.items()
    }
    if accuracy >= min(3 * chance, (1 + chance) / 2):
        if not pairs:
            return Finding(level="ok", title="labels fit the net's guesses", detail=facts)
        back = {int(to_net[label]): guess for label, guess in pairs.items()}
        swapped = any(back.get(guess) == to_net[label] for label, guess in pairs.items())
        return Finding(
            level="error" if swapped else "warning",
            title="classes look swapped" if swapped else "classes are mostly classified as other classes",
            detail=facts,
            advice="Look at some of their images. Either they are hard for the net, or their labels are wrong.",
            count=len(pairs),
            examples=tuple(examples[label] for label in pairs),
        )
    if 2 * len(confusions) > len(judged) and 2 * len({c.guess for c in confusions.values()}) > len(confusions):
        return Finding(
            level="error",
            title="classes with labels that look permuted",
            detail=f"{facts}; {len(confusions)} of {len(judged)} classes are mostly classified as another class",
            advice=f"Labels are positions of WordNet ids in sorted order, not the devkit's numbers. {PERMUTED}.",
            count=len(confusions),
            examples=tuple(examples.values()),
        )
    advice = "Either the net doesn't recognise such images, or their labels are unrelated to them."
    return Finding(level="warning", title="labels don't fit the net's guesses", detail=facts, advice=advice)


def _chance(wanted: np.ndarray, guesses: np.ndarray, classes: int) -> float:
    """The accuracy if guesses were unrelated to labels, from how often each occurs; at least 1 / `classes`."""
    shares = [np.bincount(values, minlength=classes) / len(values) for values in (wanted, guesses)]
    return max(1 / classes, float(shares[0] @ shares[1]))


@dataclass(frozen=True)
class _Confusion:
    """A wrong guess that dominates a class."""

    guess: int
    count: int
    right: int
    images: int


def _confusion(guesses: np.ndarray, own: int) -> _Confusion | None:
    """The wrong guess that dominates a class, from the `guesses` for its images; None if `own` or no guess does."""
    guess, count = Counter(guesses.tolist()).most_common(1)[0]
    if guess == own or count < DOMINANT * len(guesses):
        return None
    return _Confusion(guess, count, int((guesses == own).sum()), len(guesses))
