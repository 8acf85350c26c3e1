"""`alexnet-infer models`, `pull` and `import`: other people's nets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def models(
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object, with protocols, sources and licences.")
    ] = False,
) -> None:
    """List the nets that come along, those that were pulled, and those that can be."""
    from alexnet_infer.commands.models import run

    run(as_json=as_json)


def pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Published nets, by the names of `models`.")],
    source: Annotated[
        str | None, typer.Option("--from", metavar="FILE|URL", help="A copy or a mirror; it is verified like the rest.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Fetch and convert a net that is here already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a net.")] = False,
) -> None:
    """Fetch published nets, verify them, and turn them into model files of ours, for use offline from then on.

    A download that was cut short goes on where it was. Exit code 3 when a net can't be fetched, 4 when what is there is
    another file, 1 when some of several failed.
    """
    from alexnet_infer.commands.pull import run

    raise typer.Exit(run(names, source=source, force=force, as_json=as_json))


def import_(
    source: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="An .onnx, .caffemodel, .pth or .pt file, or our trainer's checkpoint."),
    ],
    preset: Annotated[
        str | None, typer.Option("--as", metavar="PRESET", help="Which net it is: caffe, caffenet, owt, alexnet, ...")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The file to write.", show_default="the name, .safetensors")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What the net is called from now on.", show_default="the file's name")
    ] = None,
    preprocessing: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="How its images were prepared: caffe, caffe-zoo, torchvision, or a JSON file.",
            show_default="that of the preset's published nets",
        ),
    ] = None,
    patch: Annotated[
        int | None, typer.Option(help="Side of its patches, where file and preset differ.", show_default="the file's")
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="WordNet id and name of each output, a line each.", show_default="ILSVRC-2012's 1,000"),
    ] = None,
    data: Annotated[str | None, typer.Option(help="What it was trained on, for its manifest.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Turn somebody else's trained AlexNet into a model file of ours.

    Exit code 4 when the file is damaged or is another net than PRESET.
    """
    from alexnet_infer.commands.import_net import run

    run(
        source,
        preset=preset,
        out=out,
        name=name,
        convention=preprocessing,
        patch=patch,
        classes=classes,
        data=data,
        as_json=as_json,
    )
