"""A net in stages: each layer with weights and the operations that follow it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from alexnet_infer.architecture import Architecture, Conv, Dense, Dropout, Step
from alexnet_infer.layers import PROBABILITIES, all_layers


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A convolution or a fully-connected layer, and the operations up to the next one."""

    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """The name of its first operation, such as "conv1"."""
        return self.steps[0].operation.name


def stages(architecture: Architecture) -> tuple[Stage, ...]:
    """Return a net's stages in order. Operations before the first layer with weights are a stage of their own."""
    groups: list[list[Step]] = []
    for step in architecture.steps:
        if not groups or isinstance(step.operation, Conv | Dense):
            groups.append([])
        groups[-1].append(step)
    return tuple(Stage(steps=tuple(group)) for group in groups)


def values(architecture: Architecture) -> dict[str, str]:
    """Return, by operation, the name of the layer that is its output (`alexnet_infer.layers`).

    Dropout is missing, since it changes nothing, and a convolution whose batch norm runs before its activation, since
    no layer is its output. PROBABILITIES is the last key.
    """
    return dict(_values(architecture))


def _values(architecture: Architecture) -> Iterator[tuple[str, str]]:
    names: dict[str, str] = {}
    for layer in all_layers(architecture):
        names.setdefault(layer.operation, layer.name)
    for operation in architecture.operations:
        if operation.name in names and not isinstance(operation, Dropout):
            yield operation.name, names[operation.name]
    yield PROBABILITIES, PROBABILITIES
