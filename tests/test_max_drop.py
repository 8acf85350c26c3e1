"""Limits on the rise of an error, as a user states them."""

from __future__ import annotations

import pytest

from alexnet_infer.errors import LONGEST, UsageError
from alexnet_infer.max_drop import parse_max_drop


def test_limits_are_points():
    assert parse_max_drop(["top1=0.5", "top5=100"]) == {"top1": 0.5, "top5": 100.0}
    assert parse_max_drop(["top5=.25", "top1=0"]) == {"top5": 0.25, "top1": 0.0}
    assert parse_max_drop([]) == {}


NO_LIMITS = (
    *("", "top1", "top1=", "=1", "top3=1", "Top1=1", "top1=-0.1", "top1=100.1", "top1=nan", "top1=inf", "top1=1e1"),
    *("top1=1_0", "top1=0.5%", "top1= 1", "top1=1 ", "top1=1=2", "top1=\u0663", "top1=1,top5=1", "top1=" + "9" * 5000),
)


@pytest.mark.parametrize("text", NO_LIMITS, ids=range(len(NO_LIMITS)))
def test_what_is_no_limit_is_refused_in_one_line(text):
    with pytest.raises(UsageError, match="expected top1=X or top5=X, with X from 0 to 100 percentage") as refused:
        parse_max_drop(["top5=1", text])
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < LONGEST


def test_a_metric_has_one_limit():
    with pytest.raises(UsageError, match="--max-drop top1=2: top1 is given twice"):
        parse_max_drop(["top1=1", "top5=1", "top1=2"])
