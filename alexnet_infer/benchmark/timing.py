"""Interleaved timing of calls, so that other load on the machine affects all of them equally; percentiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

Run = Callable[[], object]

WARMUP = 2
"""Untimed calls of each run before the first round."""


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
    runs: Sequence[Run], *, seconds: float, rounds: int, on_turn: Callable[[], None] = lambda: None
) -> list[Timing]:
    """Time calls of each of `runs`, which must return only when their work is done. Returns a Timing for each.

    Every run is first called WARMUP times. Then, in each of `rounds` rounds, every run has a turn of
    `seconds / rounds` seconds, with at least one timed call. A turn starts with an untimed call that brings the weights
    back into the cache, where they stay while a net classifies many photos. `on_turn` is called after each turn.
    """
    for run in runs:
        for _ in range(WARMUP):
            run()
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, durations in zip(runs, times, strict=True):
            run()
            durations += _turn(run, seconds / rounds)
            on_turn()
    return [Timing(seconds=tuple(durations)) for durations in times]


def _turn(run: Run, seconds: float) -> list[float]:
    """Call `run` until the calls have taken `seconds` together, at least once. Returns their durations."""
    times: list[float] = []
    total = 0.0
    while total < seconds or not times:
        begin = perf_counter()
        run()
        times.append(perf_counter() - begin)
        total += times[-1]
    return times
