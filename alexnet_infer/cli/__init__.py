"""The command line of `alexnet-infer`: options and exit codes. `alexnet_infer.commands` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from alexnet_infer.cli.evaluation import data_sets, evaluation
from alexnet_infer.cli.explain import EXPLAIN_EXAMPLES, explain
from alexnet_infer.cli.exporting import (
    BENCHMARK_EXAMPLES,
    COMPARE_EXAMPLES,
    EXPORT_EXAMPLES,
    benchmark,
    compare,
    export,
)
from alexnet_infer.cli.features import FEATURES_EXAMPLES, SIMILAR_EXAMPLES, features, similar
from alexnet_infer.cli.options import HOW, OUTPUT, AsJson, Backend, Device, TrustEngine, net, net_or_server
from alexnet_infer.cli.published import IMPORT_EXAMPLES, MODELS_EXAMPLES, PULL_EXAMPLES, import_, models, pull
from alexnet_infer.cli.serving import SERVE_EXAMPLES, serve
from alexnet_infer.help import WHAT, Command, Group, argument, option
from alexnet_infer.output import say
from alexnet_infer.program import run as run_program
from alexnet_infer.version import __version__

EPILOG = """
Examples:
  alexnet-infer classify photo.jpg
  alexnet-infer explain photo.jpg
  alexnet-infer eval --data ILSVRC2012 --model bvlc-alexnet

`alexnet-infer COMMAND --help` shows the options and examples of a command.

Exit codes: 0 success; 1 some inputs failed, or a check failed; 2 wrong usage,
or a file can't be written; 3 unreadable input; 4 missing or invalid model
file; 5 runtime or device not available; 130 interrupted.
"""

CLASSIFY_EXAMPLES = """
Examples:
  alexnet-infer classify photo.jpg https://example.org/photo.jpg
  alexnet-infer classify holiday/ 'scans/*.png' --model bvlc-alexnet --json
  alexnet-infer classify holiday/ --annotate labelled --csv > labels.csv
"""

INFO_EXAMPLES = """
Examples:
  alexnet-infer info alexnet
  alexnet-infer info runs/first/alexnet-64.safetensors --json
"""

FILTERS_EXAMPLES = """
Examples:
  alexnet-infer filters -o kernels.svg
  alexnet-infer filters bvlc-alexnet -o bvlc.png --scale 6 --sort colour
