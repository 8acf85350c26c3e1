"""Times of calls with known pauses on a CPU, and of work on a GPU if available."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch

from benchmarks.gpu.timing import medians, seconds

CPU = torch.device("cpu")


def test_the_time_is_per_call():
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
    times = medians(
        {name: lambda name=name: order.append(name) or time.sleep(0.005) for name in "ab"}, CPU, budget=0.01
    )
    assert times.keys() == {"a", "b"}
    assert "".join(order[6:]) == "ab" * 7, "after one warm-up call and two calls to estimate the time of each"


@pytest.mark.gpu
def test_on_a_gpu_the_launch_time_is_not_measured():
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    device = torch.device("cuda")
    x = torch.zeros(2**28, device=device)
    full, half = (seconds(part.zero_, device) for part in (x, x[: 2**27]))
    assert full / half == pytest.approx(2, rel=0.15)
