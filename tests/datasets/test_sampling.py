"""Samples: every class has its share, and images are spread evenly."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest

from alexnet_infer.datasets.sampling import spread, stratified


@pytest.mark.parametrize(
    ("items", "count", "chosen"),
    [("abcdefg", 3, "ace"), ("abc", 3, "abc"), ("abc", 9, "abc"), ("abc", 0, ""), ("", 2, "")],
)
def test_items_are_spread_evenly_from_the_first(items, count, chosen):
    assert spread(items, count) == [*chosen]


def label_sets() -> list[list[int]]:
    rng = np.random.default_rng(0)
    uneven = rng.choice(7, 200, p=[0.4, 0.3, 0.15, 0.1, 0.03, 0.015, 0.005]).tolist()
    return [[0], [0] * 5, list(range(6)) * 3, sorted(list(range(6)) * 3), [1] * 99 + [0], uneven]


@pytest.mark.parametrize("labels", label_sets(), ids=lambda labels: f"{len(labels)} of {len(set(labels))}")
def test_a_sample_has_a_proportional_share_of_every_class_spread_evenly(labels):
    own, total = defaultdict(list), Counter(labels)
    for position, label in enumerate(labels):
        own[label].append(position)
    for count in range(1, len(labels) + 1):
        sample = stratified(labels, count)
        assert len(sample) == count
        assert all(a < b for a, b in pairwise(sample))
        assert sample == stratified(labels, count)
        taken = Counter(labels[i] for i in sample)
        for label, places in own.items():
            share = count * total[label] / len(labels)
            assert abs(taken[label] - share) < 1, (count, label)
            # Ranks within the class are floor(i n / k), so gaps differ by at most one.
            ranks = [places.index(i) for i in sample if labels[i] == label]
            assert ranks == [i * len(places) // max(1, len(ranks)) for i in range(len(ranks))]
            gaps = [b - a for a, b in pairwise([*ranks, len(places)])] if ranks else [0]
            assert max(gaps) - min(gaps) <= 1


def test_remainders_go_to_the_largest_and_ties_are_spread_over_the_classes():
    labels = [2] * 10 + [0] * 10 + [1] * 10
    assert Counter(labels[i] for i in stratified(labels, 4)) == {0: 2, 1: 1, 2: 1}
    assert Counter(labels[i] for i in stratified(labels, 5)) == {0: 2, 1: 2, 2: 1}
    thousand = [i for i in range(1000) for _ in range(50)]
    assert {thousand[i] for i in stratified(thousand, 500)} == set(range(0, 1000, 2))
    labels = [0] * 11 + [1] * 19  # shares of 10: 3.67 and 6.33
    assert Counter(labels[i] for i in stratified(labels, 10)) == {0: 4, 1: 6}


def test_a_sample_of_all_is_the_set():
    assert stratified([0, 1, 1, 0], 4) == [0, 1, 2, 3]
