"""`alexnet-infer filters`: the kernels of a net's first layer as a figure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from alexnet_infer.artifact import embedded_model
from alexnet_infer.backends.opening import is_exported
from alexnet_infer.errors import UsageError
from alexnet_infer.files import write_atomically, writing
from alexnet_infer.kernels import Kernels
from alexnet_infer.kernels.figure import MARK, figure
from alexnet_infer.marks import is_marked
from alexnet_infer.output import say, say_json

DEFAULT = Path("kernels.png")
"""The figure's file without -o."""


def run(
    model: Path | None,
    *,
    out: Path | None,
    scale: int | None,
    sort: Literal["index", "colour"],
    plain: bool,
    as_json: bool,
) -> None:
    """Write the figure as PNG or SVG, by the suffix of `out`, and print its path, or facts as JSON.

    `out` is by default DEFAULT, or with `as_json` no file. Raises UsageError if `out` has another suffix, can't be
    written, or is a file that isn't a figure of alexnet-infer, or if the net's first layer is not a convolution over
    three colours. Raises ModelFileError if the net can't be read.
    """
    if out is None and not as_json:
        out = DEFAULT
    if out is not None:
        _check(out)
    if model is not None and is_exported(model):
        raise UsageError(f"{model}: an exported file, whose weights can't be read; expected the model file")
    kernels = Kernels.read(model or embedded_model())
    if out is not None:
        drawn = figure(kernels.by_colour() if sort == "colour" else kernels, scale=scale, plain=plain)
        with writing(out):
            write_atomically(out, drawn.png() if out.suffix.lower() == ".png" else drawn.svg())
    if as_json:
        say_json(_json(kernels, out))
    else:
        say(out)


def _check(out: Path) -> None:
    if out.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"{out}: expected a file name ending in .png or .svg")
    with writing(out):
        exists = os.path.lexists(out)
    if exists and not is_marked(out, MARK):
        raise UsageError(f"{out}: exists, and isn't a figure that alexnet-infer drew; expected another -o FILE")


def _json(kernels: Kernels, out: Path | None) -> dict[str, Any]:
    """The shares are those of the net's order of kernels, however the figure is sorted."""
    count, _, height, width = kernels.weights.shape
    return {
        "file": None if out is None else str(out),
        "net": kernels.net,
        "layer": kernels.layer.name,
        "kernels": count,
        "size": [height, width],
        "stride": kernels.layer.stride,
        "columns": kernels.columns,
        "colour_share": list(kernels.colour_shares()),
        "kernel_colour_share": kernels.kernel_colour_shares().tolist(),
    }
