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

        if not _agreed(f"{error}. Fetch it now?"):
            raise
        return fetch(published(error.name))


def _agreed(question: str) -> bool:
    """Asks on stderr: typer's own prompt puts a space on stdout, and that may be a file of JSON."""
    typer.echo(f"{question} [y/N]: ", nl=False, err=True)
    answer = sys.stdin.readline()
    if not answer:
        raise typer.Abort
    return answer.strip().lower() in ("y", "yes")


Backend = Annotated[
    Literal["auto", "onnxruntime", "openvino"], typer.Option(help="auto: the faster one of those that are installed.")
]
TrustEngine = Annotated[
    bool, typer.Option("--trust-engine", help="Run an engine that was not built here, though engines are code.")
]
