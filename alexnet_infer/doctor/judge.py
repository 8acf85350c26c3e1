"""Judge labels by a net's probabilities: they fit, are in another order, are partly wrong, or the images can't tell.

Each verdict needs evidence of its own. "ok" needs a high share of labels that are shown to fit, and about as many right
guesses as the net's own results predict. "Permuted" needs images that fit other labels, in a known order or each label
in one place. Few right guesses are no evidence for either: the images may be hard for the net.

One file: the verdicts exclude each other, and their limits are read together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from alexnet_infer.doctor.achieved import Achieved
from alexnet_infer.doctor.evidence import Evidence, Share
from alexnet_infer.doctor.finding import LISTED, PERMUTED, Finding
from alexnet_infer.doctor.orders import known_orders
from alexnet_infer.errors import printable
from alexnet_infer.manifest import ClassName

FIT = 0.85
"""Labels are ok if at least this share is shown to fit. The interval of a right set's sample reaches it with about 100
images."""
DOUBT = 0.95
"""Some labels are wrong, or some images are unlike those that the net knows, if at most this share fits."""

_MARGIN = 10.0
"""Another order must be more likely than the set's own by this much (natural logarithm: a factor of 22,000), beyond
what the best of so many orders reaches by chance."""
_MOVED = 3.0
"""A label counts for an unknown permutation if another class is more likely than its own by this much."""
_ODD = 6.0
"""A label is reported by itself if another class is more likely than its own by this much."""
_SEVERAL = 3
"""The number of images that a label must have to be reported by itself."""
_USUAL = 0.75
"""Two classes are an error, not a warning, if at least this share of the other labels is shown to fit."""
_SHORT, _SIGMAS = 0.85, 2.6
"""Right guesses fall short if they are fewer than this share of those expected, by so many standard deviations."""
_CHANCE = 0.001
"""A class has too few right guesses if so few are less probable than this, divided by the number of classes."""
_SHIFTS = 10
"""A part of the classes is tried with shifts by up to so many places."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """A net's guesses on a sample of a labelled set.

    `labels` int [N] are positions in the set's `classes`. `probabilities` float [N, K] are those of `net_classes`; each
    row has the sum 1. `to_net` int [C] is the net's class of each label, or -1; the labels in the sample have one.
    `names` are those of the images. `available` is the number of images that a sample could have.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    to_net: np.ndarray
    classes: Sequence[ClassName]
    net_classes: Sequence[ClassName]
    names: Sequence[str]
    available: int
    achieved: Achieved | None = None


def judge(trial: Trial) -> Finding:
    """Return the verdict on the labels of a trial with at least one image."""
    evidence = Evidence(trial.probabilities.astype(float), trial.labels, calibrated=_calibrated(trial))
    own = trial.to_net[evidence.present]
    share = evidence.share(own)
    there, lead = evidence.elsewhere(own)
    fits, moved = evidence.at_home(own) > _MOVED, lead > _MOVED
    order = _known_order(trial, evidence, own, there, moved) or _shift(trial, evidence, own, moved)
    if order is not None:
        return order
    if _permuted(moved, fits, there, lead):
        return Finding(
            level="error",
            title="labels look permuted",
            detail=f"{moved.sum()} of {len(own)} labels fit the images of another class; {_facts(trial, share)}",
            advice=f"Labels must be positions of WordNet ids in sorted order. {PERMUTED}.",
            count=int(moved.sum()),
            examples=tuple(_fits_elsewhere(trial, evidence, there, np.flatnonzero(moved))),
        )
    if share.high >= 0.5 and (swapped := _swapped(evidence, own)):
        return _exchange(trial, evidence, share, own, swapped)
    odd = np.flatnonzero((lead > _ODD) & (evidence.counts >= _SEVERAL))
    if share.high >= 0.5 and len(odd):
        return _odd_classes(trial, evidence, share, there, odd)
    return _by_share(trial, share)


def _calibrated(trial: Trial) -> bool:
    return trial.achieved is not None and trial.achieved.calibrated


# Other orders.


