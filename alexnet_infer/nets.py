"""Which trained nets there are, and which of them a command takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from alexnet_infer.artifact import embedded_model
from alexnet_infer.errors import ModelFileError, UsageError, meant, shown
from alexnet_infer.files import is_file


class UnknownNetError(ModelFileError):
    """A name that is neither a net's nor a file's."""


class NotPulledError(ModelFileError):
    """A published net that is named and not on this machine."""

    def __init__(self, name: str, size: int) -> None:
        super().__init__(
            f"{name} is not on this machine yet: `alexnet-infer pull {name}` fetches it ({size / 1e6:.0f} MB)"
        )
        self.name = name


def find_net(model: str | Path) -> Path:
    """The file of a net: `model` is a file, or the name of a net that comes along or of a published one that was
    pulled.

    What has a suffix or a folder is taken for a file, whether it is there or not. Raises NotPulledError for a published
    net that is not on this machine, UnknownNetError when there is no such name.
    """
    path, name = Path(model), str(model)
    if path.suffix or os.sep in name or is_file(path):
        return path
    at_hand = {net.stem: net for net in nets_at_hand()}
    if name in at_hand:
        return at_hand[name]
    from alexnet_infer.published.cache import cached
    from alexnet_infer.published.registry import registry

    nets = registry()
    if name not in nets:
        raise UnknownNetError(
            f"{shown(name)} is neither a file nor the name of a net{meant(name, [*at_hand, *nets])}; "
            "`alexnet-infer models` lists the nets"
        )
    published = nets[name]
    file = cached(published)
    if file is None:
        raise NotPulledError(name, published.size)
    return file


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
