"""Limits on the rise of an error: what they decide."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_infer.evaluation.agreement import Agreement, Party
from alexnet_infer.evaluation.gate import Verdict, judge
from alexnet_infer.evaluation.statistics import Pairing, paired_score


def pairing(images: int, candidate_only: int, reference_only: int) -> Pairing:
    kinds = np.repeat([0, 1, 2], [candidate_only, reference_only, images - candidate_only - reference_only])
    return Pairing.of(kinds == 0, kinds == 1, interval="score")


def agreement(images: int, top1: tuple[int, int], top5: tuple[int, int] = (0, 0), largest: float = 0.1) -> Agreement:
    party = Party(net="net", backend="a table")
    return Agreement(
        reference=party,
        candidate=party,
        views="ten",
        images=images,
        classes=6,
        largest=largest,
        largest_image="1.png",
        mean=0.0,
        flips=0,
        near_ties=0,
        judged=images,
        top1=pairing(images, *top1),
        top5=pairing(images, *top5),
    )


@pytest.mark.parametrize(
    ("candidate_only", "reference_only", "points", "outcome"),
    [
        (20, 24, 0.5, "passed"),
        (20, 24, 0.1, "undecided"),
        (40, 20, 0.5, "undecided"),  # the difference, 0.4, is below the limit, but the interval isn't
        (60, 10, 0.5, "failed"),
        (10, 60, 0.0, "passed"),
        (0, 0, 0.0, "undecided"),
        (0, 0, 0.1, "passed"),
        (5000, 0, 100.0, "passed"),
    ],
)
def test_a_limit_is_judged_by_the_interval_and_not_by_the_difference(candidate_only, reference_only, points, outcome):
    (judgement,) = judge(agreement(5000, (candidate_only, reference_only)), {"top1": points})
    low, high = paired_score(candidate_only, reference_only, 5000)
    assert judgement.outcome == outcome
    assert (judgement.low, judgement.high, judgement.max_drop) == (low, high, points / 100)
    assert (high <= points / 100, low > points / 100) == (outcome == "passed", outcome == "failed")
    assert (judgement.more_images is None) == (outcome != "undecided" or points == 0)


def test_few_images_without_a_difference_pass_nothing_strict():
    ten, many = (judge(agreement(images, (0, 0)), {"top1": 0.5})[0] for images in (10, 765))
    assert (ten.outcome, many.outcome) == ("undecided", "passed")
    assert ten.more_images == 755


def test_an_interval_that_ends_at_the_limit_passes():
    high = paired_score(20, 24, 5000)[1]
    for points, outcome in ((100 * high, "passed"), (100 * high - 1e-9, "undecided")):
        (judgement,) = judge(agreement(5000, (20, 24)), {"top1": points})
        assert judgement.outcome == outcome
    assert judgement.more_images == 1


def test_each_error_has_its_own_limit():
    compared = agreement(5000, (60, 10), (10, 60))
    assert [(j.metric, j.outcome) for j in judge(compared, {"top5": 0.5, "top1": 0.5})] == [
        ("top5", "passed"),
        ("top1", "failed"),
    ]
    assert [j.outcome for j in judge(compared, {"top5": 0.5})] == ["passed"]


@pytest.mark.parametrize(
    ("tolerance", "limits", "passed"),
    [
        (0.2, {}, True),
        (0.05, {}, False),
        (None, {"top5": 0.5}, True),
        (None, {"top5": 0.5, "top1": 0.5}, False),
        (0.2, {"top5": 0.5}, True),
        (0.05, {"top5": 0.5}, False),
        (0.2, {"top1": 0.5}, False),
    ],
)
def test_both_the_tolerance_and_the_limits_must_hold_where_they_are_given(tolerance, limits, passed):
    compared = agreement(5000, (60, 10), (10, 60))
    verdict = Verdict(agreement=compared, tolerance=tolerance, gate=judge(compared, limits))
    assert verdict.passed is passed
    fields = verdict.to_json()
    assert fields["within"] is (None if tolerance is None else tolerance > 0.1)
    if not limits:
        assert fields["gate"] is None
    else:
        assert set(fields["gate"]) == {"passed", *limits}
        assert fields["gate"]["passed"] is ("top1" not in limits)