def _known_order(
    trial: Trial, evidence: Evidence, own: np.ndarray, there: np.ndarray, moved: np.ndarray
) -> Finding | None:
    """The finding that the labels are in a known order, if this is shown and explains half of the `moved` labels."""
    found = _whole_order(trial, evidence, own, there, moved)
    if found is None:
        return None
    name, share = found
    return Finding(
        level="error",
        title="labels look permuted",
        detail=f"they look like {name}: read so, {_percent(share)} of them fit; {_facts(trial, evidence.share(own))}",
        advice=f"Labels must be positions of WordNet ids in sorted order. {PERMUTED}.",
    )


def _shift(trial: Trial, evidence: Evidence, own: np.ndarray, moved: np.ndarray) -> Finding | None:
    """The finding that a run of labels is shifted, if this is shown and explains half of the `moved` labels, [L]."""
    part = _shifted_part(trial, evidence, own, moved)
    if part is None:
        return None
    step, first, last = part
    names = [f"{trial.classes[i].wnid} {trial.classes[i].short} (label {i})" for i in (first, last)]
    return Finding(
        level="error",
        title="classes with labels that look shifted",
        detail=f"from {names[0]} to {names[1]}, labels look {abs(step)} too {'high' if step > 0 else 'low'}; "
        f"{_facts(trial, evidence.share(own))}",
        advice="Look for a class that is missing or listed twice before the first of them.",
        count=last - first + 1,
    )


def _whole_order(
    trial: Trial, evidence: Evidence, own: np.ndarray, there: np.ndarray, moved: np.ndarray
) -> tuple[str, Share] | None:
    """The known order that explains the guesses, if it does so much better than the set's own order."""
    orders = list(known_orders(trial.classes))
    true = np.array([order for _, order in orders])[:, evidence.present]
    candidates = np.where(true >= 0, trial.to_net[true], -1)
    lead = evidence.scores(candidates) - max(float(evidence.scores(own[None])[0]), 0)
    best = int(lead.argmax())  # the first of equals, and so the most usual one
    explained = (candidates[best] == there)[moved]
    if lead[best] < _MARGIN + np.log(len(orders)) or 2 * explained.sum() < len(explained):
        return None
    share = evidence.share(candidates[best])
    return (orders[best][0], share) if share.best >= 0.5 else None


def _shifted_part(trial: Trial, evidence: Evidence, own: np.ndarray, moved: np.ndarray) -> tuple[int, int, int] | None:
    """(by how much labels are too high, first label, last label) of the run of labels that is shifted, if any is."""
    table, rows, count = evidence.table, np.arange(len(own)), len(trial.classes)
    at_home = table[rows, own]
    best: tuple[float, int, int, int] | None = None
    steps = [step for step in range(-_SHIFTS, _SHIFTS + 1) if step and abs(step) < count]
    for step in steps:
        true = evidence.present - step
        inside = (true >= 0) & (true < count)
        classes = np.where(inside, trial.to_net[np.where(inside, true, 0)], -1)
        there = np.where(classes >= 0, table[rows, classes], 0)
        gain, first, last = _best_run(there - np.maximum(at_home, 0))
        run = slice(first, last + 1)
        supported = (there[run] > 0) & (there[run] > at_home[run] + 1)
        enough = supported.sum() >= max(3, (last - first + 1) / 2, moved.sum() / 2)
        if enough and (best is None or gain > best[0]):
            best = gain, step, first, last
    if best is None or best[0] < _MARGIN + np.log(len(steps) * len(own) ** 2 / 2):
        return None
    _, step, first, last = best
    return step, int(evidence.present[first]), int(evidence.present[last])


def _best_run(values: np.ndarray) -> tuple[float, int, int]:
    """The highest sum of consecutive values, and the first and last of them (Kadane)."""
    sums = np.concatenate([[0], np.cumsum(values)])
    lowest = np.minimum.accumulate(sums[:-1])
    last = int((sums[1:] - lowest).argmax())
    first = int(sums[: last + 1].argmin())
    return float(sums[last + 1] - sums[first]), first, last


