"""Limits of errors as a user states them."""

from __future__ import annotations

import pytest

from alexnet_infer.errors import UsageError
from alexnet_infer.max_drop import parse_max_drop


def test_limits_are_points_by_metric():
    assert parse_max_drop(["top1=0.5", "top5=.25"]) == {"top1": 0.5, "top5": 0.25}
    assert parse_max_drop(["top5=100"]) == {"top5": 100}
    assert parse_max_drop(["top1=0"]) == {"top1": 0}
    assert parse_max_drop([]) == {}


@pytest.mark.parametrize(
    "text",
    ["", "top1", "top1=", "top2=1", "top1=-1", "top1=101", "top1=1e1", "top1=nan", "top1=0.5%", "top1=1=2", "=1"],
)
def test_other_texts_are_refused_in_one_short_line(text):
    with pytest.raises(UsageError, match="expected top1=X or top5=X, with X from 0 to 100 percentage points") as raised:
        parse_max_drop([text])
    assert "\n" not in str(raised.value)


def test_a_limit_given_twice_is_refused():
    with pytest.raises(UsageError, match="top1 is given twice"):
        parse_max_drop(["top1=1", "top1=2"])
