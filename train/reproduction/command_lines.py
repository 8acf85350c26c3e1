"""The commands of runs, for the trainer and for readers."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from train.reproduction.plan import Mean, Part, Plan, Row, Scale, Training

PACKED = {"main": "packed", "other": "packed-larger", "ten": "packed-ten"}
"""Names of the packed sets of the parts of the data."""

_SETS = {"main": "ILSVRC2012", "other": "LARGER", "ten": "tiny-imagenet"}
"""Names of the data sets that they are made from."""


def arguments(options: Mapping[str, Any]) -> list[str]:
    """Return options as arguments of a command line."""
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


def command(plan: Plan, training: Training) -> str:
    """Return the command that trains a net, for a reader."""
    start, run = plan.start(training), plan.runs[training.run]
    options = dict(plan.options(training))
    if start:
        options["init-from"] = f"runs/{start.run}-{start.seed}/{plan.net_name(start)}"
    options |= {"data": PACKED[run.data], "out": f"runs/{training.run}-{training.seed}"}
    return "python -m train " + shlex.join(arguments(options))


def prepare_command(part: Part, data: str, out: str) -> str:
    """Return the command that packs a part of a data set, for a reader."""
    options: dict[str, Any] = {"image-size": part.image_size}
    if part.classes != ":":
        options["classes"] = part.classes
    if part.hold_out:
        options["hold-out"] = part.hold_out
    return f"python -m train prepare {data} --out {out} " + shlex.join(arguments(options))


def row_commands(plan: Plan, row: Row) -> tuple[Scale, list[str]]:
    """Return the commands that run a row with the first seed, for a reader, and their scale.

    The scale is "full"; or, if a row needs ten classes, the first scale that has them.
    """
    ten = plan.runs[row.net].data == "ten"
    scale = next(s for s in plan.scales.values() if "ten" in s.parts) if ten else plan.scales["full"]
    nets = [Training(scale.title, run, scale.seeds[0]) for run in (row.net, row.against) if run]
    nets = list(dict.fromkeys(net for last in nets for net in (plan.start(last), last) if net is not None))
    parts = [part for part in PACKED if any(plan.runs[net.run].data == part for net in nets)]
    packing = [prepare_command(scale.parts.get(p) or scale.parts["main"], _SETS[p], PACKED[p]) for p in parts]
    return scale, [*packing, *(command(plan, net) for net in nets), *_measuring(plan, row, nets)]


def _measuring(plan: Plan, row: Row, nets: Sequence[Training]) -> list[str]:
    """Return the commands that show the figures, if the trainer's own output does not have them."""
    if row.measure == "speed":
        return [f"python -m train plot {' '.join(f'runs/{net.run}-{net.seed}' for net in nets)}"]
    if row.measure == "ensemble":
        members = [f"--model runs/{net.run}-{net.seed}/{plan.net_name(net)}" for net in plan.members(Mean("full"))]
        return [f"alexnet-infer eval {' '.join(members)} --data ILSVRC2012"]
    return []
