"""Intervals against SciPy, against sums over all nets and images, and in simulations whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np
import pytest

from alexnet_infer.errors import UsageError
from train.reproduction.intervals import (
    FEWEST,
    LEVEL,
    Interval,
    SeedVariance,
    difference,
    gap_difference,
    over_images,
    ratio,
    t_quantile,
    within,
)

TRIALS = 1000
IMAGES = 200
NOMINAL = (0.925, 0.985)
"""Accepted shares of intervals that include the truth. Chance moves the share of 1000 trials by 0.7 % (one sigma)."""


def scipy_t(freedom: float) -> float:
    return float(pytest.importorskip("scipy.stats").t.ppf((1 + LEVEL) / 2, freedom))


def normal_share(threshold: float, variance: float) -> float:
    """Return the probability that a normal number of mean 0 is above `threshold`."""
    return float(pytest.importorskip("scipy.stats").norm.sf(threshold / sqrt(variance)))


@pytest.mark.parametrize(
    ("freedom", "too_small"), [(2, 8e-3), (3, 1.3e-3), (4, 4e-4), (5, 2e-4), (7.5, 3e-5), (30, 1e-6), (1e6, 1e-9)]
)
def test_students_t_is_scipys_or_little_less(freedom, too_small):
    assert scipy_t(freedom) * (1 - too_small) <= t_quantile(freedom) <= scipy_t(freedom) * (1 + 1e-9)


def test_students_t_falls_with_the_degrees_of_freedom_to_the_normal_quantile():
    values = [t_quantile(n) for n in np.linspace(2, 100, 500)]
    assert values == sorted(values, reverse=True)
    assert t_quantile(1e12) == pytest.approx(1.959963984540054, rel=1e-10)


class Nets:
    """Nets with normal latent scores: an image is wrong for a net if their score is above the run's threshold.

    The score is the sum of effects of the image, of the run on the image, of the seed, and of the net on the image.
    """

    IMAGE, RUN, SEED, NET = 1.0, 0.6, 0.01, 0.5

    def __init__(self, rng: np.random.Generator, images: int = IMAGES) -> None:
        self.rng, self.image = rng, rng.normal(0, sqrt(self.IMAGE), images)

    @classmethod
    def truth(cls, threshold: float) -> float:
        """The error of a run over all images and seeds."""
        return normal_share(threshold, cls.IMAGE + cls.RUN + cls.SEED + cls.NET)

    def scores(self, seeds: int, thresholds: list[float]) -> list[np.ndarray]:
        """Return the wrong images of the same new nets with each threshold."""
        shape = (seeds, len(self.image))
        scores = self.image + self.rng.normal(0, sqrt(self.RUN), shape[1])
        scores = scores + self.rng.normal(0, sqrt(self.SEED), (seeds, 1)) + self.rng.normal(0, sqrt(self.NET), shape)
        return [scores > threshold for threshold in thresholds]

    def run(self, seeds: int, threshold: float) -> np.ndarray:
        return self.scores(seeds, [threshold])[0]


def coverage(trial: Callable[[np.random.Generator], Interval | None], truth: float) -> float:
    rng = np.random.default_rng(20261201)
    intervals = [trial(rng) for _ in range(TRIALS)]
    return float(np.mean([i is not None and i.low <= truth <= i.high for i in intervals]))


@pytest.mark.parametrize(("seeds", "runs"), [((2, 2), 5), ((3, 2), 4), ((1, 3), 4)], ids=str)
def test_95_of_100_intervals_of_a_difference_include_the_true_one(seeds, runs):
    def trial(rng: np.random.Generator) -> Interval | None:
        nets = Nets(rng)
        against, net = nets.run(seeds[0], 0.0), nets.run(seeds[1], 0.3)
        others = [nets.run(2, 0.1) for _ in range(runs - 2)]
        return difference(against, net, SeedVariance.pooled([run.mean(1) for run in (against, net, *others)]))

    share = coverage(trial, Nets.truth(0.0) - Nets.truth(0.3))
    assert NOMINAL[0] <= share <= NOMINAL[1], share


def test_neither_images_nor_seeds_alone_explain_the_spread_of_simulated_differences():
    """So an interval that left out one source of chance would fail the test above."""
    rng = np.random.default_rng(1)
    pairs = [(nets.run(2, 0.0), nets.run(2, 0.3)) for nets in (Nets(rng) for _ in range(TRIALS // 2))]
    total = np.var([against.mean() - net.mean() for against, net in pairs])
    images = np.mean([(against.mean(0) - net.mean(0)).var(ddof=1) / IMAGES for against, net in pairs])
    seeds = np.mean([run.mean(1).var(ddof=1) / 2 for pair in pairs for run in pair]) * 2
    assert images < 0.85 * total
    assert seeds < 0.85 * total


def gains(first: np.ndarray, second: np.ndarray) -> SeedVariance:
    """Return the variance between nets of the difference of their errors in two ways."""
    return SeedVariance.pooled([first.mean(1) - second.mean(1)])


@pytest.mark.parametrize("seeds", [3, 5])
def test_95_of_100_intervals_of_the_same_nets_in_two_ways_include_the_true_difference(seeds):
    def trial(rng: np.random.Generator) -> Interval | None:
        return within(*(scores := Nets(rng).scores(seeds, [0.0, 0.4])), gains(*scores))

    share = coverage(trial, Nets.truth(0.0) - Nets.truth(0.4))
    assert 0.92 <= share <= 0.99, share


@pytest.mark.parametrize("same", [False, True], ids=["other-images", "same-images"])
def test_at_least_95_of_100_intervals_of_a_gap_include_the_true_one(same):
    """The training images of the two runs are other ones, or, for which the interval is wider than needed, the same."""

    def trial(rng: np.random.Generator) -> Interval | None:
        nets, training = Nets(rng), Nets(rng)
        runs, errors = [], []
        for number, threshold in enumerate((0.0, 0.3, 0.1, 0.1, 0.1)):
            runs.append(nets.run(2, threshold))
            if not same and number:
                training = Nets(rng)
            errors.append(training.run(2, threshold + 0.5 * (number != 1)).mean(1))
        pooled = SeedVariance.pooled([run.mean(1) - of_run for run, of_run in zip(runs, errors, strict=True)])
        return gap_difference(runs[0], runs[1], errors[0], errors[1], images=IMAGES, seeds=pooled)

    truth = Nets.truth(0.0) - Nets.truth(0.5) - (Nets.truth(0.3) - Nets.truth(0.3))
    share = coverage(trial, truth)
    assert NOMINAL[0] <= share <= (1 if same else 0.99), share


def own_by_loops(values: np.ndarray) -> float:
    """Variance of the mean due to the interaction of net and image: the two-way layout's residual mean square."""
    seeds, images = values.shape
    grand = sum(float(x) for x in values.ravel()) / values.size
    total = 0.0
    for i in range(seeds):
        for j in range(images):
            row = sum(float(x) for x in values[i]) / images
            column = sum(float(x) for x in values[:, j]) / seeds
            total += (float(values[i, j]) - row - column + grand) ** 2
    return total / ((seeds - 1) * (images - 1)) / values.size


