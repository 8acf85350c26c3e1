"""Records of nets that were never trained, with chosen wrong images."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.reproduction.experiments import read_plan
from train.reproduction.page import page
from train.reproduction.plan import Mean, Plan, Row, Task
from train.reproduction.publish import every_result
from train.reproduction.record import Curve, Data, Errors, Neighbors, Records, Result, Wrong, with_neighbors
from train.reproduction.rows import Results, RowResult
from train.reproduction.settings import settings

PLAN = read_plan()
IMAGES = 40
"""Validation images, a multiple of 8, so that there is no bit left over."""

VALIDATION = {"images": IMAGES, "labels": "0123456789abcdef", "pixels": "fedcba9876543210"}


def mask(wrong: Iterable[int], images: int = IMAGES) -> np.ndarray:
    """Return bool [images], true at the numbers of the wrong images."""
    found = np.zeros(images, bool)
    found[list(wrong)] = True
    return found


def both(top1: np.ndarray, top5: np.ndarray | None = None) -> np.ndarray:
    """Return bool [images, 2] from the images wrong in top-1 and in top-5, by default every second of the first."""
    if top5 is None:
        top5 = top1.copy()
        top5[np.flatnonzero(top1)[::2]] = False
    return np.stack([top1, top5], 1)


def made(task: Task, ten: np.ndarray, center: np.ndarray | None = None, plan: Plan = PLAN, **changes: Any) -> Result:
    """Return the result of a task that gets `ten` and `center` wrong, bool [images, 2]. Other fields are plausible."""
    alone = not isinstance(task, Mean)
    images = len(ten)
    fields: dict[str, Any] = {
        "settings": settings(plan, task),
        "data": Data(train={"images": 1000}, validation=VALIDATION | {"images": images}),
        "images": images,
        "center": Wrong.of(ten if center is None else center),
        "ten": Wrong.of(ten),
        "training": Errors(images=images, top1=images // 4, top5=images // 8) if alone else None,
        "neighbors": neighbors() if with_neighbors(task) else None,
        "color": (0.25, 0.75) if alone else (),
        "columns": 2,
        "parameters": 1234567,
        "curve": curve((0.5, 0.25)),
        "seconds": 60.0,
        "hardware": "a processor, 2 threads",
        "software": "alexnet-infer 1, PyTorch 2",
        "date": "2026-01-31",
    }
    if not plan.trained(task):
        fields |= {"curve": None, "seconds": None}
    return Result(**fields | changes)


def curve(training_error: Sequence[float], steps_per_epoch: int = 10) -> Curve:
    """Return a curve with these errors of each epoch on training images; on validation images they are the same."""
    return Curve(
        loss=tuple(4 * error for error in training_error for _ in range(4)),
        top1_error=tuple(training_error),
        top5_error=tuple(error / 2 for error in training_error),
        training_error=tuple(training_error),
        steps_per_epoch=steps_per_epoch,
    )


def neighbors(features: Sequence[int] = (6, 3, 0), pixels: Sequence[int] = (1, 0, 0)) -> Neighbors:
    """Return the result of these numbers of neighbours, of six, for each of some images."""
    texts = (base64.b64encode(bytes(counts)).decode() for counts in (features, pixels))
    return Neighbors(
        queries=len(features),
        nearest=6,
        **dict(zip(("features", "pixels"), texts, strict=True)),
        pixel_distance_of_features=3000.0,
        pixel_distance_of_pixels=2000.0,
        pixel_distance_of_all=4000.0,
    )


def random_wrong(rng: np.random.Generator, images: int = IMAGES, share: float = 0.5) -> np.ndarray:
    """Return bool [images, 2]: random wrong images. Those wrong in top-5 are wrong in top-1 too."""
    top1 = rng.random(images) < share
    return both(top1, top1 & (rng.random(images) < 0.5))


class Folder:
    """A folder of made records, and what is computed from them."""

    def __init__(self, path: Path, plan: Plan = PLAN) -> None:
        self.path, self.plan, self.records = path, plan, Records(path)
        self.made: dict[Task, Result] = {}

    def add(self, task: Task, ten: np.ndarray, center: np.ndarray | None = None, **changes: Any) -> None:
        """Write the record of a task, see `made`."""
        self.made[task] = made(task, ten, center, self.plan, **changes)
        self.records.write(task, self.made[task])

    def add_row(self, name: str, scale: str, seed: int = 0, share: Mapping[str, float] | None = None) -> None:
        """Write random records for those tasks of a row that have no record. `share` maps runs to errors, else 0.5."""
        rng = np.random.default_rng(seed)
        for task in self.plan.tasks(self.plan.row(name), self.plan.scales[scale]):
            run = "mean" if isinstance(task, Mean) else task.run
            ten = random_wrong(rng, share=(share or {}).get(run, 0.5))
            worse = random_wrong(rng, share=0.1)
            center = ten | worse
            color = () if isinstance(task, Mean) else (round(rng.random(), 3), round(rng.random(), 3))
            if task not in self.made:
                self.add(task, ten, center, color=color)

    @property
    def results(self) -> Results:
        return Results(self.plan, self.records)

    @property
    def rows(self) -> list[RowResult]:
        """Results of all rows at all scales."""
        return every_result(self.plan, self.results)

    def of(self, name: str, scale: str) -> RowResult:
        """Return the result of a row that is possible at a scale."""
        found = self.results.of(self.row(name), self.plan.scales[scale])
        assert found is not None
        return found

    def row(self, name: str) -> Row:
        return self.plan.row(name)

    def page(self) -> str:
        return page(self.plan, self.rows, {})
