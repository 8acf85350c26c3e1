"""The figures of each row, computed from the records: differences with intervals, and the verdict on the claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import comb

import numpy as np

from alexnet_infer.errors import UsageError
from train.reproduction.intervals import (
    Interval,
    SeedVariance,
    Verdict,
    difference,
    gap_difference,
    over_images,
    ratio,
    within,
)
from train.reproduction.plan import Mean, Plan, Row, Scale, Task, Training
from train.reproduction.record import Neighbors, Records, Result
from train.reproduction.settings import settings
from train.reproduction.speed import updates

CHANCE = 40
"""An order of nets counts if chance gives it in at most one of this many cases: 2.5 %, as for an interval's end."""

Shares = tuple[str, int, tuple[float, ...]]
"""(run, number of the seed, shares of colour in the halves of conv1) of a net."""


@dataclass(frozen=True, kw_only=True)
class RunErrors:
    """The errors of a run at a scale: means over its seeds, as fractions."""

    run: str
    seeds: int
    top1: float
    top5: float
    center: float
    """Top-1 error of the central view."""
    training: float | None
    """Top-1 error on training images, central view."""
    parameters: int


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """What a row gives at one scale."""

    row: Row
    scale: Scale
    missing: tuple[Task, ...]
    """Nets without a record. If there are any, there are no figures."""
    runs: tuple[RunErrors, ...] = ()
    images: int = 0
    figures: Mapping[str, Interval] = field(default_factory=dict)
    """Differences of errors, as fractions, and ratios; without those for which chance is not known."""
    color: tuple[Shares, ...] = ()
    neighbors: tuple[Neighbors, ...] = ()
    """Of each net."""
    updates: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    """Of each run, the updates of each seed to the training error `speed.TARGET`; None if it was not reached."""

    @property
    def done(self) -> bool:
        return not self.missing

    @property
    def verdict(self) -> Verdict | None:
        """The verdict on the claim; None without figures."""
        if self.row.measure == "color":
            return color_verdict([self.color]) if self.color else None
        decisive = self.figures.get(self.row.decisive)
        return decisive.verdict if decisive else None

    @property
    def shown_verdict(self) -> str:
        """The verdict, or why there is none."""
        if self.missing:
            return "missing"
        compared = (self.updates.get(run, ()) for run in (self.row.net, self.row.against or ""))
        return self.verdict or ("not reached" if any(None in of_run for of_run in compared) else "too few seeds")


class Results:
    """The results of all rows of a plan, from the records in a folder."""

    def __init__(self, plan: Plan, records: Records) -> None:
        self.plan, self.records = plan, records
        self._read: dict[Task, Result | None] = {}

    def result(self, task: Task) -> Result | None:
        """Return the result of a net; None if it has not been measured with the settings of the plan."""
        if task not in self._read:
            self._read[task] = self.records.read(task, settings(self.plan, task))
        return self._read[task]

    def of(self, row: Row, scale: Scale) -> RowResult | None:
        """Return what a row gives at a scale; None if it is not possible there.

        Raises UsageError if the nets were not measured on the same images.
        """
        runs = self.plan.runs_of(row, scale)
        if not runs:
            return None
        tasks, seeds = self.plan.tasks(row, scale), self.plan.seeds(scale)
        known = {task: result for task in tasks if (result := self.result(task)) is not None}
        if missing := tuple(task for task in tasks if task not in known):
            return RowResult(row=row, scale=scale, missing=missing)
        results = {run: [known[self.plan.training(scale, run, seed)] for seed in seeds] for run in runs}
        mean = known.get(Mean(scale.title))
        images = self._same_images(
            row, [*(net for of_run in results.values() for net in of_run), *([mean] if mean else [])]
        )
        return RowResult(
            row=row,
            scale=scale,
            missing=(),
            runs=tuple(_run_errors(run, of_run) for run, of_run in results.items()),
            images=images,
            figures=self._figures(row, scale, results, mean),
            color=_color(results) if row.measure == "color" else (),
            neighbors=_neighbors(results[row.net]) if row.measure == "neighbors" else (),
            updates=_updates(results) if row.measure == "speed" else {},
        )

    def _same_images(self, row: Row, results: list[Result]) -> int:
        first = results[0]
        for other in results[1:]:
            if other.data != first.data:
                raise UsageError(
                    f"row {row.name}: its nets are of different data; keep the results of only one data set"
                )
        return first.images

    def _figures(
        self, row: Row, scale: Scale, results: dict[str, list[Result]], mean: Result | None
    ) -> dict[str, Interval]:
        match row.measure:
            case "color":
                return {}
            case "neighbors":
                return self._same_class(_neighbors(results[row.net]))
            case "speed":
                return _speed(row, _updates(results))
        figures: dict[str, Interval | None] = {}
        comparable = self._comparable(scale, results[row.net][0])
        for k, name in enumerate(("top1", "top5")):
            wrong = {run: _wrong(of_run, k) for run, of_run in results.items()}
            if row.measure == "views":
                gains = [_wrong(of_run, k, "center").mean(1) - _wrong(of_run, k).mean(1) for of_run in comparable]
                center = _wrong(results[row.net], k, "center")
                figures[name] = within(center, wrong[row.net], SeedVariance.pooled(gains))
            elif row.measure == "ensemble":
                assert mean is not None, "checked before"
                figures[name] = over_images(wrong[row.net], mean.wrong("ten")[None, :, k])
            else:
                variance = SeedVariance.pooled([_wrong(of_run, k).mean(1) for of_run in comparable])
                figures[name] = difference(wrong[row.against or ""], wrong[row.net], variance)
        if row.measure == "overfitting":
            figures["gap"] = _gap(results[row.against or ""], results[row.net], comparable)
        return {name: interval for name, interval in figures.items() if interval is not None}

    @staticmethod
    def _same_class(nets: Sequence[Neighbors]) -> dict[str, Interval]:
        features, pixels = (np.stack(shares) for shares in zip(*(net.shares() for net in nets), strict=True))
        variance = SeedVariance.pooled([features.mean(1) - pixels.mean(1)])
        interval = within(features, pixels, variance)
        return {"same": interval} if interval else {}

    def _comparable(self, scale: Scale, like: Result) -> list[list[Result]]:
        """Return the results of each run of a scale that was measured on the images of `like`, with two seeds or more.

        Their variances between seeds are pooled.
        """
        found = []
        for run in self.plan.possible_runs(scale):
            if self.plan.runs[run].data != "main":
                continue
            results = [self.result(Training(scale.title, run, seed)) for seed in self.plan.seeds(scale)]
            of_run = [
                result for result in results if result is not None and result.data.validation == like.data.validation
            ]
            if len(of_run) > 1:
                found.append(of_run)
        return found


