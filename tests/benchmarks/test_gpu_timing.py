"""Times of calls on a CPU, whose pauses are known; and on a GPU, where there is one."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch

from benchmarks.gpu.timing import medians, seconds

CPU = torch.device("cpu")


def test_the_time_is_that_of_one_call():
    assert 0.01 <= seconds(lambda: time.sleep(0.01), CPU, budget=0.1) < 0.03


def test_inputs_take_turns():
    seen = []
    seconds(seen.append, CPU, [(0,), (1,), (2,)], budget=0.01)
    assert [i % 3 for i in range(len(seen))] == seen


def test_one_slow_call_does_not_change_the_median():
    pauses = iter([0, 0, 0.5] + [0] * 1000)
    assert seconds(lambda: time.sleep(next(pauses)), CPU, budget=0.01) < 0.01


def test_each_round_times_every_call():
    order = []
    found = medians(
        {name: lambda name=name: order.append(name) or time.sleep(0.005) for name in "ab"}, CPU, budget=0.01
    )
    assert found.keys() == {"a", "b"}
    assert "".join(order[6:]) == "ab" * 7, "after a call to warm up and two to estimate, of each"


@pytest.mark.gpu
def test_on_a_gpu_the_time_is_that_of_the_work_and_not_of_its_launch():
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    device = torch.device("cuda")
    x = torch.zeros(2**28, device=device)
    whole, half = (seconds(part.zero_, device) for part in (x, x[: 2**27]))
    assert whole / half == pytest.approx(2, rel=0.15)
