"""Training that starts from a trained net instead of random weights (`--init-from`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_infer.architecture import Architecture, Dense
from alexnet_infer.artifact import load_artifact, sha256
from alexnet_infer.backends.opening import describe
from alexnet_infer.errors import UsageError
from alexnet_infer.manifest import ClassName
from alexnet_infer.presets import PRESETS, Variant, variant


@dataclass(frozen=True, kw_only=True)
class Initial:
    """Initial weights, for activations in grey levels, and their origin. Empty if all weights are drawn at random."""

    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    origin: str = ""


def initial_variant(path: Path, preset: str | None, switches: Mapping[str, Any]) -> Variant:
    """Return the net to train from the one in the model file `path`: the same, but for `switches`, fields of `Variant`.

    `preset` names the preset whose other fields the net gets; None for the file's own.

    Raises ModelFileError if the file is missing or damaged, and UsageError if it is an exported file, if its net is not
    the file's preset with other switches, or if `switches` has a width, hidden size or columns that its net has not.
    """
    manifest, exported = describe(path)
    if exported is not None:
        names = " or ".join(member.name for member in exported.members)
        raise UsageError(f"--init-from {path}: is an exported file; name the net that it was made from: {names}")
    architecture, start = manifest.architecture, f"the net of --init-from {path}"
    own = _fields(architecture)
    if not own:
        raise UsageError(f"{start} does not have the layers of a preset; expected another net")
    if preset is None and architecture.name not in PRESETS:
        raise UsageError(f"{start} is called {architecture.name}, which is no preset; name one with --preset")
    base = variant(preset or architecture.name)
    if preset is None and replace(base, **own).build() != architecture:
        raise UsageError(f"{start} is not {base.name} with other switches; name the net to train with --preset")
    if "kernels" in switches:
        raise UsageError(f"--kernels: {start} has {own['kernels']} kernels; leave the option out")
    for option, name in (("--hidden", "hidden"), ("--net-columns", "columns")):
        if switches.get(name, own[name]) != own[name]:
            raise UsageError(f"{option} {switches[name]}: {start} has {own[name]}; leave the option out")
    if (width := switches.get("width")) is not None:
        kernels = _fields(replace(base, width=width).build())["kernels"]
        if kernels != own["kernels"]:
            raise UsageError(
                f"--width {width:g}: gives {kernels} kernels, but {start} has {own['kernels']}; leave the option out"
            )
    if preset is not None and not (base.sixth_conv and own["sixth_conv"]):
        # The preset says whether there is a conv6, the file how large it is.
        own["sixth_conv"] = base.sixth_conv
    # The file's kernels are scaled already.
    return replace(base, **(own | dict(switches) | {"width": 1.0}))


def _fields(architecture: Architecture) -> dict[str, Any]:
    """Return the fields in which variants of one preset differ; none if the layers are not those of a preset."""
    layers = {operation.name: operation for operation in architecture.operations}
    kinds = {operation.op for operation in architecture.operations}
    dense = next(name for name, operation in layers.items() if isinstance(operation, Dense))
    try:
        first = int(dense.removeprefix("fc"))
        hidden = layers[dense] is not architecture.operations[-1]
        return {
            "kernels": tuple(layers[f"conv{i}"].kernels for i in range(1, first)),
            "sixth_conv": layers[f"conv{first}"].kernels if f"conv{first}" in layers else 0,
            **({"hidden": layers[dense].units, "dropout": layers[f"drop{first}"].rate} if hidden else {"hidden": 0}),
            "columns": layers["conv2"].groups,
            "activation": layers["act1"].kind,
            "normalization": next((kind for kind in ("batchnorm", "lrn") if kind in kinds), "none"),
            "pool_size": layers["pool1"].size,
            "classes": architecture.classes,
        }
    except (KeyError, AttributeError, ValueError):
        return {}


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
                f"--init-from {path}: {name} {problem}: expected {tuple(shape)}; leave out the options that change the "
                f"net, which is then {artifact.manifest.architecture.name} as in the file"
            )
    origin = f"{artifact.manifest.name}, SHA-256 {sha256(path)}" + ("" if same_classes else f", without {last}")
    return Initial(tensors={name: artifact.tensors[name] for name in needed}, origin=origin)
