"""What identifies a result: if it changes, the result is of something else, and the net is trained again."""

from __future__ import annotations

from typing import Any

from train.reproduction.plan import Mean, Plan, Task


def settings(plan: Plan, task: Task) -> dict[str, Any]:
    """Return the options, the part of the data, and the settings of the nets that this one is made from."""
    if isinstance(task, Mean):
        return {"mean": [settings(plan, member) for member in plan.members(task)]}
    scale, data = plan.scales[task.scale], plan.part(task).options
    if scale.nets:
        return {"net": scale.nets[task.seed], "data": data}
    start = plan.start(task)
    return {"options": plan.options(task), "data": data, "start": settings(plan, start) if start else None}
