"""Intervals and tests against SciPy and closed forms."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from alexnet_infer.errors import UsageError
from alexnet_infer.evaluation import statistics
from alexnet_infer.evaluation.statistics import mcnemar, paired_bootstrap, wilson


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
