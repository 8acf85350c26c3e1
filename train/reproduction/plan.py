"""Scales, runs and rows, and the nets and options that they stand for. `experiments` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, get_args

import msgspec

from alexnet_infer.errors import UsageError
from alexnet_infer.presets import Variant, kernel_counts, variant
from alexnet_infer.strict_json import Record, Text, matching, number, whole
from train.recipe import RECIPES, Recipe

MODELS = Path(__file__).parents[2] / "models"

Name = Annotated[str, matching("[a-z0-9]+(?:-[a-z0-9]+)*", "lower-case words, joined by hyphens")]
_Points = Annotated[float, number(-100, 100)]
NET_OPTIONS = ("preset", "width", "kernels", "hidden", "net-columns", "activation", "normalization", "pool-size")
"""Options of the net. One that starts from another net takes them from that."""

RECIPE_OPTIONS = ("recipe", *(f.name.replace("_", "-") for f in fields(Recipe) if f.name != "name"))
"""Options of the recipe."""


PartName = Literal["main", "other", "ten"]
PARTS: tuple[PartName, ...] = get_args(PartName)
"""Names of the parts of a data set: for most runs; with other classes; with ten of them."""


class Part(Record, kw_only=True, rename="kebab"):
    """A part of a data set, as the options of `python -m train prepare`."""

    image_size: Annotated[int, whole(1, 4096)]
    classes: Text
    hold_out: Annotated[int, whole(0, 10**6)]

    @property
    def options(self) -> dict[str, Any]:
        return {"image-size": self.image_size, "classes": self.classes, "hold-out": self.hold_out}


class Scale(Record, kw_only=True):
    """How large the nets and the data are. With `nets`, trained nets are measured and nothing is trained.

    The results of a `trial` mean nothing. They are on the page only if there are no others.
    """

    title: Name
    about: Text
    parts: Mapping[str, Part]
    """The parts of the data set that it has, by name. It has the runs that need no others."""
    options: Mapping[str, Any] = msgspec.field(default_factory=dict)
    seeds: tuple[Annotated[int, whole(0, 2**32 - 1)], ...] = ()
    nets: tuple[Text, ...] = ()
    trial: bool = False


class Run(Record, kw_only=True):
    """One net, trained with each of a scale's seeds."""

    name: Name
    title: Text
    options: Mapping[str, Any] = msgspec.field(default_factory=dict)
    data: PartName = "main"
    start: str | None = None
    """The run whose net, with the same seed, this one starts from."""


class Row(Record, kw_only=True):
    """A claim and the runs that test it."""

    name: Name
    title: Text
    section: Text
    claim: Text
    measure: Literal["ablation", "overfitting", "views", "ensemble", "speed", "color", "neighbors"]
    """ablation: errors of `against` minus errors of `net`, ten views. overfitting: the same, and the difference of the
    gaps between validation and training error. views: errors of the central view minus errors of ten views. ensemble:
    the mean error of five nets minus the error of their mean. speed: the updates that `against` takes to a training
    error of `speed.TARGET`, divided by those that `net` takes. color: the share of colour in each column of conv1.
    neighbors: the share of nearest neighbours of the same class, in the last hidden layer minus in pixels."""
    net: str
    against: str | None = None
    also: tuple[str, ...] = ()
    """Runs that are only shown beside them."""
    paper: dict[Literal["top1", "top5", "ratio"], _Points]
    note: str = ""
    more: bool = False
    """Whether the paper says "more than" its figures."""
    only_sign: bool = False
    """Whether the paper says which is better, but not by how much."""

    @property
    def decisive(self) -> str:
        """The figure that decides whether a claim agrees."""
        return {"overfitting": "gap", "speed": "ratio", "neighbors": "same"}.get(self.measure, "top1")

    @property
    def claimed(self) -> bool:
        """Whether the paper claims something about the figures of this row."""
        return bool(self.paper) or self.only_sign or self.measure in ("overfitting", "color", "neighbors")


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
    """All experiments. `experiments.read_plan` makes and checks it."""

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
            compared = ("ablation", "overfitting", "speed")
            return (row.net,) if row.net == "paper" and row.measure not in compared else ()
        if row.measure == "ensemble" and len(scale.seeds) < ENSEMBLE:
            return ()
        runs = (row.net, *([row.against] if row.against else []), *row.also)
        return runs if set(runs) <= set(self.possible_runs(scale)) else ()

    def possible_runs(self, scale: Scale) -> list[str]:
        """Return the runs that a scale has the data for: of trained nets, the one that they are."""
        if scale.nets:
            return ["paper"]
        return [run for run in self.runs if all(self.runs[r].data in scale.parts for r in self._chain(run))]

    def _chain(self, run: str) -> list[str]:
        """Return the runs that a run starts from, the first one first, and the run itself."""
        start = self.runs[run].start
        return [*(self._chain(start) if start else []), run]

    def tasks(self, row: Row, scale: Scale) -> list[Task]:
        """Return the nets that a row needs at a scale, each after those that it is made from."""
        names: dict[str, None] = {}
        for run in self.runs_of(row, scale):
            names |= dict.fromkeys(self._chain(run))
        tasks: dict[Task, None] = {}
        for seed in self.seeds(scale):
            tasks |= dict.fromkeys(self.training(scale, name, seed) for name in names)
        return [*tasks, Mean(scale.title)] if names and row.measure == "ensemble" else [*tasks]

    def training(self, scale: Scale, run: str, seed: int) -> Training:
        """Return the net of a run: that of the first run that is the same at this scale.

        The paper's recipe has dropout 0.5, so that at the scale "full" the run "dropout" is the run "paper".
        """
        own = Training(scale.title, run, seed)
        if scale.nets:
            return own
        earlier = (Training(scale.title, name, seed) for name in self.possible_runs(scale))
        return next((other for other in earlier if other == own or self._same(other, own)), own)

    def _same(self, one: Training, other: Training) -> bool:
        def content(training: Training) -> tuple[object, ...]:
            own = self.runs[training.run]
            return self.variant(training), self.recipe(training), own.data, own.start

        return content(one) == content(other)

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

    def net_name(self, training: Training) -> str:
        """Return the name of the file that a run writes: the trainer names nets by their preset."""
        return f"{self.variant(training).name}.safetensors"

    def start(self, training: Training) -> Training | None:
        """Return the net that a net starts from, if there is one."""
        start = self.runs[training.run].start
        return Training(training.scale, start, training.seed) if start else None

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
        preset = variant(options["preset"])
        options |= kernel_counts(options["kernels"], preset) if "kernels" in options else {}
        options |= {"columns": options["net_columns"]} if "net_columns" in options else {}
        named = {"width", "kernels", "sixth_conv", "hidden", "columns", "activation", "normalization", "pool_size"}
        own = {name: value for name, value in options.items() if name in named}
        return replace(preset, **own)

    def epochs(self, training: Training) -> int:
        """Return for how many epochs a net is trained, at most."""
        return self.recipe(training).epochs

    def part(self, task: Task) -> Part:
        """Return the part of the data that a net is trained and measured on."""
        name = self.runs[task.run].data if isinstance(task, Training) else "main"
        return self.scales[task.scale].parts[name]

    def options(self, training: Training) -> dict[str, Any]:
        """Return the options of `python -m train` for a net, without its data, folder and start."""
        scale, run = self.scales[training.scale], self.runs[training.run]
        options = dict(scale.options) | dict(run.options)
        if run.start:
            options = {name: value for name, value in options.items() if name not in NET_OPTIONS}
        return options | {"seed": training.seed}