def test_95_of_100_intervals_of_a_ratio_include_the_true_one():
    """Three seeds of six runs, whose values are log-normal, and between the first two a ratio of 4."""
    rng, hits = np.random.default_rng(5), 0
    for _ in range(2000):
        runs = np.exp(rng.normal(0, 0.1, (6, 3)))
        found = ratio(4 * runs[0], runs[1], SeedVariance.pooled(list(np.log(runs))))
        assert found is not None
        assert found.value == pytest.approx(4 * np.prod(runs[0] / runs[1]) ** (1 / 3))
        hits += found.low <= 4 <= found.high
    assert 0.935 < hits / 2000 < 0.965


def test_the_interval_of_a_ratio_is_that_of_students_t_on_logarithms():
    net, against = np.array([10.0, 12.0, 11.0]), np.array([40.0, 50.0, 45.0])
    seeds = SeedVariance.pooled([np.log(net), np.log(against)])
    middle, half = np.log(against).mean() - np.log(net).mean(), t_quantile(4) * sqrt(seeds.variance * 2 / 3)
    found = ratio(against, net, seeds)
    assert (found.value, found.low, found.high) == pytest.approx(tuple(np.exp([middle, middle - half, middle + half])))
    assert (found.neutral, found.verdict) == (1, "agrees")
    turned = ratio(net, against, seeds)
    assert (turned.value, turned.low, turned.high) == pytest.approx((1 / found.value, 1 / found.high, 1 / found.low))
    assert turned.verdict == "disagrees"
    assert ratio(against, net, SeedVariance(0.0, 1)) is None, "too few seeds"


