"""Options that several commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from alexnet_infer.nets import NotPulledError, find_net


def net(model: str) -> Path:
    """The file of a net that is given by its file name or by its own; a published net that is not on this machine may
    be pulled at once, where there is somebody to ask."""
    try:
        return find_net(model)
    except NotPulledError as error:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        from alexnet_infer.commands.pull import fetch
        from alexnet_infer.published.registry import published

        if not typer.confirm(f"{error}. Fetch it now?", err=True):
            raise
        return fetch(published(error.name))


Backend = Annotated[
    Literal["auto", "onnxruntime", "openvino"], typer.Option(help="auto: the faster one of those that are installed.")
]
TrustEngine = Annotated[
    bool, typer.Option("--trust-engine", help="Run an engine that was not built here, though engines are code.")
]
