"""What a call of `reproduce` asks for. Does not import torch, so that a wrong value is refused at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alexnet_infer.backends import Device
from alexnet_infer.errors import UsageError, shown
from train.reproduction.plan import Plan, Row, Scale


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to reproduce. Raises UsageError for a row or a scale that does not exist."""

    scale: str
    only: tuple[str, ...] = ()
    results: Path
    """Folder of the records and the pictures. The page is written beside it."""
    plan: Plan

    def __post_init__(self) -> None:
        if self.scale not in self.plan.scales:
            raise UsageError(f"--scale {self.scale}: expected one of {', '.join(self.plan.scales)}")
        _check_folder("--results", self.results)
        for name in self.only:
            if not self.plan.runs_of(self.plan.row(name), self.size):
                raise UsageError(f"--only {name}: is not possible at the scale {self.scale}; choose another --scale")

    @property
    def size(self) -> Scale:
        """The scale."""
        return self.plan.scales[self.scale]

    @property
    def page(self) -> Path:
        """Path of the page."""
        results = self.results if self.results.name not in ("", "..") else self.results.resolve()
        return results.parent / "REPRODUCTION.md"

    @property
    def rows(self) -> list[Row]:
        """The rows asked for that are possible at the scale."""
        rows = [self.plan.row(name) for name in self.only] or list(self.plan.rows)
        return [row for row in rows if self.plan.runs_of(row, self.size)]


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """How and where to run. Raises UsageError on values out of range."""

    data: Path
    """The data set, or a packed set if the scale uses all of it."""
    work: Path
    """Folder for packed sets and runs."""
    device: Device = "auto"
    jobs: int | None = None
    """Runs side by side; None for one per core of a CPU, or 3 on a GPU."""
    max_hours: float | None = None

    def __post_init__(self) -> None:
        _check_folder("--work", self.work)
        if self.jobs is not None and not 1 <= self.jobs <= 64:
            raise UsageError(f"--jobs {shown(self.jobs)}: expected 1 to 64")
        if self.max_hours is not None and not 0 < self.max_hours < 1e5:
            raise UsageError(f"--max-hours {self.max_hours}: expected more than 0 and less than 100000")


def _check_folder(option: str, path: Path) -> None:
    """Raise UsageError if a folder can't be made at `path`, because a file is in its way."""
    for place in (path, *path.absolute().parents):
        if place.exists():
            if not place.is_dir():
                raise UsageError(f"{option} {path}: {place} is a file; expected a folder, or one that can be made")
            return
