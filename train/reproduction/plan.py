"""The experiments of experiments.toml: scales, runs and rows, checked, and the commands that they stand for."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard

import msgspec

from alexnet_infer import strict_json
from alexnet_infer.errors import SpecError, UsageError
from alexnet_infer.presets import Variant, kernel_counts, variant
from alexnet_infer.strict_json import Record, Text, matching, number, whole
from train.recipe import RECIPES, Recipe

EXPERIMENTS = Path(__file__).with_name("experiments.toml")
MODELS = Path(__file__).parents[2] / "models"

Name = Annotated[str, matching("[a-z0-9]+(?:-[a-z0-9]+)*", "lower-case words, joined by hyphens")]
_Points = Annotated[float, number(-100, 100)]
_NET_OPTIONS = ("preset", "width", "kernels", "hidden", "net-columns", "activation", "normalization", "pool-size")
"""Options that a net which starts from another one takes from that."""


class Part(Record, kw_only=True, rename="kebab"):
    """A part of a data set, as the options of `python -m train prepare`."""

    image_size: Annotated[int, whole(1, 4096)]
    classes: Text
    hold_out: Annotated[int, whole(0, 10**6)]

    @property
    def options(self) -> dict[str, Any]:
        return {"image-size": self.image_size, "classes": self.classes, "hold-out": self.hold_out}


class Scale(Record, kw_only=True):
    """How large the nets and the data are. With `nets`, trained nets are measured and nothing is trained."""

    title: Name
    about: Text
    main: Part
    other: Part | None = None
    options: Mapping[str, Any] = msgspec.field(default_factory=dict)
    seeds: tuple[Annotated[int, whole(0, 2**32 - 1)], ...] = ()
    nets: tuple[Text, ...] = ()


class Run(Record, kw_only=True):
    """One net, trained with each of a scale's seeds."""

    name: Name
    title: Text
    options: Mapping[str, Any] = msgspec.field(default_factory=dict)
    data: Literal["main", "other"] = "main"
    start: str | None = None
    """The run whose net, with the same seed, this one starts from."""


class Row(Record, kw_only=True):
    """A claim and the runs that test it."""

    name: Name
    title: Text
    section: Text
    claim: Text
    measure: Literal["ablation", "overfitting", "views", "ensemble", "color"]
    """ablation: errors of `against` minus errors of `net`, ten views. overfitting: the same, and the difference of the
    gaps between validation and training error. views: errors of the central view minus errors of ten views. ensemble:
    the mean error of five nets minus the error of their mean. color: the share of colour in each column of conv1."""
    net: str
    against: str | None = None
    paper: dict[Literal["top1", "top5"], _Points]
    note: str = ""


ENSEMBLE = 5
"""Nets of an ensemble, as in the paper's Table 2."""


@dataclass(frozen=True, order=True)
class Training:
    """A run with one seed at one scale: one net."""

    scale: str
    run: str
    seed: int

    def __str__(self) -> str:
        return f"{self.scale}/{self.run}-{self.seed}"


@dataclass(frozen=True, order=True)
class Mean:
    """The mean of the first ENSEMBLE nets of the run "paper" at one scale."""

    scale: str

    def __str__(self) -> str:
        return f"{self.scale}/mean-of-{ENSEMBLE}"


Task = Training | Mean
"""What has a record of its own."""


