"""Per-image results of a net, the errors that follow from them, and their uncertainty.

Everything is counted in integers and divided once, so no figure depends on how the images were divided into chunks or
among workers. docs/evaluation.md defines the figures and says when to use which.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from alexnet_infer.errors import UsageError, shown
from alexnet_infer.metrics import check_labels, classes_ahead

BINS = 15
"""The number of confidence bins, as in Guo et al., "On Calibration of Modern Neural Networks" (2017)."""

UNIT_BITS = 40
"""Confidences are stored as integers in units of 2^-40. Unlike a sum of floats, their sum does not depend on the order.
The sum over eight million images fits in 64 bits. A float32 above 2^-16 has no finer digits."""

RECORD = np.dtype([("label", "<i4"), ("guess", "<i4"), ("ahead", "<i4"), ("confidence", "<i8")])
"""One image: its label (position in the data's classes); the net's best class, or -1 if the image can't be read; the
number of classes ahead of the label, or NEVER; the probability of the best class in units of 2^-40."""

NEVER = 2**31 - 1
"""The value of `ahead` for an image that can't be right: it is unreadable, or its class is not one of the net's."""


def wilson(wrong: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval (low, high) for `wrong` wrong images out of `total`, as fractions.

    Unlike the error plus or minus z standard deviations, the interval stays within 0 to 1 and keeps its coverage near
    both ends, even for 0 wrong images (Wilson 1927; Brown, Cai and DasGupta 2001). Raises UsageError if a count or the
    confidence is out of range.
    """
    if not 0 <= wrong <= total or total < 1:
        raise UsageError(f"{wrong} wrong of {total} images: expected at least one image, and 0 to all of them wrong")
    if not 0 < confidence < 1:
        raise UsageError(f"confidence={shown(confidence)}: expected a number above 0 and below 1")
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    error, scale = wrong / total, 1 + z2 / total
    center = (error + z2 / (2 * total)) / scale
    half = sqrt(z2 * (error * (1 - error) + z2 / (4 * total)) / total) / scale
    # The formula gives exactly 0 and 1 at the ends, but rounding would not.
    return 0.0 if wrong == 0 else center - half, 1.0 if wrong == total else center + half


def mcnemar(a_only: int, b_only: int) -> float:
    """Return the exact two-sided p-value of McNemar's test that two nets have the same error.

    `a_only` and `b_only` are the numbers of images that only net a and only net b got wrong. Under the null hypothesis
    each such image is a fair coin toss (McNemar 1947, in its binomial form). The terms are integers and are divided
    once, so nothing overflows, and p is 0 only if it is below 5e-324. Raises UsageError if a count is negative.
    """
    if min(a_only, b_only) < 0:
        raise UsageError(f"{a_only} and {b_only} images: expected counts of 0 or more")
    a_only, b_only = int(a_only), int(b_only)  # NumPy integers would overflow
    coins = a_only + b_only
    term = tail = 1
    for heads in range(min(a_only, b_only)):
        term = term * (coins - heads) // (heads + 1)
        tail += term
    return min(1.0, 2 * tail / 2**coins)


def paired_bootstrap(
    a_wrong: np.ndarray, b_wrong: np.ndarray, resamples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return the error of net a minus that of net b and its percentile bootstrap interval: (difference, low, high).

    `a_wrong` and `b_wrong` are bool [N] and mark the images that each net got wrong. The difference on one image is 1,
    -1 or 0, so a resample of N images is one draw from a multinomial distribution of three counts. This is exactly
    equivalent to resampling the images, but ten thousand resamples take a millisecond instead of minutes. Exchanging
    the nets changes only the signs.

    Raises UsageError if the arrays are empty or differ in shape, or if `resamples` is below 1.
    """
    a_wrong, b_wrong = np.asarray(a_wrong, bool), np.asarray(b_wrong, bool)
    if a_wrong.ndim != 1 or a_wrong.shape != b_wrong.shape or not len(a_wrong):
        raise UsageError(f"wrong images {a_wrong.shape} and {b_wrong.shape}: expected two arrays [N] with N at least 1")
    if resamples < 1:
        raise UsageError(f"resamples={shown(resamples)}: expected at least 1")
    images = len(a_wrong)
    a_only, b_only = int((a_wrong & ~b_wrong).sum()), int((b_wrong & ~a_wrong).sum())
    more, fewer = max(a_only, b_only), min(a_only, b_only)
    shares = np.array([more, fewer, images - more - fewer]) / images
    drawn = np.random.default_rng(seed).multinomial(images, shares, size=resamples)
    low, high = np.quantile(drawn[:, 0] - drawn[:, 1], [(1 - confidence) / 2, (1 + confidence) / 2]) / images
    if more == fewer:  # the distribution is symmetric, but the draws are only nearly so
        high = (high - low) / 2
        low = -high
    if a_only < b_only:
        low, high = -high, -low
    return (a_only - b_only) / images, float(low) + 0.0, float(high) + 0.0  # + 0.0: no -0.0


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The images whose confidence is at least `low` and below `high`. The last bin includes 1."""

    low: float
    high: float
    images: int
    confidence: float | None
    """The mean confidence, or None if the bin is empty."""
    accuracy: float | None
    """The top-1 accuracy, or None if the bin is empty."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The confidence (the probability of the best class) against the share of images for which that class is right."""

    ece: float | None
    """Expected calibration error: the mean of |accuracy - confidence| over the bins, weighted by their numbers of
    images. None if there are no images."""
    bins: tuple[Bin, ...]

    @classmethod
    def of(cls, confidences: np.ndarray, right: np.ndarray, bins: int = BINS) -> Calibration:
        """Compute the calibration with `bins` bins of equal width.

        `confidences` is int64 [N] in units of 2^-40, at most 1. `right` is bool [N].
        """
        indices = np.minimum(confidences * bins >> UNIT_BITS, bins - 1)
        sums = np.zeros(bins, np.int64)
        np.add.at(sums, indices, confidences)
        images, rights = (np.bincount(chosen, minlength=bins).tolist() for chosen in (indices, indices[right]))
        unit = 1 << UNIT_BITS
        gaps = sum(abs(total - unit * count) for total, count in zip(sums.tolist(), rights, strict=True))
        return cls(
            ece=gaps / (unit * len(indices)) if len(indices) else None,
            bins=tuple(
                Bin(
                    low=i / bins,
                    high=(i + 1) / bins,
                    images=n,
                    confidence=total / (unit * n) if n else None,
                    accuracy=count / n if n else None,
                )
                for i, (n, total, count) in enumerate(zip(images, sums.tolist(), rights, strict=True))
            ),
        )


class Tally:
    """The results of a net, or of an ensemble, on the images of a set with `classes` classes, in the set's order.

    A tally stores four integers per image (RECORD) and computes every figure from them on request. The figures do not
    depend on the chunks in which images are added, and merged tallies of consecutive parts equal the tally of the set.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._parts: list[np.ndarray] = []

    def __len__(self) -> int:
        """The number of images so far, including unreadable ones."""
        return sum(map(len, self._parts))

    def add(self, probabilities: np.ndarray, data_labels: np.ndarray, net_labels: np.ndarray) -> None:
        """Add the next B images.

        `probabilities` is [B, C]. `data_labels` [B] are positions in the data's classes. `net_labels` [B] are indices
        of the net's C classes, or -1 if the net does not have the class. Such an image counts as wrong. With
        C <= 5, all other images are right in the top 5. If probabilities are equal, the lower index ranks first.

        Raises UsageError if shapes or labels are invalid, or if a value is NaN or not a probability.
        """
        probabilities, data_labels, net_labels = map(np.asarray, (probabilities, data_labels, net_labels))
        if probabilities.ndim != 2 or not probabilities.shape[1]:
            raise UsageError(f"probabilities {probabilities.shape}: expected [B, C] with C at least 1")
        images, outputs = probabilities.shape
        _check_labels("data_labels", data_labels, images, 0, self.classes)
        _check_labels("net_labels", net_labels, images, -1, outputs)
        valid = (probabilities >= 0) & (probabilities < 1.001)  # a rounded mean may be slightly above 1
        if not valid.all():
            image, index = np.argwhere(~valid)[0]
            value = probabilities[image, index]
            raise UsageError(f"probabilities[{image}, {index}]={value}: expected a number from 0 to 1")
        records = np.empty(images, RECORD)
        records["label"] = data_labels
        records["guess"] = guess = probabilities.argmax(1)  # the first of equal ones
        best = probabilities[np.arange(images), guess].astype(np.float64)
        records["confidence"] = np.rint(np.minimum(best, 1) * 2.0**UNIT_BITS)
        ahead = classes_ahead(probabilities, np.maximum(net_labels, 0))
        records["ahead"] = np.where(net_labels < 0, NEVER, ahead)
        self._parts.append(records)

    def add_unreadable(self, data_label: int) -> None:
        """Add the next image, which can't be read. It counts as wrong. Calibration and confusions exclude it."""
        _check_labels("data_label", np.asarray([data_label]), 1, 0, self.classes)
        self._parts.append(np.array([(data_label, -1, NEVER, 0)], RECORD))

    def merge(self, following: Tally) -> None:
        """Append the images of another tally of the same net. Raises UsageError if the numbers of classes differ."""
        if following.classes != self.classes:
            raise UsageError(f"tallies of {self.classes} and {following.classes} classes: expected the same number")
        self._parts += following._parts

    @property
    def records(self) -> np.ndarray:
        """The images in order, RECORD [images]."""
        self._parts = [np.concatenate([np.empty(0, RECORD), *self._parts])]
        return self._parts[0]

    def wrong(self, k: int) -> np.ndarray:
        """Mark the images whose label is not among the `k` best classes, including unreadable images: bool [images]."""
        return self.records["ahead"] >= k

    def per_class(self, k: int | None = None) -> np.ndarray:
        """Count the images of each class of the data, or with `k` only those that are wrong: int [classes]."""
        labels = self.records["label"]
        return np.bincount(labels if k is None else labels[self.wrong(k)], minlength=self.classes)

    def confusions(self) -> dict[tuple[int, int], int]:
        """Count the wrong images by (label, best class). Unreadable images are left out.

        The label is a position in the data's classes. The best class is an index of the net's classes.
        """
        confused = self.records[self.wrong(1) & self._read]
        pairs, images = np.unique(confused[["label", "guess"]], return_counts=True)
        return {(int(label), int(guess)): int(count) for (label, guess), count in zip(pairs, images, strict=True)}

    def calibration(self, bins: int = BINS) -> Calibration:
        """Compute the calibration over the images that can be read."""
        read = self._read
        return Calibration.of(self.records["confidence"][read], ~self.wrong(1)[read], bins)

    @property
    def _read(self) -> np.ndarray:
        return self.records["guess"] >= 0


def _check_labels(name: str, labels: np.ndarray, images: int, lowest: int, end: int) -> None:
    """Raise UsageError unless `labels` are integers [images] from `lowest` to `end` - 1."""
    if labels.shape != (images,):
        raise UsageError(f"{name} {labels.shape}: expected ({images},), one label per image")
    check_labels(name, labels, lowest, end)


class Pairing(NamedTuple):
    """Two nets on the same images."""

    difference: float
    """The error of the first net minus that of the second, as a fraction."""
    low: float
    high: float
    """Ends of the difference's 95 % paired bootstrap interval."""
    first_only: int
    """Images that only the first net got wrong."""
    second_only: int
    p: float
    """Exact two-sided p-value of McNemar's test for equal errors."""


def pairing(first: np.ndarray, second: np.ndarray) -> Pairing:
    """Compare two nets, given the images that each got wrong, bool [images]."""
    only = int((first & ~second).sum()), int((second & ~first).sum())
    return Pairing(*paired_bootstrap(first, second), *only, mcnemar(*only))
