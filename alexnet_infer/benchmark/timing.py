"""Interleaved timing of calls, so that other load on the machine affects all of them equally; percentiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Run = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The durations of one or more calls, in seconds. Raises ValueError if there are none."""

    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.seconds:
            raise ValueError("seconds=(): expected at least one call")

    @property
    def mean(self) -> float:
        return float(np.mean(self.seconds))

    @property
    def p50(self) -> float:
        return self.percentile(50)

    @property
    def p90(self) -> float:
        return self.percentile(90)

    @property
    def p99(self) -> float:
        return self.percentile(99)

    def percentile(self, percent: float) -> float:
        """Return a percentile in seconds, with linear interpolation between the two nearest durations."""
        return float(np.percentile(self.seconds, percent))


def interleave(
    runs: Sequence[Run],
    *,
    seconds: float = 2.0,
    rounds: int = 5,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
    on_turn: Callable[[], None] = lambda: None,
) -> list[Timing]:
    """Time calls of each of `runs`, which must return only when their work is done. Returns a Timing for each.

    Every run is first called `warmup` times. Then, in each of `rounds` rounds, every run has a turn of
    `seconds / rounds` seconds, with at least one timed call. A turn starts with an untimed call that brings the weights
    back into the cache, where they stay while a net classifies many photos. `on_turn` is called after each turn.
    """
    for run in runs:
        for _ in range(warmup):
            run()
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, durations in zip(runs, times, strict=True):
            run()
            durations += _turn(run, seconds / rounds, clock)
            on_turn()
    return [Timing(seconds=tuple(durations)) for durations in times]


def _turn(run: Run, seconds: float, clock: Callable[[], float]) -> list[float]:
    """Call `run` until the calls have taken `seconds` together, at least once. Returns their durations."""
    times: list[float] = []
    while sum(times) < seconds or not times:
        begin = clock()
        run()
        times.append(clock() - begin)
    return times


def measure(
    run: Run,
    *,
    seconds: float = 2.0,
    rounds: int = 5,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time calls of `run` alone; see `interleave`."""
    return interleave([run], seconds=seconds, rounds=rounds, warmup=warmup, clock=clock)[0]
