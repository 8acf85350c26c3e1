"""The commands of runs, for the trainer and for readers."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from train.reproduction.plan import Part, Plan, Training


def arguments(options: Mapping[str, Any]) -> list[str]:
    """Return options as arguments of a command line."""
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


def command(plan: Plan, training: Training, data: Mapping[str, str]) -> str:
    """Return the command that trains a net, for a reader.

    `data` maps "main" and "other" to the names of packed sets.
    """
    start, run = plan.start(training), plan.runs[training.run]
    options = dict(plan.options(training))
    if start:
        options["init-from"] = f"runs/{start.run}-{start.seed}/{plan.scales[start.scale].net_name}"
    options |= {"data": data[run.data], "out": f"runs/{training.run}-{training.seed}"}
    return "python -m train " + shlex.join(arguments(options))


def prepare_command(part: Part, data: str, out: str) -> str:
    """Return the command that packs a part of a data set, for a reader."""
    options: dict[str, Any] = {"image-size": part.image_size}
    if part.classes != ":":
        options["classes"] = part.classes
    if part.hold_out:
        options["hold-out"] = part.hold_out
    return f"python -m train prepare {data} --out {out} " + shlex.join(arguments(options))
