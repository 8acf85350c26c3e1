"""How far chance alone may move an error: intervals and paired tests.

Everything is counted in integers and divided once. docs/evaluation.md defines the
figures of `eval`, docs/export.md the interval of `compare`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, copysign, inf, isclose, sqrt
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

HALVINGS = 64
"""Bisections for an end of a score interval, which is then exact to the last digits of a float."""


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


def paired_score(a_only: int, b_only: int, images: int) -> tuple[float, float]:
    """Return Tango's 95 % score interval (low, high) of net a's error minus net b's, as fractions.

    `a_only` and `b_only` are the numbers of the `images` that only net a and only net b got wrong. The interval has
    every difference that a score test does not reject (Tango, "Equivalence test and confidence interval for the
    difference in proportions for the paired-sample design", 1998). It is to paired errors what Wilson's is to one
    error: with no image of either kind, the upper end is that of `wilson(0, images)`, and the lower end its negative.
    (No resample of a bootstrap differs then, so that its interval has no width.) Exchanging the nets changes only the
    signs.

    If the true difference is X, the upper end is below X for 2.5 % of samples with many images, and for at most 3.1 %
    with few (counted exactly for 5 images and more, X from 0.2 to 5 points, and shares of `b_only` up to 20 %).

    Raises UsageError if a count is out of range.
    """
    if min(a_only, b_only) < 0 or images < max(1, a_only + b_only):
        raise UsageError(
            f"{a_only} and {b_only} of {images} images: expected at least one image, and counts that add up to at most "
            "all of them"
        )
    return -_upper_end(b_only, a_only, images), _upper_end(a_only, b_only, images)


def _upper_end(a_only: int, b_only: int, images: int) -> float:
    inside, outside, z = (a_only - b_only) / images, 1.0, NormalDist().inv_cdf((1 + LEVEL) / 2)
    for _ in range(HALVINGS):
        middle = (inside + outside) / 2
        if _score(a_only, b_only, images, middle) > -z:
            inside = middle
        else:
            outside = middle
    return inside


def _score(a_only: int, b_only: int, images: int, difference: float) -> float:
    """Return how many standard deviations the observed difference is above `difference`, if that is the true one.

    The standard deviation is the one under the most likely shares with this difference. It depends on the observed
    shares and not on the number of images, so the square of the score is proportional to that number.
    """
    linear = (2 * images - a_only + b_only) * difference - a_only - b_only
    constant = b_only * difference * (1 - difference)
    root = sqrt(max(linear * linear + 8 * images * constant, 0.0))
    # The positive root of 2 images x^2 + linear x - constant, the share of b_only, in the form that does not cancel.
    share = 2 * constant / (linear + root) if linear > 0 else (root - linear) / (4 * images)
    excess = a_only - b_only - images * difference
    variance = images * (2 * share + difference * (1 - difference))
    return excess / sqrt(variance) if variance > 0 else copysign(inf, excess) if excess else 0.0


def images_to_decide(a_only: int, b_only: int, images: int, limit: float) -> int | None:
    """Estimate from how many images on the end of `paired_score` that is nearer to `limit` would reach it.

    The estimate assumes that the shares of images that only one net gets wrong stay as observed. None if the observed
    difference is `limit`: then no number of images is expected to decide on which side of it the true one is.
    """
    if isclose((a_only - b_only) / images, limit, rel_tol=1e-9, abs_tol=1e-12):
        return None
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    return ceil(images * (z / _score(a_only, b_only, images, limit)) ** 2)


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Two nets on the same images."""

    first: ErrorRate
    second: ErrorRate
    difference: float
    """The error of the first net minus that of the second, as a fraction."""
    low: float
    high: float
    """Ends of the difference's 95 % paired interval."""
    first_only: int
    """Images that only the first net got wrong."""
    second_only: int
    p: float
    """Exact two-sided p-value of McNemar's test for equal errors."""

    @classmethod
    def of(
        cls, first: np.ndarray, second: np.ndarray, interval: Literal["bootstrap", "score"] = "bootstrap"
    ) -> Pairing:
        """Compare two nets, given the images that each got wrong, bool [images].

        The interval is that of `paired_bootstrap` or `paired_score`.
        """
        first_only, second_only = int((first & ~second).sum()), int((second & ~first).sum())
        if interval == "bootstrap":
            difference, low, high = paired_bootstrap(first, second)
        else:
            low, high = paired_score(first_only, second_only, len(first))
            difference = (first_only - second_only) / len(first)
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
