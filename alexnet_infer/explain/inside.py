"""Every layer's values for the central patch, arranged for the page."""

from __future__ import annotations

from typing import Any

import numpy as np

from alexnet_infer.architecture import LRN, Activation, BatchNorm, Conv, Dense, Dropout, MaxPool, Step
from alexnet_infer.explain.maps import LARGEST_MAP, most_active, normalised, strip, tiles
from alexnet_infer.explain.measure import CENTRAL, Explained
from alexnet_infer.explain.stages import Stage, stages
from alexnet_infer.explain.words import against_paper
from alexnet_infer.kernels import Kernels
from alexnet_infer.layers import columns_of
from alexnet_infer.metrics import highest

SHOWN, MOST_SHOWN = 12, 48
"""Maps per column that are shown at once, and at all: the rest of them can be unfolded."""

PER_LAYER, DRAWN_COLUMNS = 96, 4
"""The most maps and columns of a layer that are on the page. Others are left out, to keep it small."""


def view_of_steps(net: Explained) -> dict[str, dict[str, Any]]:
    """Return, by the name of the operation, what the template shows of it.

    "sheet" has maps, "lrn" the map that LRN is shown on, and "strip" units. What doesn't apply is None.
    """
    views: dict[str, dict[str, Any]] = {}
    columns = columns_of(net.manifest.architecture)
    before = net.patch
    for i, stage in enumerate(stages(net.manifest.architecture)):
        main = _main(net, stage)
        order = [] if main is None else _order(net.values[main], columns[main])
        for step in stage.steps:
            name = step.operation.name
            paper = against_paper(step, net.manifest.architecture)
            view = views[name] = {"step": step, "paper": paper, "sheet": None, "lrn": None, "strip": None}
            value = net.values.get(name)
            view["unseen"] = value is None and not isinstance(step.operation, Dropout)
            if value is None or isinstance(step.operation, Dropout):
                continue
            if value.ndim == 3:
                kernels = net.kernels if name == main and i == 0 else None
                view["sheet"] = _sheet(step, value, order or _order(value, columns[name]), name == main, kernels)
            else:
                view["strip"] = _strip(step, value)
            if isinstance(step.operation, LRN):
                view["lrn"] = normalised(before, value, step.operation)
            before = value
    return views


def _main(net: Explained, stage: Stage) -> str | None:
    """Return the step by which the stage's maps are sorted: its activation, or the first one that has values."""
    known = [step.operation for step in stage.steps if step.operation.name in net.values]
    activations = [o for o in known if isinstance(o, Activation)]
    return next((o.name for o in (*activations, *known)), None)


def _order(value: np.ndarray, columns: int) -> list[list[int]]:
    """Return the numbers of the maps by column, the most active first; none for a vector."""
    return most_active(value, columns) if value.ndim == 3 else []


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


def _sheet(step: Step, maps: np.ndarray, order: list[list[int]], main: bool, kernels: Kernels | None) -> dict[str, Any]:
    weights = None if kernels is None else kernels.weights
    drawn_columns = order[:DRAWN_COLUMNS]
    most = min(MOST_SHOWN, PER_LAYER // len(drawn_columns))
    divided = []
    for numbers in drawn_columns:
        drawn = tiles(maps, numbers[:most], weights)
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
        "colour": [] if kernels is None else list(kernels.colour_shares())[:DRAWN_COLUMNS],
        "columns": divided,
        "more_columns": len(order) - len(divided),
        "signed": bool((maps < 0).any()),
        "low": float(maps.min()),
        "high": float(maps.max()),
        "height": maps.shape[1],
        "width": maps.shape[2],
        "reduced": max(maps.shape[1:]) > LARGEST_MAP,
    }


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
    rows = [(net.named(i), float(scores[i]), float(powers[i]), float(powers[i] / powers.sum())) for i in chosen]
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
