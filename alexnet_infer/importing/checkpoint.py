"""Read the net from a checkpoint of alexnet-infer's trainer (`last.safetensors` or `best.safetensors`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from alexnet_infer import strict_json
from alexnet_infer.architecture import Architecture
from alexnet_infer.errors import SpecError, one_line, shown, wrong_names
from alexnet_infer.importing.roles import as_float32
from alexnet_infer.manifest import METADATA_KEY, ClassName, classes_from_json
from alexnet_infer.preprocess import Preprocessing
from alexnet_infer.tensor_file import open_tensors

OWN = "model."
"""Prefix of the names of the net's tensors. The optimiser's tensors have another prefix."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The net in a checkpoint."""

    architecture: Architecture
    tensors: dict[str, np.ndarray]
    """float32, converted for activations in grey levels."""
    preprocessing: Preprocessing | None
    """None if the checkpoint is from a version that did not store it."""
    classes: tuple[ClassName, ...] | None
    """In order of WordNet ids. None if the checkpoint is from a version that did not store them."""


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the net in a checkpoint of alexnet-infer's trainer.

    Raises SpecError if the file isn't such a checkpoint or is damaged. Raises OSError if it can't be read.
    """
    try:
        with open_tensors(path) as file:
            metadata = file.metadata() or {}
            config, net = _json(metadata, "config"), _json(metadata, "net") if "net" in metadata else None
            architecture = Architecture.from_json(config["architecture"])
            unit = config["recipe"]["unit"]
            tensors = _tensors(file, architecture)
    except (SafetensorError, KeyError, TypeError) as error:
        raise SpecError(f"damaged, or not a checkpoint of alexnet-infer's trainer ({one_line(error)})") from None
    return Checkpoint(
        architecture=architecture,
        tensors=_in_grey_levels(tensors, architecture, unit),
        preprocessing=Preprocessing.from_json(net.get("preprocessing")) if net is not None else None,
        classes=classes_from_json(net.get("classes")) if net is not None else None,
    )


def _tensors(file: safe_open, architecture: Architecture) -> dict[str, np.ndarray]:
    """The net's tensors as float32. Raises SpecError unless they are exactly the architecture's."""
    own = [name.removeprefix(OWN) for name in file.keys() if name.startswith(OWN)]  # noqa: SIM118 (not a mapping)
    weights = [name for name in own if not name.endswith(".num_batches_tracked")]  # batch norm's counter
    if wrong := wrong_names("tensors", weights, architecture.tensors):
        raise SpecError(wrong)
    for name, shape in architecture.tensors.items():  # checked before any tensor is read
        part = file.get_slice(OWN + name)
        if part.get_dtype() not in ("F16", "F32", "F64") or tuple(part.get_shape()) != shape:
            raise SpecError(
                f"{name} is {part.get_dtype()} of shape {part.get_shape()}: expected F32 of shape {list(shape)}"
            )
    return {name: as_float32(file.get_tensor(OWN + name)) for name in architecture.tensors}


def _json(metadata: dict[str, str], key: str) -> dict[str, Any]:
    if METADATA_KEY in metadata:
        raise SpecError("is already a model file and needs no import: expected a checkpoint of the trainer")
    if key not in metadata:
        raise SpecError(
            f"is not a checkpoint of alexnet-infer's trainer: its metadata has no {key}; of another program's tensors, "
            "import a file written by torch.save(net.state_dict(), FILE)"
        )
    value = strict_json.parse(metadata[key], f"its {key}")
    if not isinstance(value, dict):
        raise SpecError(f"its {key} is not a JSON object")
    return value


def _in_grey_levels(tensors: dict[str, np.ndarray], architecture: Architecture, unit: object) -> dict[str, np.ndarray]:
    """Convert tensors that were trained in units of `unit` grey levels.

    The trainer divides the activations or the input by `unit`: see docs/lrn.md. The architecture in the checkpoint is
    in grey levels already.
    """
    if type(unit) not in (int, float) or not 0 < unit < 1e6:  # type: ignore[operator]
        raise SpecError(f"recipe.unit={shown(unit)}: expected a number above 0")
    levels = architecture.levels(unit)  # type: ignore[arg-type]
    with np.errstate(all="ignore"):  # values beyond float32 are refused later, by name
        return {name: tensor * np.float32(levels[name]) for name, tensor in tensors.items()}
