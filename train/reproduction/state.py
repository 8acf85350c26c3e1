"""What is done and what is missing, what that would cost, and in which order to run it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from train.packed import is_packed, open_packed
from train.parts import open_splits
from train.reproduction.cost import Costs
from train.reproduction.plan import Part, Plan, Row, Scale, Task, Training
from train.reproduction.request import Request
from train.reproduction.rows import Results, RowResult
from train.selection import Selection


@dataclass(frozen=True, kw_only=True)
class RowState:
    """A row at a scale, for a list."""

    result: RowResult
    tasks: tuple[Task, ...]
    hours: float | None
    """Estimated time of the missing tasks on this machine; None if it is not known."""

    def to_json(self) -> dict[str, Any]:
        return {
            "row": self.result.row.name,
            "section": self.result.row.section,
            "scale": self.result.scale.title,
            "nets": len(self.tasks),
            "missing": [str(task) for task in self.result.missing],
            "verdict": self.result.verdict,
            "hours": self.hours,
        }


def states(request: Request, results: Results, costs: Costs, jobs: int) -> list[RowState]:
    """Return the state of each row asked for. A net that several rows need counts for each of them."""
    found, scale = [], request.size
    for row in request.rows:
        result = results.of(row, scale)
        assert result is not None, "possible at the scale"
        seconds = [costs.seconds(task) for task in result.missing]
        hours = None if None in seconds else sum(filter(None, seconds)) / 3600 / jobs
        found.append(RowState(result=result, tasks=tuple(request.plan.tasks(row, scale)), hours=hours))
    return found


def in_order(request: Request, results: Results, costs: Costs, *, undecided_first: bool) -> list[Task]:
    """Return the tasks without a record, each once, in the order in which to run them.

    Rows come in the order of their cost, the cheapest first; or, with `undecided_first`, in the order of how far the
    other scales leave them undecided. With each seed a row's runs are together, so that rows are complete early.
    """
    scale = request.size

    def cost(row: Row) -> float:
        missing = [task for task in request.plan.tasks(row, scale) if results.result(task) is None]
        return sum(inf if (seconds := costs.seconds(task)) is None else seconds for task in missing)

    def decided(row: Row) -> float:
        """How clearly the other scales decide a row: see `_distance`. 0 if they say nothing."""
        others = (results.of(row, other) for other in request.plan.scales.values() if not other.trial)
        return max((_distance(result) for result in others if result), default=0.0)

    rows = sorted(request.rows, key=decided if undecided_first else cost)
    tasks: dict[Task, None] = {}
    for row in rows:
        tasks |= dict.fromkeys(request.plan.tasks(row, scale))
    return [task for task in tasks if results.result(task) is None]


def _distance(result: RowResult) -> float:
    """Return how many times its half width the deciding interval is away from no effect; for colour, 0 or inf."""
    if result.row.measure == "color":
        return 0.0 if result.verdict in (None, "undecided") else inf
    interval = result.figures.get(result.row.decisive)
    if interval is None or interval.high == interval.low:
        return 0.0
    return abs(interval.value - interval.neutral) / ((interval.high - interval.low) / 2)


def image_counts(plan: Plan, scale: Scale, results: Results, data: Path | None) -> dict[Part, tuple[int, int]]:
    """Return the numbers of training and validation images of a scale's parts, as far as they are known.

    They are counted in `data`, if it is given, and else taken from the records.
    """
    counts: dict[Part, tuple[int, int]] = {}
    parts = scale.parts.values()
    if data is not None and is_packed(data):
        packed = open_packed(data)
        counts = dict.fromkeys(parts, (packed.images("train"), packed.images("validation")))
    elif data is not None:
        splits = open_splits(data)
        for part in parts:
            sets = Selection(classes=part.classes, hold_out=part.hold_out).of(splits)
            counts[part] = len(sets["train"]), len(sets["validation"])
    for run in plan.possible_runs(scale):
        for seed in plan.seeds(scale):
            task = Training(scale.title, run, seed)
            if result := results.result(task):
                counts.setdefault(plan.part(task), (result.data.train["images"], result.images))
    for part in parts:
        if counts:  # the parts of a scale have about as many images
            counts.setdefault(part, next(iter(counts.values())))
    return counts
