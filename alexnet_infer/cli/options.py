"""Options and panel titles that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer

from alexnet_infer.backends.remote.address import Source
from alexnet_infer.errors import UsageError
from alexnet_infer.help import WHAT, option
from alexnet_infer.nets import NotPulledError, find_net, find_source
from alexnet_infer.output import tell

Found = TypeVar("Found")

HOW, RUNTIME, OUTPUT = "How", "Runtime", "Output"
"""Titles of the panels in help pages."""


def net(model: str) -> Path:
    """Return the file of a net, given as a path or by its name.

    For a published net that is not on this machine, offer to download it if the terminal is interactive.
    """
    return _found(model, find_net)


def net_or_server(model: str) -> Source:
    """Return what `net` does, or the address of a net on a server."""
    return _found(model, find_source)


def _found(model: str, find: Callable[[str], Found]) -> Found | Path:
    try:
        return find(model)
    except UsageError as error:  # typer takes a ValueError's message for its own
        raise typer.BadParameter(str(error)) from None
    except NotPulledError as error:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        from alexnet_infer.commands.pull import fetch
        from alexnet_infer.published.registry import published

        if not _agreed(f"{error}. Download it now?"):
            raise
        return fetch(published(error.name))


def given(context: typer.Context) -> dict[str, str]:
    """Return the parameters that the user set, also to their defaults: parameter -> the option, as in "-o/--out"."""
    names = {}
    for parameter in context.command.params:
        if context.get_parameter_source(parameter.name).name != "DEFAULT":
            off = parameter.secondary_opts and context.params[parameter.name] is False
            names[parameter.name] = "/".join(parameter.secondary_opts if off else parameter.opts)
    return names


def _agreed(question: str) -> bool:
    """Ask on stderr: typer's own prompt writes a space to stdout, which may be a file of JSON."""
    tell(f"{question} [y/N]: ", end="")
    answer = sys.stdin.readline()
    if not answer:
        raise typer.Abort
    return answer.strip().lower() in ("y", "yes")


Device = Annotated[Literal["auto", "cpu", "cuda"], option(RUNTIME, "auto: CUDA if it works, else CPU.")]
Backend = Annotated[
    Literal["auto", "onnxruntime", "openvino", "reference"],
    option(RUNTIME, "auto (the faster one), onnxruntime, openvino or reference (exact, slow).", metavar="NAME"),
]
TrustEngine = Annotated[bool, option(RUNTIME, "Run a TensorRT engine built elsewhere. It is code.", "--trust-engine")]
Split = Annotated[Literal["validation", "train"], option(WHAT, "Split: validation or train.", metavar="NAME")]
_LAYOUTS = "tar, flat, folders, kaggle, parquet, caffe or tiny-imagenet."
Layout = Annotated[str | None, option(WHAT, _LAYOUTS, "--format", metavar="NAME", default="detected")]
AsJson = Annotated[bool, option(OUTPUT, "Print one JSON object.", "--json")]
