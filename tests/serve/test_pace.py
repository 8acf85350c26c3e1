"""How fast work is done, and which work is refused."""

from __future__ import annotations

import math

import pytest

from alexnet_infer.serve.limits import RequestError, busy
from alexnet_infer.serve.pace import Pace, check_in_time


def test_a_steady_pace_is_found_whatever_the_batches():
    pace = Pace()
    for count in (1, 8, 3, 8):
        pace.add(count, count * 0.25)
        assert pace.seconds == pytest.approx(0.25)


def test_nothing_is_refused_while_the_pace_is_unknown():
    check_in_time(1000, 1000, Pace().seconds, 0.1, name="net")


def test_with_nothing_before_it_work_is_accepted_however_slow_the_pace_is():
    check_in_time(1000, 0, 1e6, 0.1, name="net")


def test_a_slow_call_is_forgotten_after_a_few_that_are_fast():
    pace = Pace()
    pace.add(1, 100.0)
    for _ in range(20):
        pace.add(1, 0.01)
    check_in_time(1, 1, pace.seconds, 2.0, name="net")


@pytest.mark.parametrize(
    ("count", "before", "left", "retry_after"),
    [
        (1, 16, 10.0, 1),  # 8.5 s, of which 8 would be accepted
        (9, 16, 10.0, 5),  # 12.5 s
        (100, 5, 10.0, 3),  # never, but for an idle net, which it is in 2.5 s
        (1, 1, -math.inf, 1),
    ],
)
def test_an_error_says_in_how_many_whole_seconds_the_work_would_be_accepted(count, before, left, retry_after):
    with pytest.raises(RequestError, match=f"net is too busy .*: {before} images before these {count} need") as refused:
        check_in_time(count, before, 0.5, left, name="net")
    assert refused.value.status == 503
    assert refused.value.retry_after == retry_after
    assert type(refused.value.retry_after) is int


def test_a_client_never_tries_again_at_once():
    assert [busy("x", seconds).retry_after for seconds in (0, 0.001, 1, 1.001)] == [1, 1, 1, 2]
