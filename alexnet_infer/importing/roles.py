"""Match the layers in other tools' files to an architecture's tensors: by their place in the net, not by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alexnet_infer.architecture import Architecture
from alexnet_infer.errors import SpecError, listed, shown


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer with weights in a file."""

    name: str
    tensors: Mapping[str, np.ndarray]
    """The tensors by part: weight, bias, running_mean, running_var."""


def as_float32(values: np.ndarray) -> np.ndarray:
    """Weights as float32. Values beyond its range become infinite and are refused later, by name."""
    with np.errstate(all="ignore"):
        return values.astype(np.float32, copy=False)


def by_role(layers: Sequence[Layer], architecture: Architecture) -> dict[str, np.ndarray]:
    """Return the tensors of `architecture` from `layers`, which are in the order in which the net applies them.

    Raises SpecError if layers or parts are missing or additional, if a shape differs, or if a tensor is not float.
    The message names the layers or parts.
    """
    steps = [step for step in architecture.steps if step.tensors]
    if len(layers) != len(steps):
        expected = listed(step.operation.name for step in steps)
        present = listed(layer.name for layer in layers)
        raise SpecError(f"has {len(layers)} layers with weights ({present}): expected {len(steps)} ({expected})")
    tensors = {}
    for layer, step in zip(layers, steps, strict=True):
        parts = {name.rpartition(".")[2]: (name, shape) for name, shape in step.tensors.items()}
        if missing := parts.keys() - layer.tensors.keys():
            raise SpecError(f"missing tensors: {listed(f'{layer.name}.{part}' for part in sorted(missing))}")
        if surplus := layer.tensors.keys() - parts.keys():
            raise SpecError(f"unknown tensors: {listed(f'{layer.name}.{part}' for part in sorted(surplus))}")
        for part, (name, shape) in parts.items():
            values = layer.tensors[part]
            if values.dtype.kind != "f":
                raise SpecError(f"{shown(f'{layer.name}.{part}')} has type {values.dtype}: expected floats")
            if values.shape != shape:
                own = shown(f"{layer.name}.{part}")
                raise SpecError(f"{own} has shape {list(values.shape)}: expected {list(shape)}, that of {name}")
            tensors[name] = values
    return {name: tensors[name] for name in architecture.tensors}
