"""Our trainer's checkpoints (`last.safetensors`, `best.safetensors`): a run's state, of which the net is taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from alexnet_infer.architecture import Architecture
from alexnet_infer.errors import SpecError, one_line, shown

OWN = "model."
"""What the names of the net's tensors begin with; those of the optimiser begin with another word."""


def read_checkpoint(path: Path) -> tuple[Architecture, dict[str, np.ndarray]]:
    """The architecture and its tensors, as float32, for activations in grey levels.

    Raises SpecError when it is no checkpoint of our trainer or is damaged, OSError when it can't be read.
    """
    try:
        with path.open("rb"), safe_open(path, "np") as file:
            config = _config(file.metadata() or {})
            architecture = Architecture.from_json(config["architecture"])
            unit = config["recipe"]["unit"]
            tensors = {}
            for name, shape in architecture.tensors.items():
                part = file.get_slice(OWN + name)
                if tuple(part.get_shape()) != shape:
                    raise SpecError(f"{name} has shape {part.get_shape()}: expected {list(shape)}")
                tensors[name] = file.get_tensor(OWN + name).astype(np.float32)
    except (SafetensorError, KeyError, TypeError) as error:
        raise SpecError(f"damaged, or not a checkpoint of this project's trainer ({one_line(error)})") from None
    return architecture, _in_grey_levels(tensors, architecture, unit)


def _config(metadata: dict[str, str]) -> dict[str, Any]:
    if "config" not in metadata:
        raise SpecError("is no checkpoint of this project's trainer")
    try:
        return json.loads(metadata["config"])
    except (ValueError, RecursionError) as error:
        raise SpecError(f"its configuration is not JSON ({one_line(error)})") from None


def _in_grey_levels(tensors: dict[str, np.ndarray], architecture: Architecture, unit: object) -> dict[str, np.ndarray]:
    """The trainer divides all activations by `unit` and keeps LRN's constants for that: see docs/lrn.md."""
    if type(unit) not in (int, float) or not 0 < unit < 1e6:  # type: ignore[operator]
        raise SpecError(f"recipe.unit={shown(unit)}: expected a number above 0")
    last = architecture.operations[-1].name
    factor = np.float32(unit)  # type: ignore[arg-type]
    return {
        name: t / factor if name == f"{last}.weight" else t * factor if _is_hidden_bias(name, last) else t
        for name, t in tensors.items()
    }


def _is_hidden_bias(name: str, last: str) -> bool:
    return name.endswith(".bias") and name != f"{last}.bias"