def test_the_half_width_is_that_of_the_two_way_layout_summed_by_hand():
    rng = np.random.default_rng(3)
    against, net = rng.random((3, 12)) < 0.6, rng.random((2, 12)) < 0.4
    seeds = SeedVariance(0.02, 6)
    column = [float(a) - float(n) for a, n in zip(against.mean(0), net.mean(0), strict=True)]
    centre = sum(column) / 12
    of_images = sum((x - centre) ** 2 for x in column) / 11 / 12
    of_seeds = 0.02 / 3 + 0.02 / 2
    variance = of_images + of_seeds - own_by_loops(against) - own_by_loops(net)
    assert variance > max(of_images, of_seeds), "so that all three terms matter"
    freedom = variance**2 / (of_seeds**2 / 6 + of_images**2 / 11)
    found = difference(against, net, seeds)
    assert found is not None
    assert found.value == pytest.approx(centre)
    half = scipy_t(freedom) * sqrt(variance)
    assert (found.value - found.low, found.high - found.value) == pytest.approx((half, half), rel=2e-3)


def test_the_interval_of_the_same_nets_is_that_of_the_two_way_layout_summed_by_hand():
    rng = np.random.default_rng(4)
    first = rng.random((4, 15)) < np.array([[0.9], [0.6], [0.3], [0.8]])
    second = rng.random((4, 15)) < 0.3
    values = first.astype(float) - second
    means = [sum(row) / 15 for row in values.tolist()]
    centre = sum(means) / 4
    of_seeds = sum((x - centre) ** 2 for x in means) / 3 / 4
    column = [sum(c) / 4 for c in values.T.tolist()]
    of_images = sum((x - centre) ** 2 for x in column) / 14 / 15
    variance = max(of_images + of_seeds - own_by_loops(values), of_images, of_seeds)
    half = scipy_t(variance**2 / (of_seeds**2 / 3 + of_images**2 / 14)) * sqrt(variance)
    found = within(first, second, gains(first, second))
    assert found is not None
    assert found.value == pytest.approx(centre)
    assert (found.value - found.low, found.high - found.value) == pytest.approx((half, half), rel=2e-3)


def test_the_variance_between_seeds_is_pooled_with_the_degrees_of_freedom_as_weights():
    runs = [np.array([0.5, 0.52]), np.array([0.4, 0.43, 0.49]), np.array([0.3, 0.3, 0.31, 0.35])]
    pooled = SeedVariance.pooled(runs)
    assert pooled.freedom == 1 + 2 + 3
    assert pooled.variance == pytest.approx(sum(k * r.var(ddof=1) for k, r in zip((1, 2, 3), runs, strict=True)) / 6)


def test_the_level_of_a_runs_error_and_runs_with_one_seed_do_not_change_the_pooled_variance():
    runs = [np.array([0.1, 0.2]), np.array([0.3, 0.7])]
    shifted = SeedVariance.pooled([runs[0] + 0.5, runs[1] - 0.25, np.array([0.9])])
    assert shifted.freedom == 2
    assert shifted.variance == pytest.approx(SeedVariance.pooled(runs).variance)


def test_without_two_seeds_of_any_run_there_is_no_variance_between_seeds():
    assert SeedVariance.pooled([]) == SeedVariance.pooled([np.array([0.5])]) == SeedVariance(0.0, 0)


def negated(interval: Interval | None) -> tuple[float, float, float]:
    assert interval is not None
    return (-interval.value, -interval.high, -interval.low)


def ends(interval: Interval | None) -> tuple[float, float, float]:
    assert interval is not None
    return (interval.value, interval.low, interval.high)


def test_exchanging_the_runs_turns_the_interval_around():
    rng = np.random.default_rng(5)
    a, b = rng.random((3, 50)) < 0.6, rng.random((3, 50)) < 0.4
    seeds = SeedVariance(0.001, 5)
    assert ends(difference(a, b, seeds)) == pytest.approx(negated(difference(b, a, seeds)))
    assert ends(within(a, b, seeds)) == pytest.approx(negated(within(b, a, seeds)))
    assert ends(over_images(a, b)) == pytest.approx(negated(over_images(b, a)))
    ta, tb = np.array([0.1, 0.2, 0.2]), np.array([0.3, 0.4, 0.3])
    one = gap_difference(a, b, ta, tb, images=50, seeds=seeds)
    assert ends(one) == pytest.approx(negated(gap_difference(b, a, tb, ta, images=50, seeds=seeds)))


