"""Our trainer's checkpoints (`last.safetensors`, `best.safetensors`): a run's state, of which the net is taken."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from alexnet_infer.architecture import Architecture
from alexnet_infer.artifact import ClassName, classes_from_json
from alexnet_infer.errors import SpecError, one_line, shown
from alexnet_infer.preprocess import Preprocessing

OWN = "model."
"""What the names of the net's tensors begin with; those of the optimiser begin with another word."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a checkpoint says of its net."""

    architecture: Architecture
    tensors: dict[str, np.ndarray]
    """float32, for activations in grey levels."""
    preprocessing: Preprocessing | None
    classes: tuple[ClassName, ...] | None
    """In order of WordNet ids. Both are None in checkpoints of versions that did not keep them."""


def read_checkpoint(path: Path) -> Checkpoint:
    """The net in a checkpoint of our trainer.

    Raises SpecError when it is no checkpoint of our trainer or is damaged, OSError when it can't be read.
    """
    try:
        with path.open("rb"), safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            config, net = _json(metadata, "config"), _json(metadata, "net") if "net" in metadata else None
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
    return Checkpoint(
        architecture=architecture,
        tensors=_in_grey_levels(tensors, architecture, unit),
        preprocessing=Preprocessing.from_json(net.get("preprocessing")) if net is not None else None,
        classes=classes_from_json(net.get("classes")) if net is not None else None,
    )


def _json(metadata: dict[str, str], key: str) -> dict[str, Any]:
    if key not in metadata:
        raise SpecError("is neither a model file nor a checkpoint of this project's trainer")
    try:
        return dict(json.loads(metadata[key]))
    except (ValueError, TypeError, RecursionError) as error:
        raise SpecError(f"its {key} is not a JSON object ({one_line(error)})") from None


def _in_grey_levels(tensors: dict[str, np.ndarray], architecture: Architecture, unit: object) -> dict[str, np.ndarray]:
    """The trainer divides all activations by `unit` and keeps LRN's constants for that: see docs/lrn.md."""
    if type(unit) not in (int, float) or not 0 < unit < 1e6:  # type: ignore[operator]
        raise SpecError(f"recipe.unit={shown(unit)}: expected a number above 0")
    last = architecture.operations[-1].name
    factor = np.float32(unit)  # type: ignore[arg-type]
    with np.errstate(over="ignore"):  # what is beyond float32 is refused later, by name
        return {
            name: t / factor if name == f"{last}.weight" else t * factor if _is_hidden_bias(name, last) else t
            for name, t in tensors.items()
        }


def _is_hidden_bias(name: str, last: str) -> bool:
    return name.endswith(".bias") and name != f"{last}.bias"
