"""Time of a call, from CUDA events on a GPU and from the clock on a CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import torch

ROUNDS = 7
CALLS = 20
"""Maximum number of calls in a round."""
CYCLES = 2e9
"""Approximate clock cycles of a GPU per second."""
LONGEST_HEAD_START = 0.05
"""Maximum seconds that a GPU sleeps before a round, while the CPU launches the calls."""


def seconds(
    call: Callable[..., object], device: torch.device, inputs: Sequence[tuple[Any, ...]] = ((),), *, budget: float = 0.5
) -> float:
    """Return the median seconds of `call(*inputs[i])` with the inputs in turn.

    Inputs that together are several times larger than the cache show the speed of the memory. Takes about `budget`
    seconds, after one warm-up call with each of the inputs.
    """
    return medians({None: rotating(call, inputs)}, device, warmup=len(inputs), budget=budget)[None]


def medians(
    calls: Mapping[Any, Callable[[], object]], device: torch.device, *, warmup: int = 1, budget: float = 0.5
) -> dict[Any, float]:
    """Return the median seconds of each of `calls`.

    Each round times all of them, so that drifting clocks don't change the ratios. Each takes about `budget` seconds,
    after `warmup` calls.
    """
    counts: dict[Any, int] = {}
    launching: dict[Any, float] = {}
    for key, call in calls.items():
        for _ in range(warmup):
            call()
        launching[key] = _host_seconds(call, device)
        counts[key] = min(max(int(budget / ROUNDS / _round(call, 1, device, launching[key])), 1), CALLS)
    times: dict[Any, list[float]] = {key: [] for key in calls}
    for _ in range(ROUNDS):
        for key, call in calls.items():
            times[key].append(_round(call, counts[key], device, launching[key]))
    return {key: statistics.median(values) for key, values in times.items()}


def rotating(call: Callable[..., object], inputs: Sequence[tuple[Any, ...]]) -> Callable[[], object]:
    """Return a function that calls `call` with the next of `inputs` each time."""
    turns = cycle(inputs)
    return lambda: call(*next(turns))


def _host_seconds(call: Callable[[], object], device: torch.device) -> float:
    """Return the CPU's seconds for one call on an idle GPU: the launch time, unless the call waits for the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _round(call: Callable[[], object], count: int, device: torch.device, launching: float) -> float:
    """Return the seconds per call of `count` calls.

    A GPU first sleeps while the CPU launches all calls (`launching` seconds each), so launch times are not measured.
    """
    if device.type != "cuda":
        started = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - started) / count
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    torch.cuda._sleep(int(CYCLES * min(0.001 + 1.2 * count * launching, LONGEST_HEAD_START)))
    before.record()
    for _ in range(count):
        call()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1e3 / count
