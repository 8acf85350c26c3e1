"""`alexnet-infer models`, `pull` and `import`: nets trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from alexnet_infer.cli.options import HOW, OUTPUT, AsJson
from alexnet_infer.help import WHAT, argument, option

MODELS_EXAMPLES = """
Examples:
  alexnet-infer models
  alexnet-infer models --json
"""

PULL_EXAMPLES = """
Examples:
  alexnet-infer pull bvlc-alexnet
  alexnet-infer pull torchvision-alexnet --from alexnet-owt-7be5be79.pth
"""

IMPORT_EXAMPLES = """
Examples:
  alexnet-infer import my.caffemodel --as caffe
  alexnet-infer import flowers.pth --as owt --classes classes.tsv
"""


def models(
    as_json: Annotated[
        bool, option(OUTPUT, "Print one JSON object, with protocols, sources and licences.", "--json")
    ] = False,
) -> None:
    """List bundled, pulled and published nets."""
    from alexnet_infer.commands.models import run

    run(as_json=as_json)


def pull(
    names: Annotated[list[str], argument("NAME...", "Published nets, as `alexnet-infer models` lists them.")],
    source: Annotated[
        str | None, option(HOW, "Copy or mirror; also verified.", "--from", metavar="FILE|URL", default="the publisher")
    ] = None,
    force: Annotated[bool, option(HOW, "Fetch and convert again.", "--force")] = False,
    as_json: Annotated[bool, option(OUTPUT, "Print one JSON object per net.", "--json")] = False,
) -> None:
    """Download published nets, and convert them to model files.

    Each download is verified. An interrupted download continues where it stopped. Exits with 3 if a net cannot be
    fetched, 4 if a file is not the expected one, 1 if any of several nets fails.
    """
    from alexnet_infer.commands.pull import run

    raise typer.Exit(run(names, source=source, force=force, as_json=as_json))


def import_(
    source: Annotated[
        Path, argument("FILE", "ONNX file, caffemodel, PyTorch file, or checkpoint of `python -m train`.")
    ],
    preset: Annotated[
        str | None,
        option(
            WHAT,
            "Architecture: caffe, caffenet, owt, alexnet or another preset.",
            "--as",
            metavar="PRESET",
            default="the checkpoint's; otherwise required",
        ),
    ] = None,
    format: Annotated[
        Literal["onnx", "onnx-quantized", "caffemodel", "state-dict", "checkpoint"] | None,
        option(
            WHAT,
            "onnx, onnx-quantized, caffemodel, state-dict (PyTorch) or checkpoint.",
            metavar="NAME",
            default="told by the file's content",
        ),
    ] = None,
    preprocessing: Annotated[
        str | None,
        option(
            HOW,
            "How the net's images are prepared: caffe, caffe-zoo, torchvision or a JSON file.",
            metavar="NAME|FILE",
            default="that of the preset's published nets",
        ),
    ] = None,
    patch: Annotated[
        int | None, option(HOW, "Side of the net's patches.", metavar="PIXELS", default="the file's")
    ] = None,
    classes: Annotated[
        Path | None,
        option(HOW, "One line per output: WordNet id and name.", metavar="FILE", default="ILSVRC-2012's 1,000 classes"),
    ] = None,
    data: Annotated[
        str | None, option(HOW, "The net's training data, for the manifest.", metavar="TEXT", default=False)
    ] = None,
    name: Annotated[str | None, option(OUTPUT, "Name of the net.", metavar="NAME", default="the file's name")] = None,
    out: Annotated[
        Path | None,
        option(
            OUTPUT,
            "File to write; .onnx for a quantized .onnx.",
            "-o",
            "--out",
            metavar="FILE",
            default="NAME.safetensors",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Convert an AlexNet from another program to a model file.

    Exits with 4 if the file is damaged or contains a net other than PRESET.
    """
    options = locals()  # must come first: the arguments, by their names
    from alexnet_infer.commands.import_net import run

    run(**options)
