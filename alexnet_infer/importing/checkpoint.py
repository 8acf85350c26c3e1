"""Our trainer's checkpoints (`last.safetensors`, `best.safetensors`): a run's state, of which the net is taken."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from alexnet_infer.architecture import Architecture
from alexnet_infer.artifact import METADATA_KEY, ClassName, classes_from_json
from alexnet_infer.errors import SpecError, one_line, shown
from alexnet_infer.importing.roles import as_float32, listed
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
            tensors = _tensors(file, architecture)
    except (SafetensorError, KeyError, TypeError) as error:
        raise SpecError(f"damaged, or not a checkpoint of this project's trainer ({one_line(error)})") from None
    return Checkpoint(
        architecture=architecture,
        tensors=_in_grey_levels(tensors, architecture, unit),
        preprocessing=Preprocessing.from_json(net.get("preprocessing")) if net is not None else None,
        classes=classes_from_json(net.get("classes")) if net is not None else None,
    )


def _tensors(file: safe_open, architecture: Architecture) -> dict[str, np.ndarray]:
    """All that the checkpoint holds of the net, as float32: no more and no less than the architecture's."""
    own = {name.removeprefix(OWN) for name in file.keys() if name.startswith(OWN)}  # noqa: SIM118 (not a mapping)
    for what, names in (
        ("missing", architecture.tensors.keys() - own),
        ("unknown", own - architecture.tensors.keys()),
    ):
        if names:
            raise SpecError(f"{what} tensors: {listed(sorted(names))}")
    for name, shape in architecture.tensors.items():  # before any is read
        part = file.get_slice(OWN + name)
        if part.get_dtype() not in ("F16", "F32", "F64") or tuple(part.get_shape()) != shape:
            raise SpecError(
                f"{name} is {part.get_dtype()} of shape {part.get_shape()}: expected F32 of shape {list(shape)}"
            )
    return {name: as_float32(file.get_tensor(OWN + name)) for name in architecture.tensors}


def _json(metadata: dict[str, str], key: str) -> dict[str, Any]:
    if METADATA_KEY in metadata:
        raise SpecError("is a model file already, and need not be imported: expected a checkpoint of the trainer")
    if key not in metadata:
        raise SpecError("is no checkpoint of this project's trainer: it has no description of a run")
    try:
        return dict(json.loads(metadata[key]))
    except (ValueError, TypeError, RecursionError) as error:
        raise SpecError(f"its {key} is not a JSON object ({one_line(error)})") from None


def _in_grey_levels(tensors: dict[str, np.ndarray], architecture: Architecture, unit: object) -> dict[str, np.ndarray]:
    """The trainer divides all activations by `unit` and keeps LRN's constants for that: see docs/lrn.md."""
    if type(unit) not in (int, float) or not 0 < unit < 1e6:  # type: ignore[operator]
        raise SpecError(f"recipe.unit={shown(unit)}: expected a number above 0")
    if unit != 1 and not architecture.scales:
        raise SpecError(f"recipe.unit={shown(unit)}: a net with tanh or batch norm does not scale; expected 1")
    last = architecture.operations[-1].name
    factor = np.float32(unit)  # type: ignore[arg-type]
    with np.errstate(all="ignore"):  # what is beyond float32 is refused later, by name
        return {
            name: t / factor if name == f"{last}.weight" else t * factor if _is_hidden_bias(name, last) else t
            for name, t in tensors.items()
        }


def _is_hidden_bias(name: str, last: str) -> bool:
    return name.endswith(".bias") and name != f"{last}.bias"
