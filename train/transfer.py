"""Training that starts from a trained net instead of random weights (`--init-from`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from alexnet_infer.architecture import Architecture
from alexnet_infer.artifact import load_artifact, sha256
from alexnet_infer.errors import UsageError
from alexnet_infer.manifest import ClassName


@dataclass(frozen=True, kw_only=True)
class Initial:
    """Initial weights, for activations in grey levels, and their origin. Empty if all weights are drawn at random."""

    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    origin: str = ""


def initial_weights(path: Path, architecture: Architecture, classes: Sequence[ClassName]) -> Initial:
    """Return the weights of the model file at `path` for a net with this architecture and these classes.

    If the file has other classes, or the same classes in another order, its last layer is left out. The new net then
    starts with a random last layer, as the paper's net that was pre-trained on 22,000 classes did (section 7).

    Raises UsageError if another layer does not fit or the file's preprocessing is not RGB in 0-255, and ModelFileError
    if the file is missing or damaged.
    """
    artifact = load_artifact(path)
    preprocessing = artifact.manifest.preprocessing
    if (preprocessing.channel_order, preprocessing.value_range) != ("RGB", "0-255"):
        raise UsageError(
            f"--init-from {path}: the net expects {preprocessing.channel_order} in {preprocessing.value_range}, but "
            "training uses RGB in 0-255; choose another net"
        )
    same_classes = [c.wnid for c in artifact.manifest.classes] == [c.wnid for c in classes]
    last = architecture.operations[-1].name
    needed = {n: s for n, s in architecture.tensors.items() if same_classes or n.split(".")[0] != last}
    shapes = {name: tensor.shape for name, tensor in artifact.tensors.items()}
    for name, shape in needed.items():
        if shapes.get(name) != tuple(shape):
            problem = f"has shape {shapes[name]}" if name in shapes else "is missing"
            raise UsageError(
                f"--init-from {path}: {name} {problem}: expected {tuple(shape)}; choose that net's --preset, --width, "
                "--hidden and --net-columns"
            )
    origin = f"{artifact.manifest.name}, SHA-256 {sha256(path)}" + ("" if same_classes else f", without {last}")
    return Initial(tensors={name: artifact.tensors[name] for name in needed}, origin=origin)
