"""Other people's layers -> our tensors, by what they are in the net and not by what they are called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alexnet_infer.architecture import Architecture
from alexnet_infer.errors import SpecError, shown, visible


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer with weights, as a file has it."""

    name: str
    tensors: Mapping[str, np.ndarray]
    """By our names for the parts: weight, bias, running_mean, running_var."""


def as_float32(values: np.ndarray) -> np.ndarray:
    """Weights as float32. What is beyond its range becomes infinite, and is refused later, by name."""
    with np.errstate(all="ignore"):
        return values.astype(np.float32, copy=False)


def by_role(layers: Sequence[Layer], architecture: Architecture) -> dict[str, np.ndarray]:
    """The tensors of `architecture`, of `layers` that stand in the order in which the net applies them.

    Raises SpecError when there are more or fewer layers or parts, naming them, or when a shape is another one.
    """
    wanted = [step for step in architecture.steps if step.tensors]
    if len(layers) != len(wanted):
        ours = listed(step.operation.name for step in wanted)
        theirs = listed(layer.name for layer in layers)
        raise SpecError(f"has {len(layers)} layers with weights ({theirs}): expected {len(wanted)} ({ours})")
    tensors = {}
    for layer, step in zip(layers, wanted, strict=True):
        parts = {name.rpartition(".")[2]: (name, shape) for name, shape in step.tensors.items()}
        if missing := parts.keys() - layer.tensors.keys():
            raise SpecError(f"missing tensors: {listed(f'{layer.name}.{part}' for part in sorted(missing))}")
        if surplus := layer.tensors.keys() - parts.keys():
            raise SpecError(f"unknown tensors: {listed(f'{layer.name}.{part}' for part in sorted(surplus))}")
        for part, (name, shape) in parts.items():
            found = layer.tensors[part]
            if found.dtype.kind != "f":
                raise SpecError(f"{shown(f'{layer.name}.{part}')} has type {found.dtype}: expected floats")
            if found.shape != shape:
                theirs = shown(f"{layer.name}.{part}")
                raise SpecError(f"{theirs} has shape {list(found.shape)}: expected {list(shape)}, that of {name}")
            tensors[name] = found
    return {name: tensors[name] for name in architecture.tensors}


def listed(names: Iterable[str]) -> str:
    """The first dozen of `names`, and how many more there are."""
    found = [visible(str(name))[:40] for name in names]  # protobuf gives bytes where they are no text
    more = f" and {len(found) - 12} more" if len(found) > 12 else ""
    return (", ".join(found[:12]) + more) or "none"
