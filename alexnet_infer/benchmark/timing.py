"""Times of calls: interleaved, so that whatever else the machine does hits all alike, and as percentiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Run = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long each of several calls took, in seconds. Raises ValueError when there is none."""

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
        """In seconds; between two calls' times it is interpolated linearly."""
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
    """Times calls of each of `runs`, which return when their work is done; one Timing for each, in their order.

    First each is called `warmup` times. Then, for so many `rounds`, each has a turn of `seconds / rounds`, but at least
    one call. A turn begins with a call that doesn't count: it fetches the weights, which what ran before drove out of
    the cache. Who classifies many photos has a net that stays there. `on_turn` is called after each turn.
    """
    for run in runs:
        for _ in range(warmup):
            run()
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, found in zip(runs, times, strict=True):
            run()
            found += _turn(run, seconds / rounds, clock)
            on_turn()
    return [Timing(seconds=tuple(found)) for found in times]


def _turn(run: Run, seconds: float, clock: Callable[[], float]) -> list[float]:
    """The times of as many calls as begin within `seconds`, and of one at least."""
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
    """Times calls of `run` alone; see `interleave`."""
    return interleave([run], seconds=seconds, rounds=rounds, warmup=warmup, clock=clock)[0]
