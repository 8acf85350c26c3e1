"""Ranks and top-k counts compared with hand-counted cases and a sort; probabilities and their mean."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_infer.errors import UsageError
from alexnet_infer.metrics import are_probabilities, highest, mean_probabilities, topk_correct


def test_counts_by_hand():
    scores = np.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [0.2, 0.3, 0.5]])
    labels = np.array([1, 2, 0])  # first, second, third
    assert [topk_correct(scores, labels, k) for k in (1, 2, 3)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("label", "rank"),
    [(0, 2), (1, 1), (2, 3), (3, 4)],  # 0, 2 and 3 share a score: they come after 1, in the order of their index
)
def test_the_lower_index_ranks_first_among_equal_scores(label, rank):
    scores = np.array([[0.2, 0.4, 0.2, 0.2]])
    counts = [topk_correct(scores, np.array([label]), k) for k in (1, 2, 3, 4)]
    assert counts == [int(k >= rank) for k in (1, 2, 3, 4)]


def test_a_net_with_equal_scores_gets_only_the_first_k_classes_right():
    assert topk_correct(np.full((7, 7), 1 / 7), np.arange(7), 5) == 5


@pytest.mark.parametrize("k", [1, 2, 5])
def test_agrees_with_a_stable_sort_on_scores_full_of_ties(k):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (200, 6)).astype(np.float32)
    labels = rng.integers(0, 6, 200)
    by_sort = sum(label in np.argsort(-row, kind="stable")[:k] for row, label in zip(scores, labels, strict=True))
    assert topk_correct(scores, labels, k) == by_sort
    assert 0 < by_sort < 200


def test_counts_of_parts_add_up_to_the_count_of_the_set():
    rng = np.random.default_rng(1)
    scores, labels = rng.random((50, 8)), rng.integers(0, 8, 50)
    whole = topk_correct(scores, labels, 5)
    assert whole == topk_correct(scores[:17], labels[:17], 5) + topk_correct(scores[17:], labels[17:], 5)
    assert type(whole) is int


def test_the_count_of_no_images_is_0():
    assert topk_correct(np.empty((0, 3)), np.empty(0, int), 1) == 0


def test_infinite_scores_are_ranked():
    assert topk_correct(np.array([[-np.inf, 0.0, np.inf]]), np.array([2]), 1) == 1


def test_nan_is_refused_and_its_image_is_named():
    scores = np.zeros((3, 4))
    scores[1, 3] = np.nan
    with pytest.raises(UsageError, match=r"image 1 .*NaN"):
        topk_correct(scores, np.array([0, 0, 0]), 1)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3], r"labels\[1\]=3: expected an integer from 0 to 2$"),
        ([-1, 3], r"labels\[0\]=-1: expected an integer from 0 to 2$"),
        ([0.0, 1.0], "labels of type float64: expected integers from 0 to 2$"),
        ([0], r"scores \(2, 3\) and labels \(1,\): expected"),
    ],
)
def test_invalid_labels_are_refused_and_the_first_one_is_named(labels, message):
    with pytest.raises(UsageError, match=message):
        topk_correct(np.zeros((2, 3)), np.array(labels), 1)


def test_k_below_one_is_refused():
    with pytest.raises(UsageError, match="k=0"):
        topk_correct(np.zeros((1, 3)), np.array([0]), 0)


def test_the_highest_scores_come_first_and_equal_ones_in_the_order_of_their_index():
    scores = np.array([[0.1, 0.3, 0.1, 0.5], [0.25, 0.25, 0.25, 0.25]])
    assert highest(scores, 3).tolist() == [[3, 1, 0], [0, 1, 2]]
    assert highest(scores[0], 9).tolist() == [3, 1, 0, 2]


def test_probabilities_are_from_0_to_1_with_room_for_rounding_and_never_nan():
    values = np.float32([0, 0.5, 1, 1.0000002, 1.1, -1e-9, np.nan, np.inf])
    assert are_probabilities(values).tolist() == [True] * 4 + [False] * 4


def test_the_mean_of_nets_is_taken_of_probabilities_with_equal_weights():
    first, second = np.float32([[1, 0, 0]]), np.float32([[0, 0.5, 0.5]])
    assert mean_probabilities([first, second]).tolist() == [[0.5, 0.25, 0.25]]
    assert mean_probabilities([first]).tobytes() == first.tobytes()
    many = np.random.default_rng(0).random((7, 3, 6)).astype(np.float32)
    for order in ([6, 5, 4, 3, 2, 1, 0], [3, 0, 6, 1, 5, 2, 4]):
        assert (mean_probabilities(many[order]) == mean_probabilities(many)).all()