def _permuted(moved: np.ndarray, fits: np.ndarray, there: np.ndarray, lead: np.ndarray) -> bool:
    """Whether the labels are in an unknown order: labels fit other classes, different ones, and few fit their own.

    In hard images, one label in ten may seem to fit another class. So more are needed than fit their own.
    """
    count = int(moved.sum())
    return bool(
        count >= max(3, len(moved) / 20)
        and count > 2 * fits.sum()
        and len({*there[moved].tolist()}) >= 0.75 * count
        and lead[moved].sum() >= 2 * _MARGIN
    )


# Single classes.


def _swapped(evidence: Evidence, own: np.ndarray) -> dict[int, int]:
    """Rows of labels whose images fit each other's labels: row -> the other row, both ways."""
    table = evidence.table[:, own]
    gain = table - np.maximum(table.diagonal(), 0)[:, None]
    several = np.minimum.outer(evidence.counts, evidence.counts) > 1
    both = np.where((gain > 1) & (gain.T > 1) & several, gain + gain.T, 0)
    least = _MARGIN + np.log(max(1, len(own) * (len(own) - 1) / 2))
    best = both.argmax(1)
    return {
        int(row): int(other)
        for row, other in enumerate(best)
        if row != other and both[row, other] > least and best[other] == row
    }


def _exchange(trial: Trial, evidence: Evidence, share: Share, own: np.ndarray, swapped: dict[int, int]) -> Finding:
    """The finding on swapped classes: an error if the net recognises the other classes' images as it should."""
    rows = list(swapped)
    there, rest = np.zeros(len(own), int), own.copy()
    there[rows] = own[list(swapped.values())]
    rest[rows] = -1
    others = ~np.isin(trial.labels, evidence.present[rows])
    usual = evidence.share(rest).low >= _USUAL and not _falls_short(trial, others)
    return Finding(
        level="error" if usual else "warning",
        title="classes look swapped",
        detail=_facts(trial, share),
        advice="Look at some of their images. Those of each class look like those of another, and the other way round.",
        count=len(rows),
        examples=tuple(_fits_elsewhere(trial, evidence, there, rows)),
    )


def _odd_classes(trial: Trial, evidence: Evidence, share: Share, there: np.ndarray, odd: np.ndarray) -> Finding:
    return Finding(
        level="warning",
        title="classes fit other classes better",
        detail=_facts(trial, share),
        advice="Look at some of their images. Either they are hard for the net, or their labels are wrong.",
        count=len(odd),
        examples=tuple(_fits_elsewhere(trial, evidence, there, odd)),
    )


def _fits_elsewhere(trial: Trial, evidence: Evidence, there: np.ndarray, rows: Sequence[int]) -> Iterator[str]:
    guesses = trial.probabilities.argmax(1)
    for row in rows[:LISTED]:
        label = int(evidence.present[row])
        named, other = trial.classes[label], trial.net_classes[there[row]]
        images = trial.labels == label
        count = int((guesses[images] == there[row]).sum())
        yield (
            f"{named.wnid} {named.short}: fits {other.wnid} {other.short} better; {count} of {images.sum()} are "
            "classified as it"
        )


# The share of labels that fit.


def _by_share(trial: Trial, share: Share) -> Finding:
    facts, suspects = _facts(trial, share), np.flatnonzero(~share.fits)
    if share.high < DOUBT:
        return Finding(
            level="warning",
            title="labels don't fit the net's guesses",
            detail=facts,
            advice="Either the net doesn't recognise such images, or their labels are wrong. Look at some of them.",
            count=len(suspects),
            examples=tuple(_suspects(trial, suspects)),
        )
    if share.low < FIT or share.best < DOUBT:
        return Finding(
            level="note",
            title="can't tell whether the labels fit",
            detail=f"{facts}; {_lacking(trial, share)}",
            advice="This is no verdict on the labels, in either direction.",
        )
    if _falls_short(trial, np.ones(len(trial.labels), bool)):
        return Finding(
            level="warning",
            title="fewer images are classified correctly than expected",
            detail=facts,
            advice="Either the images are harder than those that the net was tested on, or some labels are wrong, "
            "such as those of similar classes.",
        )
    if len(missed := _missed(trial)):
        examples = (
            f"{trial.classes[i].wnid} {trial.classes[i].short}: {right} of {count} images are classified correctly"
            for i, right, count in missed[:LISTED]
        )
        return Finding(
            level="warning",
            title="classes are classified correctly less often than expected",
            detail=facts,
            advice="Look at some of their images. Either they are hard for the net, or their labels are wrong.",
            count=len(missed),
            examples=tuple(examples),
        )
    return Finding(level="ok", title="labels fit the net's guesses", detail=facts)