"""

USE, NETS, CHECK = "Commands", "Nets", "Compare, measure, check"
"""Panels of commands."""

app = typer.Typer(
    name="alexnet-infer",
    cls=Group,
    help="Classify images with AlexNet (2012), look inside the net (`explain`, `features`, `similar`), measure its "
    "error by the paper's protocol, and export it.",
    epilog=EPILOG,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        say(f"alexnet-infer {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def _folder(text: str) -> Path:
    if not text:
        raise typer.BadParameter("expected a folder, or a name for a new one; . is the current folder")
    return Path(text)


@app.command(cls=Command, epilog=CLASSIFY_EXAMPLES, rich_help_panel=USE)
def classify(
    photos: Annotated[
        list[str], argument("PHOTO...", "Files, folders, patterns, http(s) URLs, or - for standard input.")
    ],
    model: Annotated[
        object | None,
        option(
            WHAT,
            "Net name, model file, .onnx, .engine, or http:// or grpc:// server.",
            parser=net_or_server,
            metavar="NET",
            default="best bundled net",
        ),
    ] = None,
    ensemble: Annotated[int | None, option(WHAT, "Average N bundled nets.", min=1, metavar="N", default="1")] = None,
    views: Annotated[
        Literal["ten", "center"] | None,
        option(
            HOW,
            "Average the paper's ten views, or use the center only (10 times faster).",
            default="the file's, or ten",
        ),
    ] = None,
    device: Device = "auto",
    backend: Backend = "auto",
    trust_engine: TrustEngine = False,
    top: Annotated[
        int | None, option(OUTPUT, "Labels per photo.", min=1, metavar="N", default="5, or all if fewer")
    ] = None,
    as_json: Annotated[bool, option(OUTPUT, "Print one JSON object per line, one line per photo.", "--json")] = False,
    as_csv: Annotated[bool, option(OUTPUT, "Print CSV, one row per photo and label.", "--csv")] = False,
    annotate: Annotated[
        Path | None,
        option(OUTPUT, "Write copies of the photos with their labels below them.", parser=_folder, metavar="DIR"),
    ] = None,
) -> None:
    """Label photos with the classes that a net knows.

    A photo that cannot be read is reported on standard error, and the other photos are still classified. Exits with 1
    if some photos failed, 3 if all failed. --annotate never replaces a file that alexnet-infer did not write.
    """
    options = locals()  # must come first: the arguments, by their names
    from alexnet_infer.commands.classify import run

    raise typer.Exit(run(**options))


app.add_typer(evaluation, name="eval", rich_help_panel=USE)
app.command(cls=Command, epilog=EXPLAIN_EXAMPLES, rich_help_panel=USE)(explain)
app.command(cls=Command, epilog=FEATURES_EXAMPLES, rich_help_panel=USE)(features)
app.command(cls=Command, epilog=SIMILAR_EXAMPLES, rich_help_panel=USE)(similar)
app.command(cls=Command, epilog=EXPORT_EXAMPLES, rich_help_panel=USE)(export)
app.command(cls=Command, epilog=SERVE_EXAMPLES, rich_help_panel=USE)(serve)
app.command(cls=Command, epilog=COMPARE_EXAMPLES, rich_help_panel=CHECK)(compare)
app.command(cls=Command, epilog=BENCHMARK_EXAMPLES, rich_help_panel=CHECK)(benchmark)
app.command(cls=Command, epilog=MODELS_EXAMPLES, rich_help_panel=NETS)(models)
app.command(cls=Command, epilog=PULL_EXAMPLES, rich_help_panel=NETS)(pull)
app.command("import", cls=Command, epilog=IMPORT_EXAMPLES, rich_help_panel=NETS)(import_)


@app.command(cls=Command, epilog=INFO_EXAMPLES, rich_help_panel=NETS)
def info(
    net: Annotated[
        str, argument("[NET]", "Preset, net name, model file, .onnx or .engine.", default="best bundled net")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Show a net's layers, parameters and multiply-adds.

    For a trained net, also show its classes, preprocessing, training and errors, and for a model file the share of
    colour in the first layer's kernels (see `filters`).
    """
    from alexnet_infer.commands.info import run

    run(net, as_json=as_json)


@app.command(cls=Command, epilog=FILTERS_EXAMPLES, rich_help_panel=NETS)
def filters(
    model: Annotated[
        Path | None, argument("[NET]", "Net name or model file.", parser=net, default="best bundled net")
    ] = None,
    out: Annotated[
        Path | None,
        option(
            OUTPUT,
            "File to write, .png or .svg.",
            "-o",
            "--out",
            metavar="FILE",
            default="kernels.png; with --json: none",
        ),
    ] = None,
    scale: Annotated[
        int | None,
        option(
            OUTPUT, "Pixels per weight, 1 to 64.", min=1, max=64, metavar="N", default="so that kernels have about 33"
        ),
    ] = None,
    sort: Annotated[
        Literal["index", "colour"], option(OUTPUT, "Order in a column: as in the net, or grey kernels first.")
    ] = "index",
    plain: Annotated[bool, option(OUTPUT, "Only the kernels, without text.", "--plain")] = False,
    as_json: AsJson = False,
) -> None:
    """Draw the first layer's kernels, like the paper's Figure 3.

    The columns are apart, each with the share of colour in its kernels: the energy of their weights outside the grey
    axis (section 6.1). A file that is not such a figure is never replaced.
    """
    options = locals()
    from alexnet_infer.commands.filters import run

    run(**options)


app.add_typer(data_sets, name="data", help="Get and check labelled image sets.", rich_help_panel=CHECK)


def main() -> None:
    """Run the `alexnet-infer` program, and exit. `alexnet_infer.program` handles errors and exit codes."""
    run_program("alexnet-infer", app)
