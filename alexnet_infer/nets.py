"""Which trained nets there are, and which of them a command takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alexnet_infer.artifact import embedded_model
from alexnet_infer.errors import UsageError


def nets_at_hand() -> list[Path]:
    """The nets that come along: the embedded one, then the others beside it by name."""
    embedded = embedded_model()
    return [embedded, *sorted(path for path in embedded.parent.glob("*.safetensors") if path != embedded)]


def choose_nets(models: Sequence[Path], ensemble: int | None) -> list[Path]:
    """The nets that are averaged: the first `ensemble` of `models`, or of those at hand where none is named; without a
    number all that are named, or else the embedded one.

    Raises UsageError when there are fewer, naming what is there, or when a net is named twice.
    """
    if ensemble is not None and ensemble < 1:
        raise UsageError(f"--ensemble {ensemble}: expected at least 1")
    found = list(models) or nets_at_hand()
    wanted = ensemble or (len(models) or 1)
    if wanted > len(found):
        names = ", ".join(path.name for path in found)
        there = "one net is" if len(found) == 1 else f"{len(found)} nets are"
        raise UsageError(f"--ensemble {wanted}: only {there} there ({names}); name the files of others, too")
    chosen = found[:wanted]
    for path in chosen:
        if chosen.count(path) > 1:
            raise UsageError(f"{path}: named twice; an ensemble needs different nets")
    return chosen
