"""`alexnet-infer features` and `alexnet-infer similar`: the values of a net's layers, and what is near in them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from alexnet_infer.cli.options import HOW, OUTPUT, RUNTIME, AsJson, Backend, Device, Layout, Split, net
from alexnet_infer.help import WHAT, argument, option

FEATURES_EXAMPLES = """
Examples:
  alexnet-infer features holiday/ --layer fc7 -o holiday.npz
  alexnet-infer features --data ILSVRC2012 --layer fc6:pre --half -o fc6.npy
"""

SIMILAR_EXAMPLES = """
Examples:
  alexnet-infer similar photo.jpg --index holiday.npz
  alexnet-infer similar queries/ --index train-fc7.npy --report page
"""


def features(
    inputs: Annotated[
        list[str] | None,
        argument("[INPUT...]", "Files, folders, patterns, http(s) URLs, or - for standard input.", default=False),
    ] = None,
    data: Annotated[
        Path | None,
        option(WHAT, "A labelled image set instead: folder or archive.", metavar="PATH", default="the INPUTs"),
    ] = None,
    layout: Layout = None,
    split: Split = "validation",
    limit: Annotated[
        int | None, option(WHAT, "Use a stratified sample of N images.", metavar="N", default="all")
    ] = None,
    model: Annotated[
        Path | None,
        option(WHAT, "Net name, model file or .onnx.", parser=net, metavar="NET", default="best bundled net"),
    ] = None,
    layers: Annotated[
        list[str] | None,
        option(
            HOW,
            "A layer that `info` prints; with :pre, before its ReLU. Repeatable.",
            "--layer",
            metavar="NAME",
            default="fc7",
        ),
    ] = None,
    views: Annotated[
        Literal["center", "ten"] | None,
        option(HOW, "The central view, or the mean of the paper's ten.", default="the file's, or center"),
    ] = None,
    half: Annotated[bool, option(HOW, "Store float16: half the size.", "--half")] = False,
    device: Device = "auto",
    backend: Backend = "auto",
    batch: Annotated[int, option(RUNTIME, "Images per call of the net.", metavar="N")] = 16,
    workers: Annotated[int | None, option(RUNTIME, "Decoding threads.", metavar="N", default="all CPU cores")] = None,
    fresh: Annotated[bool, option(RUNTIME, "Discard an interrupted run.", "--fresh")] = False,
    out: Annotated[
        Path,
        option(
            OUTPUT,
            "Required: file to write, .npy (one layer), .npz, .parquet or .h5.",
            "-o",
            "--out",
            metavar="FILE",
        ),
    ] = ...,
    as_json: AsJson = False,
) -> None:
    """Write the values of a net's layers for many images to a file.

    One row per image, in their order. An interrupted run continues where it stopped. The rows of images that cannot be
    read are NaN. Exits with 1 if some images cannot be read, 3 if none can.
    """
    options = locals()  # must come first: the arguments, by their names
    from alexnet_infer.commands.features import run

    raise typer.Exit(run(**options))


def similar(
    photos: Annotated[
        list[str], argument("PHOTO...", "Files, folders, patterns, http(s) URLs, or - for standard input.")
    ],
    index: Annotated[Path, option(WHAT, "Required: file that `features` wrote.", "--index", metavar="FEATURES")],
    model: Annotated[
        Path | None,
        option(WHAT, "The net of FEATURES: its name or file.", parser=net, metavar="NET", default="the one it names"),
    ] = None,
    layer: Annotated[
        str | None, option(HOW, "A layer of FEATURES, if it has several.", metavar="NAME", default="the only one")
    ] = None,
    n: Annotated[int | None, option(HOW, "Images per photo.", "-n", metavar="N", default="6, or all if fewer")] = None,
    device: Device = "auto",
    backend: Backend = "auto",
    as_json: Annotated[bool, option(OUTPUT, "Print one JSON object per line, one line per photo.", "--json")] = False,
    csv: Annotated[bool, option(OUTPUT, "Print the neighbours of all photos as CSV.", "--csv")] = False,
    report: Annotated[
        Path | None,
        option(OUTPUT, "Write a web page with the images to this folder.", metavar="DIR", default=False),
    ] = None,
    data: Annotated[
        Path | None,
        option(
            OUTPUT,
            "For the page: the images' set, or the folder in which `features` ran.",
            metavar="PATH",
            default="where FEATURES says",
        ),
    ] = None,
) -> None:
    """Find the images nearest to a photo in the features of a net, as the paper's Figure 4 does.

    The net of FEATURES computes the same layer for the photo. All images are compared by Euclidean distance. Exits with
    1 if some photos cannot be read, 3 if none can.
    """
    options = locals()  # must come first: the arguments, by their names
    from alexnet_infer.commands.similar import run

    raise typer.Exit(run(**options))
