"""`alexnet-infer eval` and `alexnet-infer data`: labelled image sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from alexnet_infer.cli.options import (
    HOW,
    OUTPUT,
    RUNTIME,
    Backend,
    Device,
    Layout,
    Split,
    TrustEngine,
    given,
    net,
    net_or_server,
)
from alexnet_infer.errors import UsageError
from alexnet_infer.help import WHAT, Command, Group, argument, option

SCORING = "Scoring"
MACHINES, CHECKS = "Several machines (the result is the same)", "Checks"

EVAL_EXAMPLES = """
Examples:
  alexnet-infer eval --data ILSVRC2012 --model bvlc-alexnet --views center
  alexnet-infer eval --data tiny-imagenet --ensemble 5 --fail-if "top1>55"
"""

MERGE_EXAMPLES = """
Examples:
  alexnet-infer eval merge cache-1 cache-2 --report page --data ILSVRC2012
  alexnet-infer eval merge shards/* --references all --markdown
"""

GET_EXAMPLES = """
Examples:
  alexnet-infer data get
  alexnet-infer data get tiny-imagenet --to sets
  alexnet-infer data get imagenet-c --part blur --part noise
"""

CHECK_EXAMPLES = """
Examples:
  alexnet-infer data check ILSVRC2012
  alexnet-infer data check photos --format folders --split train --quick-test
"""

evaluation = typer.Typer(
    cls=Group, invoke_without_command=True, subcommand_metavar="[merge]", no_args_is_help=False, epilog=EVAL_EXAMPLES
)

_References = Annotated[
    Literal["near", "all"],
    option(OUTPUT, "Published rows: near (3) or all.", metavar="WHICH"),
]
_Json = Annotated[bool, option(OUTPUT, "Print the result as one JSON object.", "--json")]
_Csv = Annotated[bool, option(OUTPUT, "Print the table as CSV.", "--csv")]
_Markdown = Annotated[bool, option(OUTPUT, "Print the table as Markdown.", "--markdown")]
_Save = Annotated[
    Path | None,
    option(
        OUTPUT, "Write one row per image to a .csv or .parquet.", "--save-predictions", metavar="FILE", default=False
    ),
]
_FailIf = Annotated[
    list[str] | None,
    option(
        OUTPUT,
        'As "top5>18.2" (percent): exit with 1. Repeatable.',
        "--fail-if",
        metavar="CONDITION",
        default=False,
    ),
]
_PerClass = Annotated[
    Path | None, option(OUTPUT, "Write one row per class to a .csv.", "--per-class", metavar="FILE", default=False)
]
_Confusion = Annotated[
    Path | None, option(OUTPUT, "Write the confusion matrix to a .csv or .png.", metavar="FILE", default=False)
]
_Report = Annotated[
    Path | None, option(OUTPUT, "Write a web page with all results to this folder.", metavar="DIR", default=False)
]


_Classes = Annotated[str, option(SCORING, "Choose among: all, shared, or a file's.", metavar="WHICH")]
_Labels = Annotated[Path | None, option(SCORING, "Such as ReaL's real.json.", metavar="FILE", default="the data's")]


@evaluation.callback()
def evaluate(
    context: typer.Context,
    data: Annotated[
        Path | None,
        option(WHAT, "Folder or archive.", metavar="PATH", default="$ALEXNET_INFER_DATA"),
    ] = None,
    models: Annotated[
        list[object] | None,
        option(
            WHAT,
            "Net, or http:// or grpc:// server; repeat to average.",
            "--model",
            "--models",
            parser=net_or_server,
            metavar="NET",
            default="best bundled net",
        ),
    ] = None,
    ensemble: Annotated[
        int | None,
        option(WHAT, "Average the first N of --model, or N bundled nets.", metavar="N", default="all of --model, or 1"),
    ] = None,
    views: Annotated[
        Literal["ten", "center"] | None, option(WHAT, "Views to average.", default="the file's, or ten")
    ] = None,
    layout: Layout = None,
    split: Split = "validation",
    limit: Annotated[
        int | None, option(WHAT, "Use a stratified sample of N images.", metavar="N", default="all")
    ] = None,
    classes: _Classes = "all",
    only_known: Annotated[
        bool, option(SCORING, "Leave out images of classes the nets don't know.", "--only-known")
    ] = False,
    labels: _Labels = None,
    mce: Annotated[bool, option(SCORING, "Mean corruption error of the sets of ImageNet-C.", "--mce")] = False,
    mce_baseline: Annotated[
        Path | None,
        option(SCORING, "Output of --mce --json.", "--mce-baseline", metavar="FILE", default="AlexNet's errors"),
    ] = None,
    device: Device = "auto",
    backend: Backend = "auto",
    batch: Annotated[int, option(RUNTIME, "Images per call of a net.", metavar="N")] = 16,
    workers: Annotated[
        int | None,
        option(RUNTIME, "Decoding threads; with Ray, cores per worker.", metavar="N", default="all CPU cores"),
    ] = None,
    trust_engine: TrustEngine = False,
    profile: Annotated[bool, option(RUNTIME, "Show the time spent in each stage.", "--profile")] = False,
    cache: Annotated[
        Path | None, option(RUNTIME, "Folder for predictions.", metavar="DIR", default="the user's cache")
    ] = None,
    fresh: Annotated[bool, option(RUNTIME, "Compute cached predictions again.", "--fresh")] = False,
    shard: Annotated[
        str | None,
        option(MACHINES, "Part I of N; `eval merge` joins them.", metavar="I/N", default="1/1"),
    ] = None,
    on: Annotated[Literal["local", "ray"], option(MACHINES, "Where to compute: here, or on Ray.")] = "local",
    address: Annotated[
        str | None, option(MACHINES, "Ray, as HOST:PORT.", metavar="ADDRESS", default="a running one, or local")
    ] = None,
    references: _References = "near",
    as_json: _Json = False,
    csv: _Csv = False,
    markdown: _Markdown = False,
    report: _Report = None,
    save_predictions: _Save = None,
    per_class: _PerClass = None,
    confusion: _Confusion = None,
    fail_if: _FailIf = None,
) -> None:
    """Measure top-1 and top-5 error by the paper's protocol.

    An interrupted run continues where it stopped. Exits with 1 if an image cannot be read (it counts as wrong) or if a
    condition of --fail-if holds.
    """
    options = locals()  # must come first: the arguments, by their names
    del options["context"]
    if command := context.invoked_subcommand:
        known = {parameter.name for parameter in context.command.commands[command].params}
        for parameter, name in given(context).items():
            fix = f"put it after {command}" if parameter in known else "leave it out"
            raise UsageError(f"{name}: has no effect before {command}; {fix}")
        return
    from alexnet_infer.commands.evaluate import main

    raise typer.Exit(main(**options))


@evaluation.command(cls=Command, epilog=MERGE_EXAMPLES)
def merge(
    caches: Annotated[list[Path], argument("CACHE...", "The --cache folders of all shards.")],
    data: Annotated[
        Path | None, option(WHAT, "The image set, for the images of --report.", metavar="PATH", default=False)
    ] = None,
    classes: _Classes = "all",
    labels: _Labels = None,
    references: _References = "near",
    as_json: _Json = False,
    csv: _Csv = False,
    markdown: _Markdown = False,
    report: _Report = None,
    save_predictions: _Save = None,
    per_class: _PerClass = None,
    confusion: _Confusion = None,
    fail_if: _FailIf = None,
) -> None:
    """Join shards of several machines into one result."""
    from alexnet_infer.commands.evaluate import merge as join
    from alexnet_infer.commands.evaluate import parse_scoring
    from alexnet_infer.commands.evaluate_output import make_output

    output = make_output(
        as_json=as_json,
        csv=csv,
        markdown=markdown,
        save_predictions=save_predictions,
        per_class=per_class,
        confusion=confusion,
        fail_if=fail_if,
        report=report,
    )
    raise typer.Exit(join(caches, output, scoring=parse_scoring(classes, labels), references=references, data=data))


DATA_EXAMPLES = """
Examples:
  alexnet-infer data get tiny-imagenet
  alexnet-infer data check ILSVRC2012
"""

data_sets = typer.Typer(cls=Group, no_args_is_help=True, epilog=DATA_EXAMPLES)


@data_sets.command(cls=Command, epilog=GET_EXAMPLES)
def get(
    name: Annotated[str, argument("[NAME]", "Data set; without a name, list all.", default=False)] = "",
    part: Annotated[
        list[str] | None,
        option(WHAT, "Part of the set, or all; repeatable.", metavar="PART", default="required if the set has parts"),
    ] = None,
    source: Annotated[
        str | None, option(HOW, "Copy or mirror; also verified.", "--from", metavar="FILE|URL", default="the publisher")
    ] = None,
    force: Annotated[bool, option(HOW, "Get again, and replace the folder.", "--force")] = False,
    to: Annotated[
        Path | None, option(OUTPUT, "Put the set into DIR/NAME.", metavar="DIR", default="data in the user's cache")
    ] = None,
    keep: Annotated[bool, option(OUTPUT, "Keep the downloaded archive, in DIR.", "--keep")] = False,
    as_json: Annotated[bool, option(OUTPUT, "Print one JSON object.", "--json")] = False,
) -> None:
    """Get a free labelled image set, for `eval --data`.

    Prints the licence, downloads and verifies the set, unpacks it and prints its folder. An interrupted download
    continues where it stopped. Exits with 3 if the set cannot be fetched or is not the expected one.
    """
    options = locals()  # must come first: the arguments, by their names
    from alexnet_infer.commands.data_get import run

    run(**options)


@data_sets.command(cls=Command, epilog=CHECK_EXAMPLES)
def check(
    root: Annotated[Path, argument("PATH", "Labelled image set: a folder or an archive.")],
    layout: Layout = None,
    split: Split = "validation",
    hashing: Annotated[
        bool, option(CHECKS, "Check the MD5 of official archives; reads them twice.", "--hash/--no-hash")
    ] = True,
    model: Annotated[
        Path | None,
        option(CHECKS, "Find permuted labels with this net, on a sample.", parser=net, metavar="NET", default=False),
    ] = None,
    quick_test: Annotated[bool, option(CHECKS, "Find permuted labels with the bundled net.", "--quick-test")] = False,
    as_json: Annotated[bool, option(OUTPUT, "Print all findings as one JSON object.", "--json")] = False,
) -> None:
    """Find problems in a data set: missing, unreadable or duplicate images, wrong or permuted labels.

    Exits with 0 if there are only warnings, 1 if there are errors, 3 if no image can be read.
    """
    options = locals()  # must come first: the arguments, by their names
    from alexnet_infer.commands.data import run

    raise typer.Exit(run(**options))
