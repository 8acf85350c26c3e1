"""Tallies against hand-counted cases and a sort, and the calibration against its definition."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from alexnet_infer.errors import UsageError
from alexnet_infer.evaluation import tally as module
from alexnet_infer.evaluation.tally import RECORD, UNIT_BITS, Reliability, Tally
from alexnet_infer.metrics import topk_correct


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
    assert lacking.reliability().bins[12].images == 2  # both images are readable, so the wrong guess counts
    assert lacking.reliability().bins[12].accuracy == 0.5


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
    assert sum(bin_.images for bin_ in counts.reliability().bins) == 2


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
    return len(counted), wrong, classes, counted.confusions(), counted.reliability()


def mixed(images: int = 200, classes: int = 11) -> list[tuple]:
    """(Probabilities, or None where the image can't be read, label in the data, label in the net)."""
    rng = np.random.default_rng(5)
    rows = rng.dirichlet(np.full(classes, 0.3), images).astype(np.float32)
    labels = rng.integers(0, 7, images)
    of_net = np.array([3, -1, 0, 10, 7, 2, 5])[labels]
    return [
        (None if i % 17 == 5 else row, *pair) for i, (row, *pair) in enumerate(zip(rows, labels, of_net, strict=True))
    ]


def fill(result: Tally, images: list[tuple], chunk: int) -> Tally:
    """Add images, readable ones in calls of `chunk`."""
    waiting: list[tuple] = []

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
    whole = figures(fill(Tally(7), images, chunk=1000))
    assert 0 < sum(whole[1][1]) < sum(whole[1][0]) < len(images)  # some right, some right in the top five only
    rng = np.random.default_rng(6)
    for _ in range(10):
        ends = sorted(rng.integers(0, len(images) + 1, 3).tolist())
        joined = Tally(7)
        for begin, end in zip([0, *ends], [*ends, len(images)], strict=True):
            fill(joined, images[begin:end], chunk=int(rng.integers(1, 40)))
        assert figures(joined) == whole


def test_calibration_is_exactly_independent_of_the_images_order_where_a_float_sum_is_not():
    rng = np.random.default_rng(7)
    confidences, labels = rng.random(3000), rng.integers(0, 2, 3000)
    rows, order = np.stack([confidences, 1 - confidences], 1), rng.permutation(3000)
    results = []
    for arrangement in (slice(None), order):
        counted = Tally(2)
        counted.add(rows[arrangement], labels[arrangement], labels[arrangement])
        results.append(counted.reliability())
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
    assert empty.reliability().ece is None


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
        ([[0.5, 0.5]] * 2, [0, 0], [-1, 2], r"right\[1\]=2: expected an integer from -1 to 1$"),
        ([[0.5, 0.5]], [0], [-2], r"right\[0\]=-2: expected"),
    ],
)
def test_invalid_values_shapes_and_labels_are_refused(probabilities, data_labels, net_labels, expected):
    counted = Tally(3)
    with pytest.raises(UsageError, match=expected):
        counted.add(np.array(probabilities), np.array(data_labels), np.array(net_labels))
    assert len(counted) == 0


def test_ece_by_hand(monkeypatch):
    """Four bins. Below 0.5: confidences 0.25 and 0.375, one right. From 0.75: 0.75 and 1, both right."""
    monkeypatch.setattr(module, "BINS", 4)
    unit = 2**UNIT_BITS
    confidences = np.array([unit // 4, unit * 3 // 8, unit * 3 // 4, unit])
    result = Reliability.of(confidences, np.array([True, False, True, True]))
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
    result = tally(rows, labels).reliability()
    assert result.ece == pytest.approx(float(expected), abs=1e-12)
    assert len(result.bins) == 15
    assert 0.05 < result.ece < 1


def test_a_net_whose_confidence_equals_its_accuracy_has_no_calibration_error():
    rows = np.tile([0.75, 0.25], (8, 1))
    assert tally(rows, [0, 0, 0, 1] * 2).reliability().ece == 0.0
    assert tally(np.eye(2), [0, 1]).reliability().ece == 0.0  # confidence 1 is in the last bin


def test_a_mean_that_rounding_takes_above_1_counts_as_1():
    result = tally([[1.0000002, 0.0]], [0]).reliability()
    assert result.bins[-1].confidence == 1.0


def test_the_sums_of_ilsvrcs_training_set_at_full_confidence_do_not_overflow():
    images = 1_281_167
    result = Reliability.of(np.full(images, 2**UNIT_BITS), np.zeros(images, bool))
    assert result.ece == 1.0
    assert result.bins[-1].confidence == 1.0