@dataclass(frozen=True)
class Plan:
    """All experiments. Made by `read_plan`."""

    scales: dict[str, Scale]
    runs: dict[str, Run]
    rows: tuple[Row, ...]

    @cached_property
    def rows_by_name(self) -> dict[str, Row]:
        return {row.name: row for row in self.rows}

    def row(self, name: str) -> Row:
        """Return the row called `name`. Raises UsageError, with all names, if there is none."""
        if name not in self.rows_by_name:
            raise UsageError(f"--only {name}: expected one of {', '.join(self.rows_by_name)}")
        return self.rows_by_name[name]

    def runs_of(self, row: Row, scale: Scale) -> tuple[str, ...]:
        """Return the runs that a row compares at a scale, or none if it is not possible there."""
        if scale.nets:  # those of the run "paper"; there is nothing to compare them with
            return (row.net,) if row.net == "paper" and row.measure in ("views", "ensemble", "color") else ()
        if row.measure == "ensemble" and len(scale.seeds) < ENSEMBLE:
            return ()
        runs = (row.net, row.against) if row.against else (row.net,)
        return runs if set(runs) <= set(self.possible_runs(scale)) else ()

    def possible_runs(self, scale: Scale) -> list[str]:
        """Return the runs that a scale has the data for: of trained nets, the one that they are."""
        if scale.nets:
            return ["paper"]
        return [run for run in self.runs if scale.other or all(self.runs[r].data == "main" for r in self._chain(run))]

    def _chain(self, run: str) -> list[str]:
        return [*self._starts(run), run]

    def tasks(self, row: Row, scale: Scale) -> list[Task]:
        """Return the nets that a row needs at a scale, each after those that it is made from."""
        names: dict[str, None] = {}
        for run in self.runs_of(row, scale):
            names |= dict.fromkeys(self._chain(run))
        tasks: list[Task] = [Training(scale.title, name, seed) for seed in self.seeds(scale) for name in names]
        return [*tasks, Mean(scale.title)] if names and row.measure == "ensemble" else tasks

    @staticmethod
    def seeds(scale: Scale) -> tuple[int, ...]:
        """Return the seeds of a scale. Those of trained nets are their numbers."""
        return tuple(range(len(scale.nets))) if scale.nets else scale.seeds

    def members(self, mean: Mean) -> list[Training]:
        """Return the nets of a mean."""
        return [Training(mean.scale, "paper", seed) for seed in self.seeds(self.scales[mean.scale])[:ENSEMBLE]]

    def net_file(self, training: Training) -> Path:
        """Return the file of a net that comes with the program."""
        return MODELS / f"{self.scales[training.scale].nets[training.seed]}.safetensors"

    def start(self, training: Training) -> Training | None:
        """Return the net that a net starts from, if there is one."""
        start = self.runs[training.run].start
        return Training(training.scale, start, training.seed) if start else None

    def _starts(self, run: str) -> list[str]:
        start = self.runs[run].start
        return [*self._starts(start), start] if start else []

    def trained(self, task: Task) -> TypeGuard[Training]:
        """Whether a task trains a net; the others only measure nets."""
        return isinstance(task, Training) and not self.scales[task.scale].nets

    def recipe(self, training: Training) -> Recipe:
        """Return the recipe of a net."""
        options = {name.replace("-", "_"): value for name, value in self.options(training).items()}
        recipe = RECIPES[options.get("recipe", "paper")]
        return replace(recipe, **{f.name: options[f.name] for f in fields(Recipe) if f.name in options})

    def variant(self, training: Training) -> Variant:
        """Return the net."""
        start = self.start(training)
        if start is not None:
            return self.variant(start)
        options = {name.replace("-", "_"): value for name, value in self.options(training).items()}
        options |= kernel_counts(options["kernels"]) if "kernels" in options else {}
        options |= {"columns": options["net_columns"]} if "net_columns" in options else {}
        named = {"width", "kernels", "sixth_conv", "hidden", "columns", "activation", "normalization", "pool_size"}
        own = {name: value for name, value in options.items() if name in named}
        return replace(variant(options["preset"]), **own)

    def epochs(self, training: Training) -> int:
        """Return for how many epochs a net is trained, at most."""
        return self.recipe(training).epochs

    def part(self, task: Task) -> Part:
        """Return the part of the data that a net is trained and measured on."""
        scale = self.scales[task.scale]
        other = isinstance(task, Training) and self.runs[task.run].data == "other"
        part = scale.other if other else scale.main
        assert part is not None, "checked when read"
        return part

    def options(self, training: Training) -> dict[str, Any]:
        """Return the options of `python -m train` for a net, without its data, folder and start."""
        scale, run = self.scales[training.scale], self.runs[training.run]
        options = dict(scale.options) | dict(run.options)
        if run.start:
            options = {name: value for name, value in options.items() if name not in _NET_OPTIONS}
        return options | {"seed": training.seed}


def read_plan(path: Path = EXPERIMENTS) -> Plan:
    """Read the experiments. Raises SpecError if the file is not TOML or a value is missing, unknown or of no use."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"{path}: {error}") from None
    try:
        scales = {name: _scale(table, f"scale.{name}") for name, table in data["scale"].items()}
        runs = {name: _build({"name": name} | table, Run, f"run.{name}") for name, table in data["run"].items()}
        rows = tuple(_build(table, Row, f"row {table.get('name')}") for table in data["row"])
    except (KeyError, AttributeError, TypeError) as error:
        raise SpecError(f"{path}: expected tables scale, run and row ({error})") from None
    plan = Plan(scales, runs, rows)
    _check(plan)
    return plan


def _scale(table: dict[str, Any], where: str) -> Scale:
    parts = {
        name: strict_json.build(table[name], Part, f"{where}.{name}") for name in ("main", "other") if name in table
    }
    return Scale(**table | parts | {name: tuple(table[name]) for name in ("seeds", "nets") if name in table})


def _build(table: dict[str, Any], kind: type, where: str) -> Any:
    try:
        return kind(**table)
    except TypeError as error:
        raise SpecError(f"{where}: {error}") from None


def _check(plan: Plan) -> None:
    """Raise SpecError if a name refers to nothing."""
    for run in plan.runs.values():
        if run.start is not None and run.start not in plan.runs:
            raise SpecError(f"run.{run.name}: start={run.start}: expected one of {', '.join(plan.runs)}")
    for row in plan.rows:
        for name in filter(None, (row.net, row.against)):
            if name not in plan.runs:
                raise SpecError(f"row {row.name}: {name}: expected one of {', '.join(plan.runs)}")
        if row.against is None and row.measure in ("ablation", "overfitting"):
            raise SpecError(f"row {row.name}: against: expected the run to compare with")
    for name, scale in plan.scales.items():
        if name != scale.title or not (scale.nets or scale.seeds):
            raise SpecError(f"scale.{name}: expected its own name as title, and nets or seeds")
