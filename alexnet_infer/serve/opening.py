"""From names of nets to the models of a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alexnet_infer.backends import Choice, Device
from alexnet_infer.files import is_file
from alexnet_infer.nets import choose_nets, load
from alexnet_infer.predict import Ensemble
from alexnet_infer.preprocess import Views
from alexnet_infer.serve.model import Model


def split_name(text: str) -> tuple[str | None, str]:
    """Split "NAME=NET". The name is None if there is none, or if a file has this name."""
    name, equals, net = text.partition("=")
    return (name, net) if equals and not is_file(Path(text)) else (None, text)


def open_models(
    nets: Sequence[tuple[str | None, Path]],
    *,
    ensemble: int | None = None,
    views: Views | None = None,
    device: Device = "auto",
    backend: Choice = "auto",
    trust_engine: bool = False,
) -> list[Model]:
    """Open nets, each as a model under its name in `nets` if it has one, or the mean of `ensemble` of them as one.

    Without nets, the bundled ones are taken. A net may be several models, but not twice in an ensemble. Raises the
    errors of `choose_nets`, `load` and `Model`.
    """
    paths = [path for _, path in nets]
    if ensemble is not None or not paths:
        paths = choose_nets(paths, ensemble)
    opened = [load(path, device=device, views=views, backend=backend, trust_engine=trust_engine) for path in paths]
    names = [name for name, _ in nets] or [None]
    if ensemble is None:
        return [Model.of(net, name) for net, name in zip(opened, names, strict=True)]
    return [Model.of(Ensemble(opened) if len(opened) > 1 else opened[0], names[0])]
