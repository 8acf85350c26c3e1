"""95 % intervals of a difference between nets, over seeds and images; and of a ratio, over seeds.

Nets differ by chance in two ways: another seed gives another net, and other validation images another error. Images
are the same for all nets, so the difference is taken image by image first. Seeds are few, two or three per run, so the
variance between seeds is pooled over all runs of a scale.

The variance of a difference is the sum of three terms (a two-way layout with crossed random effects):

    images    the variance of the mean difference over images, divided by their number
    seeds     the pooled variance of the error between seeds, divided by the number of seeds, for each run
    - both    what the first two terms both contain: a net's own deviation on each image

The third is subtracted once. The interval is Student's, with Satterthwaite's degrees of freedom.

Two things are assumed. All runs of a scale vary alike between seeds. And two runs with the same seed, which see the
same images in the same order, are as independent as two with different seeds; if not, the intervals are too wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Literal

import numpy as np

from alexnet_infer.errors import UsageError

LEVEL = 0.95

FEWEST = 2
"""Fewest degrees of freedom of an interval: with fewer, chance is not known well enough to give one."""


@dataclass(frozen=True)
class SeedVariance:
    """The variance of a figure between seeds, such as an error as a fraction, and its degrees of freedom."""

    variance: float
    freedom: int

    @classmethod
    def pooled(cls, runs: Sequence[np.ndarray]) -> SeedVariance:
        """Pool the variances of several runs. Each of `runs` is float [seeds], a figure per net."""
        squares, freedom = 0.0, 0
        for errors in runs:
            squares += float(((errors - errors.mean()) ** 2).sum())
            freedom += len(errors) - 1
        return cls(squares / freedom if freedom else 0.0, freedom)


Verdict = Literal["agrees", "disagrees", "undecided"]


@dataclass(frozen=True)
class Interval:
    """A difference of errors and its 95 % interval, as fractions; or a ratio and its interval."""

    value: float
    low: float
    high: float
    neutral: float = 0.0
    """The value without an effect: 0 for a difference, 1 for a ratio."""

    @property
    def verdict(self) -> Verdict:
        """Whether a claim of a value above `neutral` agrees with it: if the interval has only such values."""
        if self.low > self.neutral:
            return "agrees"
        return "disagrees" if self.high < self.neutral else "undecided"


def difference(against: np.ndarray, net: np.ndarray, seeds: SeedVariance) -> Interval | None:
    """Return the error of one run minus that of another, with its interval.

    `against` and `net` are bool [seeds, images], the wrong ones, on the same images. The numbers of seeds may differ.
    None if `seeds` has fewer than FEWEST degrees of freedom. Raises UsageError if the images are not the same number.
    """
    _check_same(against, net)
    of_images = _variance_over_images(against.mean(0) - net.mean(0))
    of_seeds = seeds.variance * (1 / len(against) + 1 / len(net))
    both = _own_variance(against) + _own_variance(net)
    return _interval(float(against.mean() - net.mean()), of_images, of_seeds, both, seeds.freedom, net.shape[1])


def within(first: np.ndarray, second: np.ndarray, seeds: SeedVariance) -> Interval | None:
    """Return the mean error of `first` minus that of `second`, with its interval.

    Both are [seeds, images], bool or shares, of the same nets in two ways, such as with one view and with ten. So the
    difference is taken net by net, and `seeds` is its variance. None as in `difference`.
    """
    _check_same(first, second)
    values = np.subtract(first, second, dtype=np.float64)
    of_images, of_seeds = _variance_over_images(values.mean(0)), seeds.variance / len(values)
    return _interval(float(values.mean()), of_images, of_seeds, _own_variance(values), seeds.freedom, values.shape[1])


def over_images(first: np.ndarray, second: np.ndarray) -> Interval | None:
    """Return the mean error of `first` minus that of `second`, with an interval over images, for these nets only.

    Both are bool [nets, images]. None with one image.
    """
    _check_same(first, second)
    values = first.mean(0) - second.mean(0)
    freedom = max(FEWEST, len(values) - 1)
    return _interval(float(values.mean()), _variance_over_images(values), 0.0, 0.0, freedom, len(values))


def gap_difference(
    against: np.ndarray,
    net: np.ndarray,
    against_training: np.ndarray,
    net_training: np.ndarray,
    *,
    images: int,
    seeds: SeedVariance,
) -> Interval | None:
    """Return the gap between validation and training error of one run minus that of another, with its interval.

    `against` and `net` are bool [seeds, images], the wrong validation images. The others are float [seeds], errors on
    at least `images` training images. `seeds` is the variance of the gap. The training images are taken to be others
    for each run, although they are the same, which makes the interval wider. None as in `difference`.
    """
    _check_same(against, net)
    value = against.mean() - against_training.mean() - net.mean() + net_training.mean()
    sampled = sum(float(e.mean() * (1 - e.mean())) / images for e in (against_training, net_training))
    of_images = _variance_over_images(against.mean(0) - net.mean(0)) + sampled
    of_seeds = seeds.variance * (1 / len(against) + 1 / len(net))
    both = _own_variance(against) + _own_variance(net)
    return _interval(float(value), of_images, of_seeds, both, seeds.freedom, net.shape[1])


def ratio(against: np.ndarray, net: np.ndarray, seeds: SeedVariance) -> Interval | None:
    """Return how many times the values of `net` those of `against` are, as a ratio of geometric means.

    Both are float [seeds], above 0. `seeds` is the variance of their logarithms between seeds. None as in `difference`.
    """
    logs = np.log(against), np.log(net)
    of_seeds = seeds.variance * (1 / len(against) + 1 / len(net))
    # There is no variance over images, and so their number, 2, does not matter.
    found = _interval(float(logs[0].mean() - logs[1].mean()), 0.0, of_seeds, 0.0, seeds.freedom, images=2)
    if found is None:
        return None
    return Interval(*(float(np.exp(value)) for value in (found.value, found.low, found.high)), neutral=1.0)


def t_quantile(freedom: float) -> float:
    """Return Student's t that a fraction LEVEL is within, for at least 2 degrees of freedom.

    By the expansion in 1 / freedom of Abramowitz and Stegun (26.7.5). It is 0.8 % too small with 2 degrees of freedom,
    0.1 % with 3, and less with more.
    """
    z, n = NormalDist().inv_cdf((1 + LEVEL) / 2), freedom
    terms = (
        (z**3 + z) / (4 * n),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3),
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4),
    )
    return z + sum(terms)


def _check_same(first: np.ndarray, second: np.ndarray) -> None:
    if first.shape[1] != second.shape[1]:
        raise UsageError(f"{first.shape[1]} and {second.shape[1]} images: expected the same images for both")


def _variance_over_images(values: np.ndarray) -> float:
    """Variance of the mean of `values`, float [images]. 0 with one image."""
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0


def _own_variance(values: np.ndarray) -> float:
    """Variance of the mean of [seeds, images] due to what is particular to a net on an image. 0 with one seed."""
    seeds, images = values.shape
    if seeds < 2 or images < 2:
        return 0.0
    main = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    return float((main**2).sum()) / ((seeds - 1) * (images - 1)) / (seeds * images)


def _interval(
    value: float, of_images: float, of_seeds: float, both: float, freedom: int, images: int
) -> Interval | None:
    if freedom < FEWEST or images < 2:
        return None
    variance = max(of_images + of_seeds - both, of_images, of_seeds)
    if not variance:
        return Interval(value, value, value)
    # Satterthwaite: a variance of two independent parts has about the degrees of freedom of the larger one.
    parts = of_seeds**2 / freedom + of_images**2 / (images - 1)
    half = t_quantile(max(FEWEST, variance**2 / parts)) * sqrt(variance)
    return Interval(value, value - half, value + half)
