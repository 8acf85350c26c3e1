"""Options and panel titles that several commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from alexnet_infer.help import WHAT, option
from alexnet_infer.nets import NotPulledError, find_net
from alexnet_infer.output import tell

HOW, RUNTIME, OUTPUT = "How", "Runtime", "Output"
"""Titles of the panels in help pages."""


def net(model: str) -> Path:
    """Return the file of a net, given as a path or by its name.

    For a published net that is not on this machine, offer to download it if the terminal is interactive.
    """
    try:
        return find_net(model)
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
