"""What one net made of each image, and how sure one can be of the figures that follow.

Everything is counted in whole numbers and divided once, so that no figure depends on how the images were divided into
chunks or over workers. Definitions, and when to use which: docs/evaluation.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from alexnet_infer.errors import UsageError, shown
from alexnet_infer.metrics import classes_ahead

BINS = 15
"""As in Guo et al., "On Calibration of Modern Neural Networks" (2017)."""

UNIT_BITS = 40
"""Confidences are kept in units of 2^-40. Sums of floats depend on their order; sums of whole numbers don't, and those
of eight million images still fit in 64 bits. A float32 above 2^-16 has no finer digits than this."""

RECORD = np.dtype([("label", "<i4"), ("guess", "<i4"), ("ahead", "<i4"), ("confidence", "<i8")])
"""One image: its label (position in the data's classes); the net's best class, -1 if the image couldn't be read; the
number of classes ahead of the label, NEVER if no k makes it right; the best class's probability in units of 2^-40."""

NEVER = 2**31 - 1


def wilson(wrong: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (low, high) for an error of `wrong` out of `total` images, as fractions.

    Unlike error +- z standard deviations it stays within 0..1 and keeps its coverage near both ends, for 0 wrong too
    (Wilson 1927; Brown, Cai and DasGupta 2001). Raises UsageError on counts or a confidence that can't be.
    """
    if not 0 <= wrong <= total or total < 1:
        raise UsageError(f"{wrong} wrong of {total} images: expected 0 to all of at least one image")
    if not 0 < confidence < 1:
        raise UsageError(f"confidence={shown(confidence)}: expected more than 0 and less than 1")
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    error, scale = wrong / total, 1 + z2 / total
    center = (error + z2 / (2 * total)) / scale
    half = sqrt(z2 * (error * (1 - error) + z2 / (4 * total)) / total) / scale
    # At both ends the formula gives 0 and 1 exactly, its rounding does not.
    return 0.0 if wrong == 0 else center - half, 1.0 if wrong == total else center + half


def mcnemar(a_only: int, b_only: int) -> float:
    """Exact two-sided p-value that two nets have the same error, from the images that exactly one of them got wrong.

    If they have, each such image is a fair coin (McNemar 1947, in its binomial form). All terms are whole numbers and
    are divided once, so that there is no overflow, and no underflow before p itself is below 5e-324 (then 0). Raises
    UsageError on counts below 0.
    """
    if min(a_only, b_only) < 0:
        raise UsageError(f"{a_only} and {b_only} images: expected counts of 0 or more")
    a_only, b_only = int(a_only), int(b_only)  # NumPy's would overflow
    coins = a_only + b_only
    term = tail = 1
    for heads in range(min(a_only, b_only)):
        term = term * (coins - heads) // (heads + 1)
        tail += term
    return min(1.0, 2 * tail / 2**coins)


def paired_bootstrap(
    a_wrong: np.ndarray, b_wrong: np.ndarray, resamples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Error of net a minus error of net b on the same images, and its percentile interval: (difference, low, high).

    `a_wrong` and `b_wrong` bool [N]. An image's difference is 1, -1 or 0, so a resample of N images is one draw from a
    multinomial distribution of three counts: exactly what drawing the images would give, in a millisecond for ten
    thousand resamples instead of minutes. Exchanging the nets changes the signs and nothing else. Raises UsageError
    unless there are two arrays of one length and at least one image and resample.
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
    if more == fewer:  # the distribution is symmetric; the draws are nearly
        high = (high - low) / 2
        low = -high
    if a_only < b_only:
        low, high = -high, -low
    return (a_only - b_only) / images, float(low) + 0.0, float(high) + 0.0  # + 0.0: no -0.0


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The images whose confidence is at least `low` and below `high` (the last bin has 1, too): how many, their mean
    confidence and their top-1 accuracy, both None where there are none."""

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Whether probabilities mean what they say: the confidence in the best class against how often it is right."""

    ece: float | None
    """Expected calibration error: the bins' |accuracy - confidence|, weighted by their images. None without images."""
    bins: tuple[Bin, ...]

    @classmethod
    def of(cls, confidences: np.ndarray, right: np.ndarray, bins: int = BINS) -> Calibration:
        """From `confidences` int64 [N], in units of 2^-40 (at most 1), and `right` bool [N]; bins of equal width."""
        which = np.minimum(confidences * bins >> UNIT_BITS, bins - 1)
        sums = np.zeros(bins, np.int64)
        np.add.at(sums, which, confidences)
        images, rights = (np.bincount(chosen, minlength=bins).tolist() for chosen in (which, which[right]))
        unit = 1 << UNIT_BITS
        gaps = sum(abs(total - unit * count) for total, count in zip(sums.tolist(), rights, strict=True))
        return cls(
            ece=gaps / (unit * len(which)) if len(which) else None,
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
    """What one net, or an ensemble, made of the images of a set with `classes` classes, in the set's order.

    Keeps four whole numbers an image (RECORD), from which every figure follows when it is asked for. So the chunks in
    which images come don't matter, and tallies of consecutive parts merge to exactly the whole's.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._parts: list[np.ndarray] = []

    def __len__(self) -> int:
        """Images so far, those that couldn't be read included."""
        return sum(map(len, self._parts))

    def add(self, probabilities: np.ndarray, data_labels: np.ndarray, net_labels: np.ndarray) -> None:
        """The next B images: `probabilities` [B, C], and the labels [B] twice.

        `data_labels` are positions in the data's classes, `net_labels` indices of the net's C classes, or -1 where it
        has no such class: that image is wrong, whatever the net says. Ties go to the lower index. With C < 5 every
        other image is right in the top 5. Raises UsageError on shapes and labels that make no sense and on what can't
        be probabilities, NaN first.
        """
        probabilities, data_labels, net_labels = map(np.asarray, (probabilities, data_labels, net_labels))
        if probabilities.ndim != 2 or not probabilities.shape[1]:
            raise UsageError(f"probabilities {probabilities.shape}: expected [B, C] with C at least 1")
        images, outputs = probabilities.shape
        _check_labels("data_labels", data_labels, images, 0, self.classes)
        _check_labels("net_labels", net_labels, images, -1, outputs)
        if not ((probabilities >= 0) & (probabilities < 1.001)).all():  # rounding may take a mean a little above 1
            raise UsageError("expected probabilities, from 0 to 1: these have others, or NaN")
        records = np.empty(images, RECORD)
        records["label"] = data_labels
        records["guess"] = guess = probabilities.argmax(1)  # of equal ones the first
        best = probabilities[np.arange(images), guess].astype(np.float64)
        records["confidence"] = np.rint(np.minimum(best, 1) * 2.0**UNIT_BITS)
        ahead = classes_ahead(probabilities, np.maximum(net_labels, 0))
        records["ahead"] = np.where(net_labels < 0, NEVER, ahead)
        self._parts.append(records)

    def add_unreadable(self, data_label: int) -> None:
        """The next image, which couldn't be read: wrong, and no part of calibration and confusions."""
        _check_labels("data_label", np.asarray([data_label]), 1, 0, self.classes)
        self._parts.append(np.array([(data_label, -1, NEVER, 0)], RECORD))

    def merge(self, following: Tally) -> None:
        """Takes over the images of a tally of the same net, as those that follow its own."""
        if following.classes != self.classes:
            raise UsageError(f"tallies of {self.classes} and {following.classes} classes don't merge")
        self._parts += following._parts

    @property
    def records(self) -> np.ndarray:
        """RECORD [images], in order."""
        self._parts = [np.concatenate([np.empty(0, RECORD), *self._parts])]
        return self._parts[0]

    def wrong(self, k: int) -> np.ndarray:
        """Bool [images]: whose label is not among the `k` best classes, with those that couldn't be read."""
        return self.records["ahead"] >= k

    def per_class(self, k: int | None = None) -> np.ndarray:
        """Int [classes]: the images of each class of the data; with a `k`, those that are wrong."""
        labels = self.records["label"]
        return np.bincount(labels if k is None else labels[self.wrong(k)], minlength=self.classes)

    def confusions(self) -> dict[tuple[int, int], int]:
        """(Label, the net's best class) -> number of images, of those that were read and are wrong.

        The label is a position in the data's classes, the guess an index of the net's, which may have others.
        """
        confused = self.records[self.wrong(1) & self._read]
        pairs, images = np.unique(confused[["label", "guess"]], return_counts=True)
        return {(int(label), int(guess)): int(count) for (label, guess), count in zip(pairs, images, strict=True)}

    def calibration(self, bins: int = BINS) -> Calibration:
        """Of the images that could be read."""
        read = self._read
        return Calibration.of(self.records["confidence"][read], ~self.wrong(1)[read], bins)

    @property
    def _read(self) -> np.ndarray:
        return self.records["guess"] >= 0


def _check_labels(what: str, labels: np.ndarray, images: int, lowest: int, end: int) -> None:
    """Raises UsageError unless these are whole numbers [images] from `lowest` to `end` - 1."""
    if labels.shape != (images,):
        raise UsageError(f"{what} {labels.shape}: expected {images}, one for each image")
    if images and not (np.issubdtype(labels.dtype, np.integer) and lowest <= labels.min() and labels.max() < end):
        raise UsageError(f"{what}: expected whole numbers from {lowest} to {end - 1}")


class Pairing(NamedTuple):
    """Two nets on the same images: the first one's error minus the second's with its 95 % paired bootstrap interval, as
    fractions; the images that only one of them got wrong; and McNemar's exact p-value that the errors are equal."""

    difference: float
    low: float
    high: float
    first_only: int
    second_only: int
    p: float


def pairing(first: np.ndarray, second: np.ndarray) -> Pairing:
    """From bool [images] each: which are wrong."""
    only = int((first & ~second).sum()), int((second & ~first).sum())
    return Pairing(*paired_bootstrap(first, second), *only, mcnemar(*only))