def _lacking(trial: Trial, share: Share) -> str:
    """What a verdict would need."""
    count = len(trial.labels)
    needed = _rounded(max(50, count * (1 - share.low) / (1 - FIT)))
    if share.low >= FIT:
        return "some of them may be wrong"
    if needed <= count or trial.available > count:  # the sample is as large as samples get
        return "this net says too little about such images"
    return f"about {needed:,} images of the net's classes are needed, and the set has {trial.available:,}"


def _suspects(trial: Trial, rows: np.ndarray) -> Iterator[str]:
    """The images whose labels fit worst, those with the least probable labels first."""
    own = trial.probabilities[rows, trial.to_net[trial.labels[rows]]]
    for row in rows[np.argsort(own, kind="stable")][:LISTED]:
        guess = int(trial.probabilities[row].argmax())
        label, other = trial.classes[trial.labels[row]], trial.net_classes[guess]
        yield printable(
            f"{trial.names[row]}: labelled {label.short}, classified as {other.short} "
            f"({trial.probabilities[row, guess]:.0%})"
        )


def _falls_short(trial: Trial, images: np.ndarray) -> bool:
    """Whether fewer of these images, bool [N], are classified correctly than expected."""
    if trial.achieved is None:
        return False
    wanted = trial.to_net[trial.labels[images]]
    expected, deviation = trial.achieved.expect(wanted)
    right = (trial.probabilities[images].argmax(1) == wanted).sum()
    return bool(right < _SHORT * expected and right < expected - _SIGMAS * deviation)


def _missed(trial: Trial) -> list[tuple[int, int, int]]:
    """(label, right guesses, images) of the labels with fewer right guesses than chance explains.

    Chance is a binomial distribution at the low end of what the net achieves on the class.
    """
    if trial.achieved is None or not trial.achieved.calibrated:
        return []
    rights = trial.probabilities.argmax(1) == trial.to_net[trial.labels]
    present, missed = np.unique(trial.labels), []
    for label in map(int, present):
        own = int(trial.to_net[label])
        rate = max(0.0, float(trial.achieved.rates[own] - 2 * trial.achieved.uncertainty[own]))
        right, count = int(rights[trial.labels == label].sum()), int((trial.labels == label).sum())
        chance = sum(comb(count, k) * rate**k * (1 - rate) ** (count - k) for k in range(right + 1))
        if chance < _CHANCE / len(present):
            missed.append((label, right, count))
    return missed


# Words.


def _right(trial: Trial) -> int:
    return int((trial.probabilities.argmax(1) == trial.to_net[trial.labels]).sum())


def _facts(trial: Trial, share: Share) -> str:
    """What was seen and what was expected."""
    count, right = len(trial.labels), _right(trial)
    sample = f"{right:,} of {count:,} images are classified correctly, in {len(np.unique(trial.labels)):,} classes"
    if trial.achieved is not None:
        expected, _ = trial.achieved.expect(trial.to_net[trial.labels])
        sample += f"; {expected:,.0f} are expected from the net's {trial.achieved.source}"
    return f"{sample}; {_percent(share)} of the labels fit"


def _percent(share: Share) -> str:
    low, high = int(100 * share.low), 100 if share.high > 0.99 else int(np.ceil(100 * share.high))
    return f"{low} to {high} %"


def _rounded(count: float) -> int:
    """A number of images with one or two significant digits, rounded up."""
    step = 10 ** max(1, int(np.log10(count)) - 1)
    return int(-(-count // step) * step)
