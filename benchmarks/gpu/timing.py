"""Time of a call: by CUDA events on a GPU, by the clock on a CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import torch

ROUNDS = 7
CALLS = 20
"""At most, in a round."""
CYCLES = 2e9
"""Of a GPU in a second, about."""
LONGEST_HEAD_START = 0.05
"""Seconds."""


def seconds(
    call: Callable[..., object], device: torch.device, inputs: Sequence[tuple[Any, ...]] = ((),), *, budget: float = 0.5
) -> float:
    """Median seconds of `call(*inputs[i])`, where i goes round: inputs that exceed the cache together, several times,
    show what the memory gives. Takes about `budget` seconds after one call with each of the inputs to warm up."""
    return medians({None: rotating(call, inputs)}, device, warmup=len(inputs), budget=budget)[None]


def medians(
    calls: Mapping[Any, Callable[[], object]], device: torch.device, *, warmup: int = 1, budget: float = 0.5
) -> dict[Any, float]:
    """Median seconds of each of `calls`, in rounds that time all of them: ratios hold although clocks drift. Each takes
    about `budget` seconds, after `warmup` calls."""
    counts: dict[Any, int] = {}
    launching: dict[Any, float] = {}
    for key, call in calls.items():
        for _ in range(warmup):
            call()
        launching[key] = _host_seconds(call, device)
        counts[key] = min(max(int(budget / ROUNDS / _round(call, 1, device, launching[key])), 1), CALLS)
    found: dict[Any, list[float]] = {key: [] for key in calls}
    for _ in range(ROUNDS):
        for key, call in calls.items():
            found[key].append(_round(call, counts[key], device, launching[key]))
    return {key: statistics.median(times) for key, times in found.items()}


def rotating(call: Callable[..., object], inputs: Sequence[tuple[Any, ...]]) -> Callable[[], object]:
    """A function that calls `call` with the next of the inputs each time."""
    turns = cycle(inputs)
    return lambda: call(*next(turns))


def _host_seconds(call: Callable[[], object], device: torch.device) -> float:
    """Seconds that the CPU takes for one call, on a GPU that has nothing else to do: to launch it, unless it waits."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _round(call: Callable[[], object], count: int, device: torch.device, launching: float) -> float:
    """Seconds of one call among `count`. A GPU sleeps first, for as long as the CPU takes to launch them all
    (`launching` seconds each): so the time is the GPU's and not that of launching."""
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