def test_the_order_of_seeds_and_images_does_not_matter():
    rng = np.random.default_rng(6)
    a, b = rng.random((3, 50)) < 0.6, rng.random((4, 50)) < 0.4
    order, seeds = rng.permutation(50), SeedVariance(0.001, 5)
    other = difference(a[::-1, order], b[[2, 0, 3, 1]][:, order], seeds)
    assert ends(difference(a, b, seeds)) == pytest.approx(ends(other))


def test_a_gap_with_perfect_training_is_the_difference_of_validation_errors():
    rng = np.random.default_rng(7)
    a, b = rng.random((3, 50)) < 0.6, rng.random((3, 50)) < 0.4
    seeds, none = SeedVariance(0.001, 5), np.zeros(3)
    assert ends(gap_difference(a, b, none, none, images=50, seeds=seeds)) == pytest.approx(
        ends(difference(a, b, seeds))
    )


def test_a_gap_is_validation_error_minus_training_error_of_the_first_run_minus_those_of_the_second():
    a, b = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool), np.array([[1, 0, 0, 0], [1, 0, 0, 0]], bool)
    gap = gap_difference(a, b, np.array([0.1, 0.2]), np.array([0.2, 0.2]), images=4, seeds=SeedVariance(0.01, 3))
    assert gap is not None
    assert gap.value == pytest.approx((0.625 - 0.15) - (0.25 - 0.2))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.001, 0.2, "agrees"),
        (-0.2, -0.001, "disagrees"),
        (-0.1, 0.1, "undecided"),
        (0.0, 0.2, "undecided"),
        (-0.2, 0.0, "undecided"),
        (0.0, 0.0, "undecided"),
    ],
)
def test_a_verdict_needs_an_interval_without_0(low, high, verdict):
    assert Interval((low + high) / 2, low, high).verdict == verdict


def test_with_too_few_degrees_of_freedom_there_is_no_interval():
    rng = np.random.default_rng(8)
    a, b = rng.random((3, 50)) < 0.6, rng.random((3, 50)) < 0.4
    errors = np.zeros(3)
    for freedom in range(FEWEST + 1):
        seeds = SeedVariance(0.001, freedom)
        known = freedom >= FEWEST
        assert (difference(a, b, seeds) is not None) == known
        assert (gap_difference(a, b, errors, errors, images=50, seeds=seeds) is not None) == known
        assert (within(a, b, seeds) is not None) == known


def test_nets_that_never_differ_have_an_interval_without_width():
    same = np.zeros((3, 50), bool)
    assert difference(same, same, SeedVariance(0.0, 4)) == Interval(0.0, 0.0, 0.0)
    assert within(~same, same, SeedVariance(0.0, 2)) == Interval(1.0, 1.0, 1.0)
    assert over_images(~same, same) == Interval(1.0, 1.0, 1.0)


def test_other_numbers_of_images_are_refused():
    with pytest.raises(UsageError, match="50 and 49 images: expected the same images for both"):
        difference(np.zeros((2, 50), bool), np.zeros((2, 49), bool), SeedVariance(0.1, 4))
    with pytest.raises(UsageError, match="50 and 49 images"):
        within(np.zeros((2, 50), bool), np.zeros((2, 49), bool), SeedVariance(0.1, 4))
    with pytest.raises(UsageError, match="50 and 49 images"):
        over_images(np.zeros((2, 50), bool), np.zeros((1, 49), bool))


def test_one_image_gives_no_interval_and_no_warning():
    one = np.ones((3, 1), bool)
    assert difference(one, ~one, SeedVariance(0.001, 4)) is None
    assert within(one, ~one, SeedVariance(0.001, 4)) is None
    assert over_images(one, ~one[:1]) is None


def test_an_interval_over_images_is_that_of_the_mean_over_the_nets_and_of_no_other_nets():
    rng = np.random.default_rng(9)
    five, mean = rng.random((5, 400)) < 0.5, rng.random((1, 400)) < 0.4
    values = five.mean(0) - mean[0]
    found = over_images(five, mean)
    assert found is not None
    half = scipy_t(399) * values.std(ddof=1) / sqrt(400)
    assert ends(found) == pytest.approx((values.mean(), values.mean() - half, values.mean() + half), rel=1e-3)
