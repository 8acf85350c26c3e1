"""`alexnet-infer eval` and `alexnet-infer data`: labelled image sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from alexnet_infer.cli.options import Backend, TrustEngine, net
from alexnet_infer.errors import UsageError

evaluation = typer.Typer(invoke_without_command=True, subcommand_metavar="[merge]", no_args_is_help=False)

_Json = Annotated[bool, typer.Option("--json", help="The whole result as one JSON object.")]
_Csv = Annotated[bool, typer.Option("--csv", help="The table as CSV.")]
_Markdown = Annotated[bool, typer.Option("--markdown", help="The table as Markdown.")]
_Save = Annotated[
    Path | None, typer.Option("--save-predictions", help="Write a row an image to this .csv or .parquet file.")
]
_FailIf = Annotated[
    list[str] | None, typer.Option("--fail-if", help='Exit code 1 when this holds, as in "top5>18.2" (per cent).')
]


@evaluation.callback()
def evaluate(
    context: typer.Context,
    data: Annotated[
        Path | None, typer.Option(help="Labelled image set: ILSVRC as you have it, or folders.", show_default=False)
    ] = None,
    ensemble: Annotated[
        int | None, typer.Option(help="Average so many nets: the first of --models, or of those that come along.")
    ] = None,
    models: Annotated[
        list[Path] | None,
        typer.Option(
            "--model",
            "--models",
            parser=net,
            metavar="<net>",
            help="Trained nets, or names of published ones, to be averaged; repeat the option.",
            show_default=False,
        ),
    ] = None,
    views: Annotated[
        Literal["ten", "center"] | None,
        typer.Option(
            help="The paper's ten patches, or the central one.", show_default="what a file does itself, else ten"
        ),
    ] = None,
    layout: Annotated[
        str | None, typer.Option("--format", help="Layout of the data: tar, flat, folders, kaggle, parquet, caffe.")
    ] = None,
    split: Annotated[Literal["validation", "train"], typer.Option(help="Which images of the set.")] = "validation",
    limit: Annotated[int | None, typer.Option(help="Only a stratified sample of so many images.")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the nets run.")] = "auto",
    backend: Backend = "auto",
    trust_engine: TrustEngine = False,
    batch: Annotated[int, typer.Option(help="Images that go through a net at once.")] = 16,
    workers: Annotated[
        int | None, typer.Option(help="Threads that decode; with Ray, cores a worker.", show_default="one a core")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for predictions; none is computed twice."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Compute again what the cache has.")] = False,
    shard: Annotated[
        str | None, typer.Option(help="I/N: only part I of N, for one of N machines; eval merge joins them.")
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="ray: on a Ray cluster, with the same result.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(help="The Ray cluster's address.", show_default="one that Ray finds, or this machine")
    ] = None,
    as_json: _Json = False,
    csv: _Csv = False,
    markdown: _Markdown = False,
    report: Annotated[Path | None, typer.Option(help="Write a web page with all figures to this folder.")] = None,
    save_predictions: _Save = None,
    fail_if: _FailIf = None,
    profile: Annotated[bool, typer.Option("--profile", help="Show the time spent in each stage.")] = False,
) -> None:
    """Measure top-1 and top-5 error by the paper's protocol: ten views, and several nets, averaged.

    A run that was stopped goes on where it was. Exit code 1 when images could not be read (they count as wrong) or a
    condition of --fail-if holds.
    """
    if context.invoked_subcommand:
        for option in context.command.params:
            if context.get_parameter_source(option.name).name != "DEFAULT":
                raise UsageError(f"{option.opts[0]}: does nothing before {context.invoked_subcommand}; give it after")
        return
    from alexnet_infer.commands.evaluate import make_output, make_request, run

    request = make_request(
        models=models or [],
        ensemble=ensemble,
        data=data,
        shard=shard,
        cache=cache,
        layout=layout,
        split=split,
        fresh=fresh,
        views=views,
        device=device,
        runtime=backend,
        trust_engine=trust_engine,
        batch=batch,
        workers=workers,
        limit=limit,
        engine=engine,
        address=address,
    )
    output = make_output(as_json, csv, markdown, save_predictions, fail_if or [], report=report, profile=profile)
    raise typer.Exit(run(request, output))


@evaluation.command()
def merge(
    caches: Annotated[list[Path], typer.Argument(help="The --cache folders of all shards.", metavar="CACHE...")],
    as_json: _Json = False,
    csv: _Csv = False,
    markdown: _Markdown = False,
    save_predictions: _Save = None,
    fail_if: _FailIf = None,
) -> None:
    """Join the shards that several machines computed, to the result of a single one."""
    from alexnet_infer.commands.evaluate import make_output
    from alexnet_infer.commands.evaluate import merge as join

    raise typer.Exit(join(caches, make_output(as_json, csv, markdown, save_predictions, fail_if or [])))


data_sets = typer.Typer(no_args_is_help=True)


@data_sets.command()
def check(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Labelled image set: a folder, or ILSVRC's archive.")],
    layout: Annotated[
        str | None, typer.Option("--format", help="Its layout: tar, flat, folders, kaggle, parquet, caffe.")
    ] = None,
    split: Annotated[Literal["validation", "train"], typer.Option(help="Which images of the set.")] = "validation",
    hashing: Annotated[
        bool, typer.Option("--hash/--no-hash", help="Compare the official archives' MD5, which reads them once more.")
    ] = True,
    model: Annotated[
        Path | None,
        typer.Option(
            parser=net,
            metavar="<net>",
            help="Run a sample through this net, to see permuted labels.",
            show_default=False,
        ),
    ] = None,
    quick_test: Annotated[bool, typer.Option("--quick-test", help="The same with the embedded net.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All findings as one JSON object.")] = False,
) -> None:
    """Find what would spoil an evaluation: missing, unreadable or doubled images, wrong or permuted labels.

    Exit code 0 when nothing is worse than a warning, 1 when errors were found, 3 when no image can be read.
    """
    from alexnet_infer.commands.data import run

    raise typer.Exit(
        run(
            root,
            layout=layout,
            split=split,
            as_json=as_json,
            hashing=hashing,
            model=model,
            quick_test=quick_test,
        )
    )
