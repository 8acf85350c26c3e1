"""Read experiments.toml, and check that everything in it can be run."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alexnet_infer import strict_json
from alexnet_infer.errors import AlexNetInferError, SpecError, one_line, printable, shown
from train.reproduction.plan import NET_OPTIONS, PARTS, RECIPE_OPTIONS, Part, Plan, Row, Run, Scale, Training
from train.selection import Selection

EXPERIMENTS = Path(__file__).with_name("experiments.toml")


def read_plan(path: Path = EXPERIMENTS) -> Plan:
    """Read the experiments.

    Raises SpecError, with the place, if the file is not TOML, or if a value is missing, unknown, refers to nothing or
    can't be run.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"{path}: {one_line(error)}") from None
    with _at(str(path)):
        scales, runs = _tables(data, "scale"), _tables(data, "run")
        if not isinstance(rows := data.get("row"), list) or not all(isinstance(row, dict) for row in rows):
            raise SpecError("row: expected tables [[row]]")
        plan = Plan(
            {name: _scale(table, f"scale.{name}") for name, table in scales.items()},
            {name: _run(name, runs) for name in runs},
            tuple(_row(table) for table in rows),
        )
        _check_scales(plan)
        _check_runs(plan)
        _check_rows(plan)
    return plan


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Put the place before the message of an error."""
    try:
        yield
    except AlexNetInferError as error:
        raise SpecError(f"{place}: {error}") from None


def _tables(data: Mapping[str, Any], name: str) -> dict[str, dict[str, Any]]:
    tables = data.get(name)
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise SpecError(f"{name}: expected tables [{name}.NAME]")
    return tables


def _scale(table: dict[str, Any], where: str) -> Scale:
    parts = {name: strict_json.build(table[name], Part, f"{where}.{name}") for name in PARTS if name in table}
    if "parts" in table:
        raise SpecError(f"{where}: parts: expected {', '.join(PARTS)} by name")
    rest = {name: value for name, value in table.items() if name not in PARTS}
    return _built(_tuples(rest, "seeds", "nets") | {"parts": parts}, Scale, where)


def _run(name: str, tables: Mapping[str, dict[str, Any]]) -> Run:
    """Return a run. With `like`, it has the options and the data of another run as well; its own come first."""
    where, table = f"run.{name}", {"name": name} | tables[name]
    if "like" in table:
        other = table.pop("like")
        like = tables.get(other, {"like": ""}) if isinstance(other, str) else {"like": ""}
        if "like" in like or not all(isinstance(t.get("options", {}), dict) for t in (like, table)):
            raise SpecError(f"{where}: like={shown(other)}: expected a run without `like`, with options")
        shared = {field: like[field] for field in ("data", "start") if field in like}
        table = shared | table | {"options": like.get("options", {}) | table.get("options", {})}
    return _built(table, Run, where)


def _row(table: dict[str, Any]) -> Row:
    return _built(_tuples(table, "also"), Row, f"row {printable(str(table.get('name')))}")


def _tuples(table: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the table with the lists of these names as tuples."""
    return table | {name: tuple(table[name]) for name in names if isinstance(table.get(name), list)}


def _built(table: dict[str, Any], kind: type, where: str) -> Any:
    with _at(where):
        try:
            return kind(**table)
        except TypeError as error:  # a field that is missing or unknown
            raise SpecError(one_line(error)) from None


def _check_scales(plan: Plan) -> None:
    if "full" not in plan.scales or "main" not in plan.scales["full"].parts:
        raise SpecError("scale.full: missing, or without main; the page has its commands")
    for name, scale in plan.scales.items():
        with _at(f"scale.{name}"):
            if name != scale.title:
                raise SpecError(f"title={scale.title}: expected its own name")
            if bool(scale.nets) == bool(scale.seeds):
                raise SpecError("expected either seeds or nets")
            _check_different(scale.seeds, "seeds")
            _check_options(scale.options)
            if not scale.nets and "preset" not in scale.options:
                raise SpecError("options: expected a preset")
            if not scale.parts or (scale.nets and "main" not in scale.parts):
                raise SpecError("main: missing; expected the part of the data set to use")
        for part_name, part in scale.parts.items():
            with _at(f"scale.{name}.{part_name}"):
                Selection(classes=part.classes, hold_out=part.hold_out)


def _check_runs(plan: Plan) -> None:
    if "paper" not in plan.runs:
        raise SpecError("run.paper: missing")
    for name, run in plan.runs.items():
        with _at(f"run.{name}"):
            _check_options(run.options)
            seen = [name]
            while (start := plan.runs[seen[-1]].start) is not None:
                if start not in plan.runs or start in seen:
                    raise SpecError(f"start={start}: expected another of {', '.join(plan.runs)}")
                seen.append(start)
    for scale in plan.scales.values():
        for name in [] if scale.nets else plan.possible_runs(scale):
            net = Training(scale.title, name, scale.seeds[0])
            with _at(f"scale.{scale.title}, run.{name}"):
                try:
                    plan.recipe(net).apply_to(plan.variant(net).build())
                except (TypeError, ValueError, KeyError) as error:  # an option of another type
                    raise SpecError(one_line(error)) from None


def _check_rows(plan: Plan) -> None:
    _check_different([row.name for row in plan.rows], "row")
    for number, row in enumerate(plan.rows):
        with _at(f"row {row.name}"):
            if any(row.title == other.title for other in plan.rows[:number]):
                raise SpecError(f"title={row.title}: another row has it too")
            for name in filter(None, (row.net, row.against, *row.also)):
                if name not in plan.runs:
                    raise SpecError(f"{name}: expected one of {', '.join(plan.runs)}")
            if row.against is None and row.measure in ("ablation", "overfitting", "speed"):
                raise SpecError("against: expected the run to compare with")
            if ("ratio" in row.paper) > (row.measure == "speed"):
                raise SpecError("paper: ratio: expected only for speed")
            if not any(plan.runs_of(row, scale) for scale in plan.scales.values()):
                raise SpecError("is possible at no scale, as none has the data of its runs")
            if row.measure in ("ensemble", "neighbors") and row.net != "paper":
                raise SpecError(f"net={row.net}: expected paper, for which alone this is measured")


def _check_options(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if name not in (*NET_OPTIONS, *RECIPE_OPTIONS):
            raise SpecError(f"options: {name}: expected one of {', '.join((*NET_OPTIONS, *RECIPE_OPTIONS))}")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise SpecError(f"options: {name}={shown(value)}: expected text or a number")


def _check_different(values: Iterable[Any], what: str) -> None:
    values = list(values)
    if twice := [value for value in values if values.count(value) > 1]:
        raise SpecError(f"{what} {twice[0]}: occurs twice")
