"""The values that a net computes on the way to its probabilities, by name.

A layer has the name that `alexnet-infer info` prints. The name of a convolution or a fully-connected layer means the
value after its activation, as in most papers: "fc7" is what fc8 reads. "fc7:pre" is the value before the activation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from alexnet_infer.architecture import Activation, Architecture, BatchNorm, Conv, Dense, Shape
from alexnet_infer.errors import UsageError, meant, shown

PRE = ":pre"
"""Ends the name of a value before the activation."""

PROBABILITIES = "probabilities"
"""The softmax of the last operation's output."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A value that a net computes for each view."""

    name: str
    """The name by which a user asks for it, such as "fc7" or "fc6:pre"."""
    operation: str
    """The name of the operation whose output it is, or PROBABILITIES."""
    shape: Shape
    """(channels, height, width) of maps, (units,) of a vector, without the batch axis."""


def all_layers(architecture: Architecture) -> tuple[Layer, ...]:
    """Return every layer of a net, in the order in which they are computed, then the probabilities.

    A value before an activation has the name of its layer with PRE, if the layer's own name means the value after it.
    Several names may mean the same value: "conv1" and "act1", or "fc6" and "drop6".
    """
    steps = architecture.steps
    layers = []
    for i, step in enumerate(steps):
        name, after = step.operation.name, _activation(architecture, i)
        if after is None:
            layers.append(Layer(name=name, operation=name, shape=step.output))
        else:
            before = steps[after - 1]
            layers.append(Layer(name=name + PRE, operation=before.operation.name, shape=before.output))
            layers.append(Layer(name=name, operation=steps[after].operation.name, shape=steps[after].output))
    return (*layers, Layer(name=PROBABILITIES, operation=PROBABILITIES, shape=(architecture.classes,)))


def find_layers(architecture: Architecture, names: Iterable[str]) -> tuple[Layer, ...]:
    """Return the layers of these names, in this order. Raises UsageError for an unknown or repeated name, or none."""
    if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
        raise UsageError(f"layers={shown(names)}: expected a list of names, as in ['fc7']")
    names = tuple(names)
    known = {layer.name: layer for layer in all_layers(architecture)}
    if not names:
        raise UsageError("no layer: expected at least one")
    for i, name in enumerate(names):
        if not isinstance(name, str) or name not in known:
            both = _short(layer.removesuffix(PRE) for layer in known if layer.endswith(PRE))
            single = _short(layer for layer in known if not layer.endswith(PRE))
            raise UsageError(
                f"{architecture.name} has no layer {shown(name)}{meant(str(name), known)}: expected one of {single}"
                + (f"; with {PRE}, the value before the activation: {both}" if both else "")
            )
        if name in names[:i]:
            raise UsageError(f"layer {shown(name)} is named twice: expected different layers")
    return tuple(known[name] for name in names)


def _short(names: Iterable[str]) -> str:
    """Return names for a message, at most 250 characters of them."""
    text = " ".join(names)
    return text if len(text) <= 250 else f"{text[:247]}..."


def columns_of(architecture: Architecture) -> dict[str, int]:
    """Return, by operation, the number of columns into which its maps are divided: 1 for a vector.

    A convolution's maps are in columns if it has groups, or if the next convolution has them. What follows a
    convolution keeps its columns: Caffe's LRN looks across them, but changes no map's place.
    """
    found, current = {}, 1
    for i, step in enumerate(architecture.steps):
        operation = step.operation
        if isinstance(operation, Conv):
            current = operation.groups if operation.groups > 1 else _next_groups(architecture, i + 1)
        found[operation.name] = current if len(step.output) == 3 else 1
    return found


def _next_groups(architecture: Architecture, begin: int) -> int:
    """Return the groups of the first layer with weights from position `begin` on. A fully-connected layer has 1."""
    weighted = (o for o in architecture.operations[begin:] if isinstance(o, Conv | Dense))
    return getattr(next(weighted, None), "groups", 1)


def _activation(architecture: Architecture, i: int) -> int | None:
    """Return the position of the activation of the i-th operation, if that has weights and such an activation.

    Batch norm may be in between (`presets.Variant`).
    """
    operations = architecture.operations
    if not isinstance(operations[i], Conv | Dense):
        return None
    after = i + 1
    while after < len(operations) and isinstance(operations[after], BatchNorm):
        after += 1
    return after if after < len(operations) and isinstance(operations[after], Activation) else None
