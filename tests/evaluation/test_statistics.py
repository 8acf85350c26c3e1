"""Intervals and tests against SciPy and closed forms."""

from __future__ import annotations

from math import lgamma, log, sqrt

import numpy as np
import pytest

from alexnet_infer.errors import UsageError
from alexnet_infer.evaluation import statistics
from alexnet_infer.evaluation.statistics import images_to_decide, mcnemar, paired_bootstrap, paired_score, wilson


def binomtest(*arguments, **options):
    return pytest.importorskip("scipy.stats").binomtest(*arguments, **options)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("total", [1, 2, 7, 500, 5_000, 50_000, 1_281_167])
def test_wilsons_interval_agrees_with_scipys(total, confidence, monkeypatch):
    monkeypatch.setattr(statistics, "LEVEL", confidence)
    for wrong in sorted({0, 1, total // 3, total // 2, total - 1, total}):
        expected = binomtest(wrong, total).proportion_ci(confidence_level=confidence, method="wilson")
        assert wilson(wrong, total) == pytest.approx(tuple(expected), rel=1e-9, abs=1e-15)


def test_wilsons_interval_is_the_one_in_the_readme_and_the_card():
    assert [f"{100 * end:.1f}" for end in wilson(2726, 5000)] == ["53.1", "55.9"]


def test_wilsons_interval_ends_exactly_at_0_and_1():
    for total in range(1, 400):
        assert wilson(0, total)[0] == 0.0
        assert wilson(total, total)[1] == 1.0
        assert 0 < wilson(0, total)[1] < 1


@pytest.mark.parametrize(("wrong", "total"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses_counts_out_of_range(wrong, total):
    with pytest.raises(UsageError, match="expected"):
        wilson(wrong, total)


@pytest.mark.parametrize(
    ("a_only", "b_only"),
    [
        (0, 0),
        (1, 0),
        (0, 5),
        (3, 3),
        (5, 3),
        (13, 31),
        (120, 275),
        (1000, 1010),
        (25_000, 25_400),
        (0, 1000),
        (12_000, 13_000),
    ],
)
def test_mcnemars_p_agrees_with_scipys_binomial_test_in_both_orders(a_only, b_only):
    expected = binomtest(a_only, a_only + b_only).pvalue if a_only + b_only else 1.0
    assert mcnemar(a_only, b_only) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(b_only, a_only) == mcnemar(a_only, b_only)


def test_mcnemars_p_by_hand():
    assert mcnemar(1, 4) == 2 * (1 + 5) / 2**5
    assert mcnemar(0, 1) == 1.0  # one image proves nothing: 2 * 1/2


def test_mcnemar_takes_all_of_ilsvrcs_images_and_numpys_integers():
    assert mcnemar(50_000, 50_000) == 1.0
    assert mcnemar(0, 50_000) == 0.0  # 2^-49999
    assert mcnemar(np.int32(1000), np.int32(1100)) == mcnemar(1000, 1100) > 0


def test_mcnemar_refuses_counts_below_0():
    with pytest.raises(UsageError, match="-1"):
        mcnemar(3, -1)


def wrong_images(both: int, a_only: int, b_only: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.repeat([True, True, False, False], [both, a_only, b_only, neither])
    b = np.repeat([True, False, True, False], [both, a_only, b_only, neither])
    return a, b


def test_the_bootstrap_of_equal_nets_is_exactly_0():
    a, _ = wrong_images(30, 20, 0, 50)
    assert paired_bootstrap(a, a) == (0.0, 0.0, 0.0)
    assert [str(value) for value in paired_bootstrap(a, a)] == ["0.0"] * 3  # none of them -0.0


@pytest.mark.parametrize(
    "counts", [(10, 120, 275, 4595), (0, 3, 3, 10), (9, 2000, 2000, 900), (5, 0, 8, 7), (5, 8, 0, 7)]
)
def test_exchanging_the_nets_changes_the_bootstraps_signs_and_nothing_else(counts):
    a, b = wrong_images(*counts)
    difference, low, high = paired_bootstrap(a, b)
    assert paired_bootstrap(b, a) == (-difference, -high, -low)
    assert low <= difference <= high
    assert low < high


@pytest.mark.parametrize(("a_only", "b_only"), [(1200, 2750), (2000, 2000), (5000, 300)])
def test_the_bootstraps_interval_has_the_width_of_the_closed_form(a_only, b_only):
    images = 50_000
    difference, low, high = paired_bootstrap(*wrong_images(9000, a_only, b_only, images - 9000 - a_only - b_only))
    assert difference == (a_only - b_only) / images
    mean_square = (a_only + b_only) / images
    deviation = sqrt((mean_square - difference**2) / images)
    assert high - low == pytest.approx(2 * 1.959964 * deviation, rel=0.04)
    assert (low + high) / 2 == pytest.approx(difference, abs=0.1 * deviation)


def test_the_bootstrap_agrees_with_scipys_that_resamples_the_images():
    bootstrap = pytest.importorskip("scipy.stats").bootstrap
    a, b = wrong_images(20, 25, 10, 45)

    def difference(a, b, axis=-1):
        return a.mean(axis) - b.mean(axis)

    scipys = bootstrap((a, b), difference, paired=True, method="percentile", n_resamples=20_000, rng=1)
    expected = scipys.confidence_interval
    assert paired_bootstrap(a, b)[1:] == pytest.approx(expected, abs=0.0101)  # one image: quantiles are whole images


def test_the_bootstraps_interval_covers_the_true_difference_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)
    rng, true, inside = np.random.default_rng(2), 0.05, 0
    for _ in range(400):
        kinds = rng.choice(3, 400, p=[0.15, 0.10, 0.75])  # only a wrong, only b, neither
        _, low, high = paired_bootstrap(kinds == 0, kinds == 1)
        inside += low <= true <= high
    assert 0.91 < inside / 400 < 0.985


def test_the_bootstrap_is_reproducible():
    a, b = wrong_images(10, 120, 275, 595)
    assert paired_bootstrap(a, b) == paired_bootstrap(a, b)


@pytest.mark.parametrize(("a", "b"), [([], []), ([True], [True, False]), ([[True]], [[True]])])
def test_the_bootstrap_refuses_arrays_that_cannot_be_compared(a, b):
    with pytest.raises(UsageError, match="expected"):
        paired_bootstrap(a, b)


COUNTS = [(25, 17, 5000), (0, 0, 10), (1, 0, 44), (0, 3, 44), (1, 7, 21), (40, 20, 160), (900, 300, 1200), (5, 5, 100)]
"""Images that only net a and only net b got wrong, and all images."""


@pytest.mark.parametrize(("a_only", "b_only", "images"), COUNTS)
def test_the_score_intervals_ends_are_roots_of_the_published_polynomial(a_only, b_only, images):
    """The oracle is the closed form of Yang, Sun and Hardin, Statistics in Medicine 32 (2013)."""
    excess, discordant, ratio = a_only - b_only, a_only + b_only, images / 1.959963984540054**2
    g = images / ratio
    polynomial = [
        images**2 * (ratio + 1) ** 2,
        -images * excess * (ratio + 1) * (4 * ratio + 1),
        2 * images * excess**2 * (3 * ratio + 2) / g - images**2 * (discordant / g + 1),
        images * excess * (2 * discordant / g + 1) - excess**3 * (4 * ratio + 1) / g,
        excess**2 * (excess**2 / g - discordant) / g,
    ]
    roots = np.roots(polynomial)
    real = roots[np.abs(roots.imag) < 1e-6].real
    low, high = paired_score(a_only, b_only, images)
    assert -1 < low < excess / images < high <= 1
    for end in (low, high):
        assert np.abs(real - end).min() < 1e-6


@pytest.mark.parametrize(("a_only", "b_only", "images"), COUNTS)
def test_the_score_interval_is_where_the_likelihood_says(a_only, b_only, images):
    """The oracle maximises the likelihood under a given difference on a grid, without Tango's formula."""
    shares = np.linspace(0, 1, 2_000_001)[1:-1]
    for end, sign in zip(paired_score(a_only, b_only, images), (1, -1), strict=True):
        a, b = shares + max(end, 0), shares - min(end, 0)  # net a's share is larger by `end`
        a, b = a[a + b < 1], b[a + b < 1]
        likelihood = a_only * np.log(a) + b_only * np.log(b) + (images - a_only - b_only) * np.log1p(-a - b)
        best = likelihood.argmax()
        deviation = sqrt(images * (a[best] + b[best] - end**2))
        assert (a_only - b_only - images * end) / deviation == pytest.approx(sign * 1.959964, abs=2e-3)


@pytest.mark.parametrize("images", [1, 10, 768, 5000])
def test_the_score_interval_without_a_differing_image_is_as_wide_as_wilsons(images):
    low, high = paired_score(0, 0, images)
    assert high == pytest.approx(wilson(0, images)[1], rel=1e-12)
    assert low == -high
    assert paired_score(images, 0, images)[1] == 1


def test_the_score_interval_agrees_with_the_bootstrap_where_many_images_differ():
    pair = wrong_images(9000, 1200, 2750, 37_050)
    assert paired_score(1200, 2750, 50_000) == pytest.approx(paired_bootstrap(*pair)[1:], abs=1e-4)


def test_exchanging_the_nets_changes_the_score_intervals_signs_and_nothing_else():
    low, high = paired_score(20, 24, 5000)
    assert paired_score(24, 20, 5000) == (-high, -low)


@pytest.mark.parametrize("counts", [(-1, 0, 5), (0, -1, 5), (3, 3, 5), (0, 0, 0)])
def test_the_score_interval_refuses_counts_out_of_range(counts):
    with pytest.raises(UsageError, match="images: expected at least one image"):
        paired_score(*counts)


@pytest.mark.parametrize(("images", "most"), [(60, 0.031), (1000, 0.026)])
def test_a_difference_as_large_as_the_limit_is_seldom_below_the_score_intervals_upper_end(images, most):
    """The oracle is the multinomial distribution of the counts: each pair of counts with its exact probability."""
    counts = np.arange(41)
    logs = np.array([lgamma(n + 1) for n in range(images + 1)])
    a, b = (grid.ravel() for grid in np.meshgrid(counts, counts))
    ends = np.array([paired_score(*pair, images) if sum(pair) <= images else (0, 0) for pair in zip(a, b, strict=True)])
    a, b, ends = a[a + b <= images], b[a + b <= images], ends[a + b <= images]
    ways = logs[images] - logs[a] - logs[b] - logs[images - a - b]
    for limit in (0.002, 0.005, 0.01):
        for share in (1e-9, 0.001, 0.003, 0.005):
            neither = log(1 - 2 * share - limit)
            chance = np.exp(ways + a * log(share + limit) + b * log(share) + (images - a - b) * neither)
            assert chance.sum() == pytest.approx(1)
            assert chance[ends[:, 1] < limit].sum() < most
            assert chance[(ends[:, 0] <= limit) & (limit <= ends[:, 1])].sum() > 0.93


@pytest.mark.parametrize(
    ("a_only", "b_only", "images", "limit"), [(20, 24, 300, 0.01), (3, 0, 300, 0.03), (9, 1, 90, 0)]
)
def test_the_number_of_images_to_decide_is_where_the_interval_ends_at_the_limit(a_only, b_only, images, limit):
    needed = images_to_decide(a_only, b_only, images, limit)
    for factor, inside in ((0.98, True), (1.02, False)):
        times = factor * needed / images  # the shares stay, so counts are no integers
        low, high = paired_score(a_only * times, b_only * times, images * times)
        assert (low <= limit <= high) is inside


def test_the_number_of_images_to_decide_by_hand():
    assert images_to_decide(0, 0, 10, 0.005) == 765  # z^2 (1 - X) / X = 3.8415 * 0.995 / 0.005 = 764.5
    assert paired_score(0, 0, 765)[1] <= 0.005 < paired_score(0, 0, 764)[1]


@pytest.mark.parametrize(("a_only", "images", "limit"), [(0, 10, 0.0), (3, 1000, 0.003), (5, 1000, 0.5 / 100)])
def test_no_number_of_images_decides_if_the_difference_is_the_limit(a_only, images, limit):
    assert images_to_decide(a_only, 0, images, limit) is None
