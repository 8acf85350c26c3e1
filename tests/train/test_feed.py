"""Feeds give the requested squares in order, from memory or from a memory map."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch
from torch import Tensor

from tests.train.toys import images, trainer
from train.data import PackedImages
from train.feed import AHEAD, READERS, Feed

CPU = torch.device("cpu")
COUNT = 11
CUTS = [3, 4, 9]
"""Gives shards of three, one, five and two images."""

BATCHES = [
    torch.tensor([0, 1, 2]),  # one shard
    torch.tensor([2, 3, 4, 8, 9]),  # several shards
    torch.tensor([10, 0, 5, 3]),  # out of order
    torch.tensor([7, 7, 2, 7, 3, 3]),  # repeated
    torch.tensor([], dtype=torch.int64),
    torch.arange(COUNT).flip(0),
    *torch.randint(COUNT, (20, 6), generator=torch.Generator().manual_seed(0)),
]


def mapped(count: int = COUNT, cuts: list[int] = CUTS) -> PackedImages:
    whole = images(count, size=8)
    return replace(whole, shards=whole.shards[0].tensor_split(cuts), mapped=True)


def threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def assert_equal(batches: list[Tensor], expected: list[Tensor]) -> None:
    assert len(batches) == len(expected)
    assert all(map(torch.equal, batches, expected))
    assert all(batch.dtype == torch.uint8 for batch in batches)


def test_a_cpu_uses_a_decoded_set_in_place():
    packed, before = images(COUNT, size=8), threads()
    feed = Feed(packed, CPU)
    assert feed.resident
    assert feed.images.shards[0].data_ptr() == packed.shards[0].data_ptr()
    assert_equal([*feed.batches(BATCHES)], [packed.shards[0][rows] for rows in BATCHES])
    assert threads() == before
    assert len(feed) == COUNT
    assert torch.equal(feed.labels, packed.labels)


@pytest.mark.parametrize("cuts", [[], CUTS, [1, 1, 10]], ids=["one shard", "four", "one of them empty"])
def test_a_mapped_set_gives_the_same_batches_for_all_shards(cuts):
    feed, whole = Feed(mapped(cuts=cuts), CPU), images(COUNT, size=8)
    assert not feed.resident
    assert_equal([*feed.batches(BATCHES)], [whole.shards[0][rows] for rows in BATCHES])
    assert_equal([*feed.batches(iter(BATCHES[::-1]))], [whole.shards[0][rows] for rows in BATCHES[::-1]])
    assert torch.equal(feed.labels, whole.labels)


def test_a_decoded_set_in_several_shards_gives_the_same_batches():
    whole = images(COUNT, size=8)
    feed = Feed(replace(whole, shards=whole.shards[0].tensor_split(CUTS)), CPU)
    assert_equal([*feed.batches(BATCHES)], [whole.shards[0][rows] for rows in BATCHES])


@pytest.mark.parametrize("readers", [2, 3, 8])
def test_several_reading_threads_give_the_same_batches(monkeypatch, readers):
    monkeypatch.setitem(READERS, "cpu", readers)
    before = threads()
    feed, whole = Feed(mapped(), CPU), images(COUNT, size=8)
    assert_equal([*feed.batches(BATCHES)], [whole.shards[0][rows] for rows in BATCHES])
    assert threads() == before
    with pytest.raises(IndexError):
        [*feed.batches([torch.tensor([1, 2, COUNT])])]


@pytest.mark.parametrize("packed", [images(COUNT, size=8), mapped()], ids=["decoded", "mapped"])
def test_sources_do_not_copy_squares_that_are_on_the_device(packed):
    feed = Feed(packed, CPU)
    for rows, (squares, index) in zip(BATCHES, feed.sources(BATCHES), strict=True):
        batch = squares if index is None else squares[index]
        assert torch.equal(batch, images(COUNT, size=8).shards[0][rows])
        assert (squares.data_ptr() == packed.shards[0].data_ptr()) == (not packed.mapped)


@pytest.mark.parametrize("packed", [images(COUNT, size=8), mapped()], ids=["decoded", "mapped"])
@pytest.mark.parametrize("count", range(AHEAD + 3))
def test_any_number_of_batches_is_given(packed, count):
    before = threads()
    whole = images(COUNT, size=8).shards[0]
    assert_equal([*Feed(packed, CPU).batches(BATCHES[:count])], [whole[rows] for rows in BATCHES[:count]])
    assert threads() == before


def test_the_thread_loads_a_fixed_number_of_batches_ahead():
    asked = 0

    def rows() -> Iterator[Tensor]:
        nonlocal asked
        for batch in BATCHES:
            asked += 1
            yield batch

    for received, _ in enumerate(Feed(mapped(), CPU).batches(rows()), start=1):
        assert asked == min(received + AHEAD, len(BATCHES))
    assert received == len(BATCHES)


@pytest.mark.parametrize("received", [1, AHEAD, len(BATCHES) - 1])
def test_leaving_early_ends_the_thread(received):
    before = threads()
    batches = Feed(mapped(), CPU).batches(BATCHES)
    for _ in range(received):
        next(batches)
    assert len(threads() - before) == 1, "a thread reads the batches"
    batches.close()
    assert threads() == before


class LeftError(Exception):
    pass


def test_a_run_that_ends_within_an_epoch_leaves_no_thread(tmp_path):
    def leave(report: object) -> None:
        assert len(threads() - before) == 1
        raise LeftError

    whole = images(12)
    on_disk = replace(whole, shards=whole.shards[0].tensor_split([5]), mapped=True)
    run, before = trainer(tmp_path, train=on_disk), threads()
    with pytest.raises(LeftError):
        run.run(leave)
    assert threads() == before


def test_an_error_in_the_thread_reaches_the_caller_after_the_earlier_batches():
    before, beyond = threads(), torch.tensor([1, COUNT])  # no such image
    batches = Feed(mapped(), CPU).batches([BATCHES[0], BATCHES[1], beyond, BATCHES[2], BATCHES[3]])
    assert_equal([next(batches), next(batches)], [images(COUNT, size=8).shards[0][rows] for rows in BATCHES[:2]])
    with pytest.raises(IndexError):
        next(batches)
    assert threads() == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("share", [0.6, 0.0], ids=["resident", "copied batch by batch"])
def test_a_gpu_gets_the_same_batches_whether_the_set_fits_or_not(share):
    feed, whole = Feed(mapped(), torch.device("cuda"), share=share), images(COUNT, size=8)
    assert feed.resident == (share > 0)
    batches = [*feed.batches(BATCHES)]
    assert all(batch.is_cuda for batch in batches)
    assert_equal([batch.cpu() for batch in batches], [whole.shards[0][rows] for rows in BATCHES])
