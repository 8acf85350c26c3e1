"""Starting from a trained net instead of from random weights (`--init-from`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from alexnet_infer.architecture import Architecture
from alexnet_infer.artifact import ClassName, load_artifact, sha256
from alexnet_infer.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Initial:
    """Weights to start from, for activations in grey levels, and where they come from. Empty: none."""

    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    origin: str = ""


def initial_weights(path: Path, architecture: Architecture, classes: Sequence[ClassName]) -> Initial:
    """The weights of the artifact at `path` for a net of this architecture and these classes.

    Where the artifact knows other classes, or the same in another order, its last layer is left out: the new net begins
    with a random one, as the paper's net pre-trained on 22,000 classes did (section 7). Raises UsageError when another
    layer doesn't fit, ModelFileError when the file is damaged.
    """
    artifact = load_artifact(path)
    preprocessing = artifact.manifest.preprocessing
    if (preprocessing.channel_order, preprocessing.value_range) != ("RGB", "0-255"):
        raise UsageError(
            f"--init-from {path}: takes {preprocessing.channel_order} in {preprocessing.value_range}, training gives "
            "RGB in 0-255; choose another net"
        )
    same_classes = [c.wnid for c in artifact.manifest.classes] == [c.wnid for c in classes]
    last = architecture.operations[-1].name
    wanted = {n: s for n, s in architecture.tensors.items() if same_classes or n.split(".")[0] != last}
    found = {name: tensor.shape for name, tensor in artifact.tensors.items()}
    for name, shape in wanted.items():
        if found.get(name) != tuple(shape):
            has = f"has shape {found[name]}" if name in found else "is missing"
            raise UsageError(
                f"--init-from {path}: {name} {has}: expected {tuple(shape)}; choose that net's --preset, --width, "
                "--hidden and --net-columns"
            )
    origin = f"{artifact.manifest.name}, SHA-256 {sha256(path)}" + ("" if same_classes else f", without {last}")
    return Initial(tensors={name: artifact.tensors[name] for name in wanted}, origin=origin)