def _color(results: Mapping[str, Sequence[Result]]) -> tuple[Shares, ...]:
    return tuple((run, number, net.color) for run, of_run in results.items() for number, net in enumerate(of_run))


def _updates(results: Mapping[str, Sequence[Result]]) -> dict[str, tuple[float | None, ...]]:
    return {run: tuple(updates(net.curve) for net in of_run) for run, of_run in results.items()}


def _speed(row: Row, reached: Mapping[str, Sequence[float | None]]) -> dict[str, Interval]:
    """Return the ratio of updates; none if a net of the two runs has not reached the error."""
    net, against = (np.array(reached[run], float) for run in (row.net, row.against or ""))  # None becomes NaN
    if np.isnan(net).any() or np.isnan(against).any():
        return {}
    found = ratio(against, net, SeedVariance.pooled([np.log(net), np.log(against)]))
    return {"ratio": found} if found else {}


def _gap(against: list[Result], net: list[Result], comparable: list[list[Result]]) -> Interval | None:
    return gap_difference(
        *(_wrong(of_run, 0, "center") for of_run in (against, net)),
        *(_training(of_run) for of_run in (against, net)),
        images=min(result.training.images for result in (*against, *net) if result.training),
        seeds=SeedVariance.pooled([_gaps(of_run) for of_run in comparable]),
    )


def color_verdict(scales: Sequence[Sequence[Shares]]) -> Verdict:
    """Return whether the halves of conv1 differ more in colour in nets of two columns than in nets of one.

    `scales` has the nets of each scale, of which the first has two columns. Nets are compared within their scale;
    scales with only one kind do not count. Decided if in each scale all nets of one kind differ more than all of the
    other, and if chance gives these orders in at most one of CHANCE cases.
    """
    orders, above, below = 1, True, True
    for nets in scales:
        two, one = ([abs(a - b) for run, _, (a, b) in nets if (run == nets[0][0]) == own] for own in (True, False))
        if two and one:
            orders *= comb(len(two) + len(one), len(one))
            above, below = above and min(two) > max(one), below and max(two) < min(one)
    if orders < CHANCE or above == below:
        return "undecided"
    return "agrees" if above else "disagrees"


def _wrong(results: list[Result], k: int, views: str = "ten") -> np.ndarray:
    """Return bool [seeds, images]: the wrong images, top-1 for k = 0, top-5 for k = 1."""
    return np.stack([result.wrong(views)[:, k] for result in results])


def _neighbors(results: list[Result]) -> tuple[Neighbors, ...]:
    return tuple(result.neighbors for result in results if result.neighbors is not None)


def _training(results: list[Result]) -> np.ndarray:
    """Return the top-1 error on training images of each net, float [seeds]."""
    return np.array([result.training.top1 / result.training.images for result in results if result.training])


def _gaps(results: list[Result]) -> np.ndarray:
    """Return the validation error minus the training error of each net, central view, float [seeds]."""
    return _wrong(results, 0, "center").mean(1) - _training(results)


def _run_errors(run: str, results: list[Result]) -> RunErrors:
    top1, top5, center = (_wrong(results, k, views).mean() for k, views in ((0, "ten"), (1, "ten"), (0, "center")))
    training = _training(results)
    return RunErrors(
        run=run,
        seeds=len(results),
        top1=float(top1),
        top5=float(top5),
        center=float(center),
        training=float(training.mean()) if len(training) else None,
        parameters=results[0].parameters,
    )
