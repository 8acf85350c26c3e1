"""Every layer's values for the central patch, arranged for the page."""

from __future__ import annotations

from typing import Any

import numpy as np

from alexnet_infer.architecture import LRN, Activation, BatchNorm, Conv, Dense, Dropout, MaxPool, Step
from alexnet_infer.explain.maps import most_active, normalised, strip, tiles
from alexnet_infer.explain.measure import CENTRAL, Explained
from alexnet_infer.explain.stages import Stage, stages
from alexnet_infer.layers import columns_of
from alexnet_infer.metrics import highest

SHOWN, FOLDED = 12, 36
"""Maps per column that are shown at once, and that can be unfolded. Others are left out, to keep the page small."""


def view_of_steps(net: Explained) -> dict[str, dict[str, Any]]:
    """Return, by the name of the operation, what the template shows of it.

    "sheet" has maps, "lrn" the map that LRN is shown on, and "strip" units. What doesn't apply is None.
    """
    return {
        step.operation.name: _step(net, stage, step, order)
        for stage in stages(net.manifest.architecture)
        for order in [_order(net, stage)]
        for step in stage.steps
    }


def _step(net: Explained, stage: Stage, step: Step, order: list[list[int]]) -> dict[str, Any]:
    view: dict[str, Any] = {"step": step, "sheet": None, "lrn": None, "strip": None}
    name = step.operation.name
    value = net.values.get(name)
    if value is None:
        return view
    if value.ndim == 3:
        view["sheet"] = _sheet(net, step, value, order, _is_main(stage, step))
    else:
        view["strip"] = _strip(step, value)
    if isinstance(step.operation, LRN):
        view["lrn"] = normalised(_input_of(net, name), value, step.operation)
    return view


def _order(net: Explained, stage: Stage) -> list[list[int]]:
    """Return the numbers of the stage's maps by column, the most active after the activation first."""
    main = [step for step in stage.steps if step.operation.name in net.values and _is_main(stage, step)]
    if not main or net.values[main[0].operation.name].ndim != 3:
        return []
    name = main[0].operation.name
    return most_active(net.values[name], columns_of(net.manifest.architecture)[name])


def _is_main(stage: Stage, step: Step) -> bool:
    """Whether the stage's maps are sorted by this step: its activation, or its first step if it has none."""
    activations = [s for s in stage.steps if isinstance(s.operation, Activation)]
    return step is (activations or stage.steps)[0]


def _input_of(net: Explained, name: str) -> np.ndarray:
    """Return what an operation reads. Dropout before it changes nothing."""
    before = net.patch
    for step in net.manifest.architecture.steps:
        if step.operation.name == name:
            break
        if not isinstance(step.operation, Dropout):
            before = net.values[step.operation.name]
    return before


_SENTENCES = {
    Conv: "The maps",
    BatchNorm: "The maps after batch normalisation",
    LRN: "The maps after LRN",
    MaxPool: "The maps after max pooling",
    Dense: "The units",
}


def _title(step: Step) -> str:
    o = step.operation
    if isinstance(o, Activation):
        kind = "ReLU" if o.kind == "relu" else "tanh"
        return f"{'The maps' if len(step.output) == 3 else 'The units'} after {kind}"
    return _SENTENCES[type(o)]


def _sheet(net: Explained, step: Step, maps: np.ndarray, order: list[list[int]], main: bool) -> dict[str, Any]:
    own = net.kernels if main and step in _first_stage(net).steps and net.kernels is not None else None
    weights = None if own is None else own.weights
    divided = []
    for numbers in order:
        drawn = tiles(maps, numbers[: SHOWN + FOLDED], weights)
        divided.append(
            {
                "shown": drawn[:SHOWN],
                "folded": drawn[SHOWN:],
                "maps": len(numbers),
                "first": min(numbers),
                "last": max(numbers),
            }
        )
    return {
        "name": step.operation.name,
        "title": _title(step),
        "main": main,
        "kernels": weights is not None,
        "colour": [] if own is None else list(own.colour_shares()),
        "columns": divided,
        "signed": bool((maps < 0).any()),
        "low": float(maps.min()),
        "high": float(maps.max()),
        "height": maps.shape[1],
        "width": maps.shape[2],
    }


def _first_stage(net: Explained) -> Stage:
    return stages(net.manifest.architecture)[0]


def _strip(step: Step, values: np.ndarray) -> dict[str, Any]:
    return {
        "name": step.operation.name,
        "title": _title(step),
        "picture": strip(values),
        "units": len(values),
        "nonzero": int(np.count_nonzero(values)),
        "activation": isinstance(step.operation, Activation),
        "signed": bool((values < 0).any()),
        "low": float(values.min()),
        "high": float(values.max()),
        "strongest": [(int(i), float(values[i])) for i in highest(np.abs(values), 5)],
    }


def view_of_softmax(net: Explained) -> dict[str, Any]:
    """Return how the scores of the central patch become probabilities, with the highest score subtracted first."""
    scores = net.values[net.manifest.architecture.operations[-1].name]
    powers = np.exp(scores.astype(np.float64) - float(scores.max()))
    chosen = net.top(net.votes[CENTRAL])
    rows = [(net.classes[i], float(scores[i]), float(powers[i]), float(powers[i] / powers.sum())) for i in chosen]
    others = len(scores) - len(chosen)
    left = float(powers.sum() - powers[chosen].sum())
    return {
        "rows": rows,
        "others": others,
        "rest": left,
        "rest_share": left / float(powers.sum()),
        "sum": float(powers.sum()),
        "highest": float(scores.max()),
    }
