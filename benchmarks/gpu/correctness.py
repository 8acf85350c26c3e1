"""Stage 2: the cases of `benchmarks.gpu.cases`, on this device."""

from __future__ import annotations

import time

from benchmarks.gpu.cases import CASES
from benchmarks.gpu.context import Context


def run(context: Context) -> None:
    """Record for each case whether it passed, its largest errors, and every comparison that failed.

    A case that raises has failed. The other cases still run.
    """
    for name, case in CASES.items():
        started = time.monotonic()
        with context.attempt(name):
            outcomes = [*case(context.device)]
            context.check(
                name,
                all(outcome.passed for outcome in outcomes),
                comparisons=len(outcomes),
                failed={outcome.name: [outcome.error, outcome.tolerance] for outcome in outcomes if not outcome.passed},
                largest={outcome.name: outcome.error for outcome in sorted(outcomes, key=lambda o: -o.error)[:3]},
                seconds=round(time.monotonic() - started, 2),
            )
