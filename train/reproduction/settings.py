"""What identifies a result: if it changes, the result is of something else, and the net is trained again.

The net and the recipe are written out, so that a preset or a recipe of another version is another net. The images have
hashes of their own in the record.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from alexnet_infer.artifact import sha256
from train.reproduction.plan import Mean, Plan, Task


def settings(plan: Plan, task: Task) -> dict[str, Any]:
    """Return what identifies the result of a task, as it is after JSON.

    Raises OSError if the file of a net that comes with the program can't be read.
    """
    return json.loads(json.dumps(_settings(plan, task)))


def _settings(plan: Plan, task: Task) -> dict[str, Any]:
    if isinstance(task, Mean):
        return {"mean": [settings(plan, member) for member in plan.members(task)]}
    scale, data = plan.scales[task.scale], plan.part(task).options
    if scale.nets:
        return {"net": scale.nets[task.seed], "sha256": sha256(plan.net_file(task)), "data": data}
    start = plan.start(task)
    return {
        "net": asdict(plan.variant(task)),
        "recipe": asdict(plan.recipe(task)),
        "seed": task.seed,
        "data": data,
        "start": settings(plan, start) if start else None,
    }
