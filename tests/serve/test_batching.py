"""Batches of requests: what is run together, in which order, and who gets which rows."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from alexnet_infer.errors import BackendError, ModelFileError
from alexnet_infer.serve import batching
from alexnet_infer.serve.batching import Batcher
from alexnet_infer.serve.limits import RequestError
from tests.serve.running import eventually

SECONDS = 20
"""A test that waits longer has failed."""


class Net:
    """Doubles its images. While it is held, it waits for `release`."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        """The images of each call after the first, which `Batcher.start` makes."""
        self.prepared: list[int] = []
        self.entered = threading.Semaphore(0)
        self.free = threading.Event()
        self.free.set()
        self.wrong: Callable[[np.ndarray], np.ndarray] = lambda rows: rows
        self.now = self.pace = 0.0
        """The time, which passes only while the net runs: `pace` seconds per image."""

    def prepare(self, images: np.ndarray) -> np.ndarray:
        self.prepared += images[:, 0].tolist()
        return images

    def run(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        images = np.concatenate(inputs)
        self.calls.append(images[:, 0].astype(int).tolist())
        self.entered.release()
        assert self.free.wait(SECONDS)
        self.now += len(images) * self.pace
        return self.wrong(images * 2.0)

    def hold(self, batcher: Batcher) -> Future[np.ndarray]:
        """Keep the net busy with the image -1, until `free` is set."""
        while self.entered.acquire(blocking=False):
            pass
        self.free.clear()
        held = batcher.submit(numbers(-1))
        assert self.entered.acquire(timeout=SECONDS)
        return held


def numbers(*values: int) -> np.ndarray:
    return np.array(values)[:, None]


def rows(future: Future[np.ndarray]) -> list[float]:
    return future.result(SECONDS)[:, 0].tolist()


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def make(net) -> Iterator[Callable[..., Batcher]]:
    made: list[Batcher] = []

    def make(**settings: Any) -> Batcher:
        values = {"max_batch": 4, "max_delay": 0.0, "capacity": 100, "clock": lambda: net.now, **settings}
        batcher = Batcher(net.prepare, net.run, name="net", **values)
        batcher.start(numbers(0))
        assert net.entered.acquire(timeout=SECONDS)
        net.calls.clear()
        net.prepared.clear()
        made.append(batcher)
        return batcher

    yield make
    net.free.set()
    for batcher in made:
        batcher.close(SECONDS)


def test_what_waits_while_the_net_is_busy_is_run_together_in_order(net, make):
    batcher = make()
    held = net.hold(batcher)
    waiting = [batcher.submit(numbers(i)) for i in range(6)]
    net.free.set()
    assert rows(held) == [-2]
    assert [rows(future) for future in waiting] == [[0], [2], [4], [6], [8], [10]]
    assert net.calls == [[-1], [0, 1, 2, 3], [4, 5]]


def test_a_request_of_more_images_than_a_batch_is_divided_and_others_are_not(net, make):
    batcher = make()
    net.hold(batcher)
    large, small, next_one = (batcher.submit(numbers(*values)) for values in (range(9), range(9, 12), range(12, 14)))
    net.free.set()
    assert rows(large) == [2 * i for i in range(9)]
    assert (rows(small), rows(next_one)) == ([18, 20, 22], [24, 26])
    assert net.calls[1:] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13]]


def test_an_idle_net_waits_for_others_at_most_the_delay(net, make):
    batcher = make(max_delay=30.0)
    futures = [batcher.submit(numbers(i)) for i in range(4)]  # a full batch waits for nothing
    assert [rows(future) for future in futures] == [[0], [2], [4], [6]]
    assert net.calls == [[0, 1, 2, 3]]


def refused_when_submitted(batcher: Batcher, image: int, end: float) -> int:
    """Check that a request is refused. Returns the seconds after which it may come again."""
    with pytest.raises(RequestError, match="net is too busy to answer in time") as refused:
        batcher.submit(numbers(image), end)
    return refused.value.retry_after


def test_what_can_not_be_answered_in_time_is_refused_at_once_and_the_rest_is_answered_in_time(net, make):
    net.pace = 1.0
    batcher = make()
    assert rows(batcher.submit(numbers(0))) == [0]  # now the pace is known
    held = net.hold(batcher)
    end = net.now + 10.0
    accepted = [batcher.submit(numbers(i), end) for i in range(1, 8)]  # with the running one, 8 of 10 seconds
    assert [refused_when_submitted(batcher, i, end) for i in range(8, 30)] == [1] * 22
    with pytest.raises(RequestError, match="too busy") as refused:
        batcher.check(4, end)
    assert refused.value.retry_after == 4
    net.free.set()
    assert [rows(future) for future in [held, *accepted]] == [[-2], *([2 * i] for i in range(1, 8))]
    assert net.now <= end
    assert sorted(image for call in net.calls for image in call) == list(range(-1, 8))


def test_nothing_is_refused_before_the_first_batch_has_run(net, make):
    net.pace = 1000.0
    batcher = make()
    net.hold(batcher)
    futures = [batcher.submit(numbers(i), net.now + 0.1) for i in range(50)]
    assert not any(future.done() for future in futures)


def test_what_has_become_too_late_in_the_queue_is_refused_and_not_run(net, make):
    net.pace = 1.0
    batcher = make(max_batch=1)
    assert rows(batcher.submit(numbers(0))) == [0]
    net.hold(batcher)
    prepared, late, later = (batcher.submit(numbers(i), net.now + end) for i, end in ((1, 99), (2, 20), (3, 999)))
    eventually(lambda: batcher.waiting == 2)
    net.now += 30.0  # the net is slower than expected
    net.free.set()
    with pytest.raises(RequestError, match="too busy"):
        rows(late)
    assert (rows(prepared), rows(later)) == ([2], [6])
    assert net.calls == [[0], [-1], [1], [3]]
    batcher.check(100, net.now + 0.1)  # nothing is left before it


def test_a_net_that_was_slow_once_is_tried_again_and_then_used_as_before(net, make):
    batcher = make()
    net.pace = 100.0
    assert rows(batcher.submit(numbers(0), net.now + 2)) == [0]
    held = net.hold(batcher)
    assert refused_when_submitted(batcher, 1, net.now + 2) == 100  # a second after the running image
    net.pace = 0.01
    net.free.set()
    assert rows(held) == [-2]
    for _ in range(30):
        assert rows(batcher.submit(numbers(3), net.now + 2)) == [6]
    net.hold(batcher)
    assert not any(batcher.submit(numbers(i), net.now + 2).done() for i in range(50))


@pytest.mark.parametrize("fails", ["prepare", "run"])
def test_images_that_failed_or_were_cancelled_are_not_counted_as_work(net, make, fails):
    net.pace = 1.0
    batcher = make()
    assert rows(batcher.submit(numbers(0))) == [0]
    held = net.hold(batcher)
    cancelled, queued = batcher.submit(numbers(1)), batcher.submit(numbers(2, 3, 4, 5))
    eventually(lambda: batcher.waiting == 4)
    assert cancelled.cancel()
    assert queued.cancel()
    net.free.set()
    assert rows(held) == [-2]
    eventually(lambda: not batcher._taken)  # nobody waits for the cancelled one, which was in a batch

    def fail(images: object) -> np.ndarray:
        raise RuntimeError("no memory")

    setattr(batcher, f"_{fails}", fail)
    with pytest.raises(RequestError, match="no memory"):
        rows(batcher.submit(numbers(1)))
    batcher.check(100, net.now + 0.1)


def test_the_slower_one_of_preparing_and_running_is_the_pace(net, make):
    batcher = make()
    prepare = batcher._prepare

    def slow(images: np.ndarray) -> np.ndarray:
        net.now += 5.0
        return prepare(images)

    batcher._prepare = slow
    assert rows(batcher.submit(numbers(0))) == [0]
    net.hold(batcher)
    assert refused_when_submitted(batcher, 1, net.now + 10) == 2


def test_the_next_batch_is_prepared_while_the_net_is_busy(net, make):
    batcher = make()
    net.hold(batcher)
    future = batcher.submit(numbers(5))
    eventually(lambda: 5 in net.prepared)
    assert net.prepared == [-1, 5]
    assert net.calls == [[-1]]
    net.free.set()
    assert rows(future) == [10]


def test_a_full_queue_refuses_and_a_cancelled_request_makes_room(net, make):
    batcher = make(max_batch=2, capacity=5)
    net.hold(batcher)
    joins_the_next_batch = batcher.submit(numbers(1, 2))
    eventually(lambda: not batcher.waiting)
    first, second = batcher.submit(numbers(3, 4)), batcher.submit(numbers(5, 6, 7))
    assert batcher.waiting == 5
    with pytest.raises(RequestError, match="queue of net is full \\(5 of 5 images wait\\)") as refused:
        batcher.submit(numbers(8))
    assert (refused.value.status, refused.value.retry_after) == (503, 1)
    assert second.cancel()
    assert batcher.waiting == 2
    third = batcher.submit(numbers(8))
    net.free.set()
    assert (rows(joins_the_next_batch), rows(first), rows(third)) == ([2, 4], [6, 8], [16])
    assert not [call for call in net.calls if 5 in call]


def test_a_request_that_is_cancelled_in_a_batch_is_not_run(net, make):
    batcher = make()
    net.hold(batcher)
    gone, stays = batcher.submit(numbers(1)), batcher.submit(numbers(2))
    eventually(lambda: not batcher.waiting)
    gone.cancel()
    net.free.set()
    assert rows(stays) == [4]
    assert net.calls == [[-1], [2]]


def test_only_the_request_whose_images_make_the_net_fail_is_refused(net, make):
    def wrong(values: np.ndarray) -> np.ndarray:
        if 6 in values:
            raise BackendError("the net fails at 3\nwith a second line")
        return values

    batcher = make()
    net.hold(batcher)
    net.wrong = wrong
    good, bad, late = (batcher.submit(numbers(i)) for i in (1, 3, 5))
    net.free.set()
    assert (rows(good), rows(late)) == ([2], [10])
    with pytest.raises(RequestError, match="net failed: the net fails at 3 with a second line") as refused:
        rows(bad)
    assert refused.value.status == 503
    assert batcher.failure is None  # the batch after it worked


def test_the_rest_of_a_request_that_has_failed_is_not_run(net, make):
    def wrong(values: np.ndarray) -> np.ndarray:
        if 2 in values:
            raise BackendError("the net fails at 1")
        return values

    batcher = make()
    held = net.hold(batcher)
    net.wrong = wrong
    failing, next_one = batcher.submit(numbers(*range(20))), batcher.submit(numbers(50))
    net.free.set()
    with pytest.raises(RequestError, match="fails at 1"):
        rows(failing)
    assert (rows(held), rows(next_one)) == ([-2], [100])
    assert net.calls == [[-1], [0, 1, 2, 3], [50]]


def test_of_a_request_that_is_too_large_for_its_time_only_the_first_parts_are_run(net, make):
    net.pace = 1.0
    batcher = make()
    assert rows(batcher.submit(numbers(99))) == [198]
    too_large = batcher.submit(numbers(*range(40)), net.now + 10)  # accepted, since nothing is before it
    with pytest.raises(RequestError, match="net is too busy"):
        rows(too_large)
    assert rows(batcher.submit(numbers(50))) == [100]
    assert net.calls[1] == [0, 1, 2, 3]
    assert net.calls[2:] in ([[50]], [[4, 5, 6, 7], [50]])


def test_large_requests_alone_find_out_that_a_slow_net_is_fast_again(net, make):
    net.pace = 100.0
    batcher = make()
    rows(batcher.submit(numbers(99)))
    net.pace = 0.01
    for _ in range(30):
        with suppress(RequestError):
            rows(batcher.submit(numbers(*range(9)), net.now + 2))
        eventually(lambda: not batcher._taken)
    assert rows(batcher.submit(numbers(*range(9)), net.now + 2)) == [2 * i for i in range(9)]


def test_a_value_that_is_not_finite_refuses_its_own_request_only(net, make):
    batcher = make()
    net.hold(batcher)
    net.wrong = lambda values: np.where(values == 6, np.nan, values)
    good, bad = batcher.submit(numbers(1, 2)), batcher.submit(numbers(4, 3))
    net.free.set()
    assert rows(good) == [2, 4]
    with pytest.raises(RequestError, match="not finite"):
        rows(bad)


def test_a_net_that_fails_is_tried_again_without_requests(net, make, monkeypatch):
    def wrong(values: np.ndarray) -> np.ndarray:
        raise RuntimeError("no memory")

    monkeypatch.setattr(batching, "PROBE_SECONDS", 0.01)
    batcher = make()
    net.wrong = wrong
    with pytest.raises(RequestError, match="net failed: no memory"):
        rows(batcher.submit(numbers(1)))
    assert batcher.failure == "no memory"
    net.wrong = lambda values: values
    eventually(lambda: not batcher.failure)
    assert batcher.failure is None
    assert net.calls[-1] == [0]


def test_a_net_that_can_not_run_at_the_start_raises_its_error(net):
    net.wrong = lambda values: values * np.nan
    batcher = Batcher(net.prepare, net.run, name="net", max_batch=4, max_delay=0, capacity=9)
    with pytest.raises(ModelFileError, match="not finite"):
        batcher.start(numbers(1))


def test_closing_answers_what_waits_and_refuses_what_comes(net, make):
    batcher = make()
    held = net.hold(batcher)
    waiting = [batcher.submit(numbers(i)) for i in range(6)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    eventually(lambda: batcher._closed)
    with pytest.raises(RequestError, match="shutting down"):
        batcher.submit(numbers(9))
    net.free.set()
    closing.join(SECONDS)
    assert [rows(future) for future in [held, *waiting]] == [[-2], [0], [2], [4], [6], [8], [10]]


def test_closing_does_not_wait_longer_than_it_may(net, make):
    batcher = make(max_batch=1)
    net.hold(batcher)
    waiting = [batcher.submit(numbers(i)) for i in range(3)]
    batcher.close(0.01)
    with pytest.raises(RequestError, match="shutting down"):
        rows(waiting[-1])


def test_every_one_of_many_clients_gets_its_own_rows(net, make):
    batcher = make(max_batch=7, max_delay=0.0005, capacity=10_000, clock=time.monotonic)
    generator = random.Random(0)
    requests = [[generator.randrange(1000) for _ in range(generator.randrange(1, 12))] for _ in range(300)]
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda values: rows(batcher.submit(numbers(*values))), requests))
    assert answers == [[2.0 * value for value in values] for values in requests]
    assert max(map(len, net.calls)) == 7
