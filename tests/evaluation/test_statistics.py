"""Intervals and tests against SciPy, tallies against hand-counted cases and a sort."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import sqrt

import numpy as np
import pytest

from alexnet_infer.errors import UsageError
from alexnet_infer.evaluation.statistics import (
    RECORD,
    UNIT_BITS,
    Calibration,
    Tally,
    mcnemar,
    paired_bootstrap,
    wilson,
)
from alexnet_infer.metrics import topk_correct


def binomtest(*arguments, **options):
    return pytest.importorskip("scipy.stats").binomtest(*arguments, **options)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("total", [1, 2, 7, 500, 5_000, 50_000, 1_281_167])
def test_wilsons_interval_agrees_with_scipys(total, confidence):
    for wrong in sorted({0, 1, total // 3, total // 2, total - 1, total}):
        expected = binomtest(wrong, total).proportion_ci(confidence_level=confidence, method="wilson")
        assert wilson(wrong, total, confidence) == pytest.approx(tuple(expected), rel=1e-9, abs=1e-15)


def test_wilsons_interval_is_the_one_in_the_readme_and_the_card():
    assert [f"{100 * end:.1f}" for end in wilson(2726, 5000)] == ["53.1", "55.9"]


def test_wilsons_interval_ends_exactly_at_0_and_1():
    for total in range(1, 400):
        assert wilson(0, total)[0] == 0.0
        assert wilson(total, total)[1] == 1.0
        assert 0 < wilson(0, total)[1] < 1


@pytest.mark.parametrize("arguments", [(-1, 5), (6, 5), (0, 0), (1, 5, 0), (1, 5, 1), (1, 5, float("nan"))])
def test_wilson_refuses_counts_and_confidences_out_of_range(arguments):
    with pytest.raises(UsageError, match="expected"):
        wilson(*arguments)


@pytest.mark.parametrize(
    ("a_only", "b_only"),
    [(0, 0), (1, 0), (0, 5), (3, 3), (5, 3), (120, 275), (1000, 1010), (25_000, 25_400), (0, 1000), (12_000, 13_000)],
)
def test_mcnemars_p_agrees_with_scipys_binomial_test_in_both_orders(a_only, b_only):
    expected = binomtest(a_only, a_only + b_only).pvalue if a_only + b_only else 1.0
    assert mcnemar(a_only, b_only) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(b_only, a_only) == mcnemar(a_only, b_only)


def test_mcnemars_p_agrees_with_statsmodels():
    oracle = pytest.importorskip("statsmodels.stats.contingency_tables").mcnemar
    assert mcnemar(13, 31) == pytest.approx(oracle([[100, 13], [31, 50]], exact=True).pvalue)


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


def test_the_bootstrap_agrees_with_resampling_the_images():
    a, b = wrong_images(20, 25, 10, 45)
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, 100, (20_000, 100))
    differences = (a[drawn].astype(int) - b[drawn]).mean(1)
    expected = np.quantile(differences, [0.025, 0.975])
    assert paired_bootstrap(a, b)[1:] == pytest.approx(expected, abs=0.0101)  # one image: quantiles are whole images


def test_the_bootstraps_interval_covers_the_true_difference_as_often_as_it_says():
    rng, true, inside = np.random.default_rng(2), 0.05, 0
    for _ in range(400):
        kinds = rng.choice(3, 400, p=[0.15, 0.10, 0.75])  # only a wrong, only b, neither
        _, low, high = paired_bootstrap(kinds == 0, kinds == 1, resamples=1000)
        inside += low <= true <= high
    assert 0.91 < inside / 400 < 0.985


def test_the_bootstrap_is_reproducible_and_depends_on_the_seed():
    a, b = wrong_images(10, 120, 275, 595)
    assert paired_bootstrap(a, b) == paired_bootstrap(a, b, seed=0)
    assert len({paired_bootstrap(a, b, resamples=99, seed=seed) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("a", "b", "options"),
    [([], [], {}), ([True], [True, False], {}), ([[True]], [[True]], {}), ([True], [True], {"resamples": 0})],
)
def test_the_bootstrap_refuses_arrays_that_cannot_be_compared(a, b, options):
    with pytest.raises(UsageError, match="expected"):
        paired_bootstrap(a, b, **options)


def tally(probabilities, labels, net_labels=None, classes: int | None = None) -> Tally:
    probabilities = np.asarray(probabilities, np.float32)
    result = Tally(classes or probabilities.shape[1])
    result.add(probabilities, np.asarray(labels), np.asarray(labels if net_labels is None else net_labels))
    return result


TIED = [0.1, 0.3, 0.1, 0.1, 0.2, 0.1, 0.1]  # ranks: 1, 4, then 0, 2, 3, 5, 6 by index


@pytest.mark.parametrize(("label", "rank"), [(1, 1), (4, 2), (0, 3), (2, 4), (3, 5), (5, 6), (6, 7)])
def test_among_equal_probabilities_the_lower_index_ranks_higher(label, rank):
    tied = tally([TIED], [label])
    assert [bool(tied.wrong(k)[0]) for k in range(1, 8)] == [k < rank for k in range(1, 8)]


def test_a_net_with_equal_probabilities_guesses_class_0_and_gets_only_the_first_five_right():
    flat = tally(np.full((7, 7), 1 / 7), np.arange(7))
    assert flat.wrong(1).tolist() == [False] + [True] * 6
    assert flat.wrong(5).tolist() == [False] * 5 + [True] * 2
    assert flat.confusions() == {(label, 0): 1 for label in range(1, 7)}


@pytest.mark.parametrize("k", [1, 2, 5])
def test_counts_are_those_of_the_metric_on_probabilities_full_of_ties(k):
    rng = np.random.default_rng(3)
    probabilities, labels = rng.integers(0, 4, (300, 9)) / 8, rng.integers(0, 9, 300)
    right = topk_correct(probabilities, labels, k)
    assert int((~tally(probabilities, labels).wrong(k)).sum()) == right
    assert 0 < right < 300


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_with_fewer_than_five_classes_every_readable_image_is_right_in_the_top_five(classes):
    few = tally(np.full((classes, classes), 0.1), np.arange(classes))
    few.add_unreadable(0)
    assert few.wrong(5).tolist() == [False] * classes + [True]


def test_an_image_of_a_class_that_the_net_lacks_is_wrong_for_every_k():
    rows = [[0.2, 0.8], [0.2, 0.8]]
    lacking = tally(rows, [2, 1], net_labels=[-1, 1], classes=3)
    for k in (1, 2, 5, 10_000):
        assert lacking.wrong(k).tolist() == [True, False]
    assert lacking.confusions() == {(2, 1): 1}
    assert lacking.per_class(1).tolist() == [0, 0, 1]
    assert lacking.calibration().bins[12].images == 2  # both images are readable, so the wrong guess counts
    assert lacking.calibration().bins[12].accuracy == 0.5


def test_label_and_guess_are_indices_of_different_class_lists():
    """The data's classes 0, 1, 2 are the net's 3, 0, 4."""
    probabilities = np.full((3, 6), 0.1)
    probabilities[[0, 1, 2], [3, 5, 5]] = 0.5
    mapped = tally(probabilities, [0, 1, 2], net_labels=[3, 0, 4], classes=3)
    assert mapped.wrong(1).tolist() == [False, True, True]
    assert mapped.confusions() == {(1, 5): 1, (2, 5): 1}
    assert mapped.per_class().tolist() == [1, 1, 1]
    assert mapped.per_class(1).tolist() == [0, 1, 1]


def test_an_unreadable_image_is_wrong_and_counts_only_in_its_class():
    counts = tally([[0.9, 0.1], [0.9, 0.1]], [0, 1])
    counts.add_unreadable(1)
    assert len(counts) == 3
    assert counts.wrong(1).tolist() == [False, True, True]
    assert counts.wrong(5).tolist() == [False, False, True]
    assert counts.per_class().tolist() == [1, 2]
    assert counts.per_class(1).tolist() == [0, 2]
    assert counts.per_class(5).tolist() == [0, 1]
    assert counts.confusions() == {(1, 0): 1}
    assert sum(bin_.images for bin_ in counts.calibration().bins) == 2


def test_confusions_count_only_the_wrong_pairs():
    rng = np.random.default_rng(4)
    probabilities, labels = rng.random((500, 6)), rng.integers(0, 6, 500)
    guesses = probabilities.argmax(1)
    expected = Counter((int(a), int(b)) for a, b in zip(labels, guesses, strict=True) if a != b)
    assert tally(probabilities, labels).confusions() == expected
    assert max(expected.values()) > 1


def test_an_ensemble_can_be_right_where_each_member_errs_and_wrong_where_one_is_right():
    first = np.array([[0.5, 0.4, 0.1], [0.6, 0.4, 0.0], [0.8, 0.2, 0.0]])
    second = np.array([[0.1, 0.4, 0.5], [0.0, 0.4, 0.6], [0.1, 0.3, 0.6]])
    labels = [1, 0, 2]  # the mean is [.3 .4 .3], [.3 .4 .3], [.45 .25 .3]
    wrong = [tally(p, labels).wrong(1).tolist() for p in (first, second, (first + second) / 2)]
    assert wrong == [[True, False, True], [True, True, False], [False, True, True]]


def figures(counted: Tally) -> tuple:
    wrong = [counted.wrong(k).tolist() for k in (1, 5)]
    classes = [counted.per_class(k).tolist() for k in (None, 1, 5)]
    return len(counted), wrong, classes, counted.confusions(), counted.calibration()


def mixed(images: int = 200, classes: int = 11) -> list[tuple]:
    """(Probabilities, or None where the image can't be read, label in the data, label in the net)."""
    rng = np.random.default_rng(5)
    rows = rng.dirichlet(np.full(classes, 0.3), images).astype(np.float32)
    labels = rng.integers(0, 7, images)
    of_net = np.array([3, -1, 0, 10, 7, 2, 5])[labels]
    return [
        (None if i % 17 == 5 else row, *pair) for i, (row, *pair) in enumerate(zip(rows, labels, of_net, strict=True))
    ]


def tally_of(images: list[tuple], chunk: int) -> Tally:
    result, waiting = Tally(7), []

    def flush() -> None:
        if waiting:
            result.add(*(np.array(column) for column in zip(*waiting, strict=True)))
            waiting.clear()

    for row, label, of_net in images:
        if row is None:
            flush()
            result.add_unreadable(label)
        else:
            waiting.append((row, label, of_net))
            if len(waiting) == chunk:
                flush()
    flush()
    return result


def test_chunks_and_parts_of_any_size_give_identical_figures():
    images = mixed()
    whole = figures(tally_of(images, chunk=1000))
    assert 0 < sum(whole[1][1]) < sum(whole[1][0]) < len(images)  # some right, some right in the top five only
    rng = np.random.default_rng(6)
    for _ in range(10):
        ends = sorted(rng.integers(0, len(images) + 1, 3).tolist())
        merged = Tally(7)
        for begin, end in zip([0, *ends], [*ends, len(images)], strict=True):
            merged.merge(tally_of(images[begin:end], chunk=int(rng.integers(1, 40))))
        assert figures(merged) == whole


def test_calibration_is_exactly_independent_of_the_images_order_where_a_float_sum_is_not():
    rng = np.random.default_rng(7)
    confidences, labels = rng.random(3000), rng.integers(0, 2, 3000)
    rows, order = np.stack([confidences, 1 - confidences], 1), rng.permutation(3000)
    results = []
    for arrangement in (slice(None), order):
        counted = Tally(2)
        counted.add(rows[arrangement], labels[arrangement], labels[arrangement])
        results.append(counted.calibration())
    assert sum(rows.max(1).tolist()) != sum(rows[order].max(1).tolist())
    assert results[0] == results[1]


def test_reading_figures_does_not_change_them():
    counted = tally(np.eye(3), [0, 1, 2])
    before = figures(counted)
    assert figures(counted) == before
    counted.add_unreadable(1)
    assert len(counted) == len(counted.records) == 4
    assert counted.records.dtype == RECORD


def test_an_empty_tally_has_no_images_and_no_calibration():
    empty = Tally(3)
    empty.add(np.empty((0, 4)), np.empty(0, int), np.empty(0, int))
    assert len(empty) == len(empty.wrong(1)) == 0
    assert empty.per_class().tolist() == [0, 0, 0]
    assert empty.confusions() == {}
    assert empty.calibration().ece is None


def test_tallies_of_other_sets_do_not_merge():
    with pytest.raises(UsageError, match="3 and 4 classes"):
        Tally(3).merge(Tally(4))


@pytest.mark.parametrize(
    ("probabilities", "data_labels", "net_labels", "expected"),
    [
        ([[0.5, 0.5], [0.5, np.nan]], [0, 0], [0, 0], r"probabilities\[1, 1\]=nan: expected a number from 0 to 1$"),
        ([[-3.0, 4.0]], [0], [0], r"probabilities\[0, 0\]=-3\.0: expected"),
        ([[0.0, 2.0]], [0], [0], r"probabilities\[0, 1\]=2\.0: expected"),
        ([0.5, 0.5], [0], [0], "probabilities"),
        (np.empty((1, 0)), [0], [0], "probabilities"),
        ([[0.5, 0.5]] * 2, [2, 3], [0, 0], r"data_labels\[1\]=3: expected an integer from 0 to 2$"),
        ([[0.5, 0.5]], [-1], [0], r"data_labels\[0\]=-1: expected"),
        ([[0.5, 0.5]], [0.0], [0], "data_labels of type float64: expected integers from 0 to 2$"),
        ([[0.5, 0.5]], [0, 1], [0, 1], "data_labels"),
        ([[0.5, 0.5]] * 2, [0, 0], [-1, 2], r"net_labels\[1\]=2: expected an integer from -1 to 1$"),
        ([[0.5, 0.5]], [0], [-2], r"net_labels\[0\]=-2: expected"),
    ],
)
def test_invalid_values_shapes_and_labels_are_refused(probabilities, data_labels, net_labels, expected):
    counted = Tally(3)
    with pytest.raises(UsageError, match=expected):
        counted.add(np.array(probabilities), np.array(data_labels), np.array(net_labels))
    assert len(counted) == 0


def test_ece_by_hand():
    """Four bins. Below 0.5: confidences 0.25 and 0.375, one right. From 0.75: 0.75 and 1, both right."""
    unit = 2**UNIT_BITS
    confidences = np.array([unit // 4, unit * 3 // 8, unit * 3 // 4, unit])
    result = Calibration.of(confidences, np.array([True, False, True, True]), bins=4)
    assert [bin_.images for bin_ in result.bins] == [0, 2, 0, 2]
    assert [(bin_.low, bin_.high) for bin_ in result.bins] == [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)]
    assert [bin_.confidence for bin_ in result.bins] == [None, 0.3125, None, 0.875]
    assert [bin_.accuracy for bin_ in result.bins] == [None, 0.5, None, 1.0]
    assert result.ece == 0.5 * (0.5 - 0.3125) + 0.5 * (1 - 0.875)


def test_ece_agrees_with_its_definition_in_fractions():
    rng = np.random.default_rng(8)
    rows, labels = rng.dirichlet(np.full(4, 0.5), 400).astype(np.float32), rng.integers(0, 4, 400)
    expected = Fraction(0)
    best, right = rows.max(1), rows.argmax(1) == labels
    for i in range(15):
        chosen = [j for j in range(400) if min(int(Fraction(float(best[j])) * 15), 14) == i]
        if chosen:
            gap = sum(Fraction(float(best[j])) - int(right[j]) for j in chosen)
            expected += abs(gap) / 400
    result = tally(rows, labels).calibration()
    assert result.ece == pytest.approx(float(expected), abs=1e-12)
    assert len(result.bins) == 15
    assert 0.05 < result.ece < 1


def test_a_net_whose_confidence_equals_its_accuracy_has_no_calibration_error():
    rows = np.tile([0.75, 0.25], (8, 1))
    assert tally(rows, [0, 0, 0, 1] * 2).calibration().ece == 0.0
    assert tally(np.eye(2), [0, 1]).calibration().ece == 0.0  # confidence 1 is in the last bin


def test_a_mean_that_rounding_takes_above_1_counts_as_1():
    result = tally([[1.0000002, 0.0]], [0]).calibration()
    assert result.bins[-1].confidence == 1.0


def test_the_sums_of_ilsvrcs_training_set_at_full_confidence_do_not_overflow():
    images = 1_281_167
    result = Calibration.of(np.full(images, 2**UNIT_BITS), np.zeros(images, bool))
    assert result.ece == 1.0
    assert result.bins[-1].confidence == 1.0
