"""What the page says about the net. Sections are the paper's."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

import numpy as np

from alexnet_infer.architecture import LRN, Activation, Architecture, BatchNorm, Conv, Dense, MaxPool, Operation
from alexnet_infer.artifact import Artifact
from alexnet_infer.errors import printable
from alexnet_infer.graph.web import halved, has_lrn, web_layers
from alexnet_infer.layers import PRE, columns_of
from alexnet_infer.manifest import Manifest


def about_weights(artifact: Artifact, half: bool, difference: float | None) -> str:
    """Return sentences on the page's weights, as HTML. `difference` is the largest one of a probability, if known."""
    tensors = artifact.tensors
    exact = not half or all((tensors[n].astype(np.float16) == tensors[n]).all() for n in halved(artifact))
    text = "The net and its weights are the same." if exact else "The net is the same, with weights rounded to float16."
    if difference is None:
        return text
    return f"{text} Largest difference of a probability on the example photos, for the same pixels: {difference:.1e}."


def about_switches(architecture: Architecture) -> str:
    """Return what the switches do, as a part of the page in HTML. It is empty if the net has neither switch."""
    sentences = []
    if has_lrn(architecture):
        sentences.append(
            "Without LRN (local response normalisation, section 3.3 of the paper), values go on unchanged."
        )
    if max(columns_of(architecture).values()) > 1:
        apart = [o.name for o in architecture.operations if isinstance(o, Conv) and o.groups > 1]
        listed = " and ".join(filter(None, [", ".join(apart[:-1]), apart[-1]]))
        look = "look at their" if len(apart) > 1 else "looks at its"
        sentences.append(
            "With a column off, its maps are 0 wherever the columns are apart (section 3.5): "
            f"{listed} {look} own column only."
        )
    if not sentences:
        return ""
    sentences.append("The net was trained with everything on, so these are experiments and not better nets.")
    text = html.escape(printable(" ".join(sentences)))
    return f"<details>\n<summary>What the switches do</summary>\n<p>{text}</p>\n</details>"


def about_net(manifest: Manifest) -> str:
    architecture = manifest.architecture
    columns = max(columns_of(architecture).values())
    parts = [
        f"{len(manifest.classes):,} classes",
        f"{architecture.parameters:,} parameters",
        "one column" if columns == 1 else f"{columns} columns",
        "LRN" if has_lrn(architecture) else "no LRN",
        f"trained on {manifest.provenance.data}",
    ]
    return printable(f"{manifest.name}: {', '.join(parts)}.")


def about_layers(architecture: Architecture) -> Iterator[dict[str, Any]]:
    columns = columns_of(architecture)
    names = [operation.name for operation in architecture.operations]
    for layer in web_layers(architecture):
        texts = []
        if layer.operation in names:
            first, last = names.index(layer.name.removesuffix(PRE)), names.index(layer.operation)
            texts = [*filter(None, map(_gloss, architecture.operations[first : last + 1]))]  # of conv1: conv1 to act1
        yield {
            "name": layer.name,
            "shape": list(layer.shape),
            "columns": columns.get(layer.operation, 1) > 1,
            "about": " ".join(texts) or f"The softmax of {architecture.operations[-1].name}: they add up to 1.",
        }


def _gloss(operation: Operation) -> str:
    """Return a sentence on what an operation does. Sections are the paper's."""
    match operation:
        case Conv():
            seen = "the maps of their own column (section 3.5)" if operation.groups > 1 else "everything before them"
            return f"Kernels of {operation.size} x {operation.size} slide over {seen}."
        case Dense():
            return "Every unit sees all values before it."
        case Activation(kind="relu"):
            return "ReLU then replaces negative values with 0 (section 3.1)."
        case Activation():
            return "tanh then limits values to -1 ... 1 (section 3.1 compares it with ReLU)."
        case LRN():
            return (
                "Local response normalisation: the larger the maps with the nearest numbers are at a value's place, "
                "the more it is divided by (section 3.3). With LRN switched off, values go on unchanged."
            )
        case MaxPool():
            return (
                f"Max pooling: the largest value in each window of {operation.size} x {operation.size}, every "
                f"{operation.stride} pixels (section 3.4)."
            )
        case BatchNorm():
            return "Batch normalisation shifts and scales each map as training found (not in the paper)."
        case _:
            return ""
