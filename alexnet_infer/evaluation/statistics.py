"""How far chance alone may move an error: intervals and paired tests.

Everything is counted in integers and divided once. docs/evaluation.md defines the figures and says when to use which.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Literal

import numpy as np

from alexnet_infer.errors import UsageError

LEVEL = 0.95
"""The share of intervals that contain the true value."""

SIGNIFICANCE = 0.05
"""The level of a paired comparison's verdict. It matches the intervals."""

RESAMPLES = 10_000
"""Resamples of a bootstrap interval."""


def wilson(wrong: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval (low, high) for `wrong` wrong images out of `total`, as fractions.

    Unlike the error plus or minus z standard deviations, the interval stays within 0 to 1 and keeps its coverage near
    both ends, even for 0 wrong images (Wilson 1927; Brown, Cai and DasGupta 2001). Raises UsageError if a count is
    out of range.
    """
    if not 0 <= wrong <= total or total < 1:
        raise UsageError(f"{wrong} wrong of {total} images: expected at least one image, and 0 to all of them wrong")
    z2 = NormalDist().inv_cdf((1 + LEVEL) / 2) ** 2
    error, scale = wrong / total, 1 + z2 / total
    center = (error + z2 / (2 * total)) / scale
    half = sqrt(z2 * (error * (1 - error) + z2 / (4 * total)) / total) / scale
    # The formula gives exactly 0 and 1 at the ends, but rounding would not.
    return 0.0 if wrong == 0 else center - half, 1.0 if wrong == total else center + half


@dataclass(frozen=True, kw_only=True)
class ErrorRate:
    """The number of wrong images, their share of all images, and its 95 % Wilson interval, as fractions."""

    wrong: int
    error: float
    low: float
    high: float

    @classmethod
    def of(cls, wrong: np.ndarray) -> ErrorRate:
        """Count the wrong images. `wrong` is bool [images]."""
        count, images = int(wrong.sum()), len(wrong)
        low, high = wilson(count, images)
        return cls(wrong=count, error=count / images, low=low, high=high)


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


def paired_bootstrap(a_wrong: np.ndarray, b_wrong: np.ndarray) -> tuple[float, float, float]:
    """Return (difference, low, high): net a's error minus net b's, and its 95 % percentile bootstrap interval.

    `a_wrong` and `b_wrong` are bool [N] and mark the images that each net got wrong. The difference on one image is 1,
    -1 or 0, so a resample of N images is one draw from a multinomial distribution of three counts. This is exactly
    equivalent to resampling the images, but ten thousand resamples take a millisecond instead of minutes. Exchanging
    the nets changes only the signs. Equal arguments give equal results.

    Raises UsageError if the arrays are empty or differ in shape.
    """
    a_wrong, b_wrong = np.asarray(a_wrong, bool), np.asarray(b_wrong, bool)
    if a_wrong.ndim != 1 or a_wrong.shape != b_wrong.shape or not len(a_wrong):
        raise UsageError(f"wrong images {a_wrong.shape} and {b_wrong.shape}: expected two arrays [N] with N at least 1")
    images = len(a_wrong)
    a_only, b_only = int((a_wrong & ~b_wrong).sum()), int((b_wrong & ~a_wrong).sum())
    more, fewer = max(a_only, b_only), min(a_only, b_only)
    shares = np.array([more, fewer, images - more - fewer]) / images
    drawn = np.random.default_rng(0).multinomial(images, shares, size=RESAMPLES)
    low, high = np.quantile(drawn[:, 0] - drawn[:, 1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) / images
    if more == fewer:  # the distribution is symmetric, but the draws are only nearly so
        high = (high - low) / 2
        low = -high
    if a_only < b_only:
        low, high = -high, -low
    return (a_only - b_only) / images, float(low) + 0.0, float(high) + 0.0  # + 0.0: no -0.0


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Two nets on the same images."""

    first: ErrorRate
    second: ErrorRate
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

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> Pairing:
        """Compare two nets, given the images that each got wrong, bool [images]."""
        difference, low, high = paired_bootstrap(first, second)
        first_only, second_only = int((first & ~second).sum()), int((second & ~first).sum())
        return cls(
            first=ErrorRate.of(first),
            second=ErrorRate.of(second),
            difference=difference,
            low=low,
            high=high,
            first_only=first_only,
            second_only=second_only,
            p=mcnemar(first_only, second_only),
        )

    @property
    def verdict(self) -> Literal["better", "worse", "undecided"]:
        """Whether the first net is significantly better or worse than the second.

        A difference is significant if p is below SIGNIFICANCE and the interval excludes 0.
        """
        if self.p < SIGNIFICANCE and self.high < 0:
            return "better"
        return "worse" if self.p < SIGNIFICANCE and self.low > 0 else "undecided"

    def to_json(self, **only_wrong: int) -> dict[str, float]:
        """Return the comparison for `json.dumps`, with the two counts under the given keys and without the errors."""
        return {"difference": self.difference, "low": self.low, "high": self.high, **only_wrong, "p": self.p}
