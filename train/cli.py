"""The trainer's command line: parse, turn into a `Job`, exit codes. Nothing else knows that there is one."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from alexnet_infer.errors import AlexNetInferError, UnreadableInputError, UsageError
from alexnet_infer.presets import PRESETS, variant
from train.job import Job
from train.recipe import RECIPES
from train.requirements import import_failure

EXIT_CODES = (
    "Exit codes: 0 done; 1 diverged; 2 usage, or a file that can't be written; 3 unreadable data; 4 a checkpoint that "
    "is damaged or of another run; 5 backend or device missing; 130 interrupted."
)

app = typer.Typer(
    name="python -m train",
    epilog=EXIT_CODES,
    subcommand_metavar="[prepare|plot]",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_NET, _RECIPE, _MACHINE = "The net", "The recipe, where it should differ", "Machine"


def _option(panel: str, text: str, **settings: Any) -> Any:
    return typer.Option(help=text, rich_help_panel=panel, show_default=False, **settings)


@app.callback(invoke_without_command=True)
def train(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Data set: a packed set (made by prepare); or ILSVRC as it comes; or Parquet shards train-*.parquet "
            "and validation-*.parquet with classes.tsv; or folders train/ and val/ with one folder for each class.",
            show_default=False,
        ),
    ] = None,
    preset: Annotated[str, typer.Option(help=f"The net: {', '.join(PRESETS)}.")] = "alexnet",
    recipe: Annotated[str, typer.Option(help="paper: as published; fast: one cycle from He initialisation.")] = "paper",
    out: Annotated[
        Path | None, typer.Option(help="Folder for checkpoint and result.", show_default="runs/PRESET")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the trained net.", show_default="the preset's")] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            help="S: images are rescaled and cropped to squares of this side.",
            show_default="a packed set's; else the next multiple of 32 above the patch: 256 for alexnet",
        ),
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(
            help="Start from this trained net's weights; its last layer is replaced if its classes are others.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn at random.")] = 0,
    width: Annotated[float | None, _option(_NET, "Factor on every kernel count.")] = None,
    hidden: Annotated[int | None, _option(_NET, "Units of fc6 and fc7.")] = None,
    dropout: Annotated[float | None, _option(_NET, "Rate of dropout on fc6 and fc7.")] = None,
    net_columns: Annotated[int | None, _option(_NET, "The net's columns: 2 as in the paper, or 1.")] = None,
    activation: Annotated[Literal["relu", "tanh"] | None, _option(_NET, "Activation function.")] = None,
    normalization: Annotated[
        Literal["lrn", "batchnorm", "none"] | None, _option(_NET, "Normalisation after conv1 and conv2.")
    ] = None,
    pool_size: Annotated[int | None, _option(_NET, "Side of the pooling windows: 3 overlaps, 2 does not.")] = None,
    epochs: Annotated[int | None, _option(_RECIPE, "Cycles through the training set (plateau: at most).")] = None,
    batch: Annotated[int | None, _option(_RECIPE, "Images a step.")] = None,
    lr: Annotated[float | None, _option(_RECIPE, "First (plateau) or highest (onecycle) learning rate.")] = None,
    schedule: Annotated[Literal["plateau", "onecycle"] | None, _option(_RECIPE, "Learning-rate schedule.")] = None,
    warmup: Annotated[float | None, _option(_RECIPE, "onecycle: share of the run in which the rate rises.")] = None,
    patience: Annotated[int | None, _option(_RECIPE, "plateau: epochs to wait for a lower error.")] = None,
    momentum: Annotated[float | None, _option(_RECIPE, "Momentum.")] = None,
    weight_decay: Annotated[float | None, _option(_RECIPE, "Weight decay.")] = None,
    init: Annotated[Literal["paper", "he"] | None, _option(_RECIPE, "Initial weights.")] = None,
    label_smoothing: Annotated[float | None, _option(_RECIPE, "Share of the target spread over all classes.")] = None,
    color_sigma: Annotated[
        float | None, _option(_RECIPE, "Standard deviation of the colour noise; 0 for none.")
    ] = None,
    unit: Annotated[float | None, _option(_RECIPE, "Grey levels that count as 1 inside the net in training.")] = None,
    mean: Annotated[
        Literal["pixel", "channel"] | None,
        _option(_RECIPE, "The mean that is subtracted: at each pixel, or a channel's."),
    ] = None,
    validation_views: Annotated[
        Literal["ten", "center"] | None, _option(_RECIPE, "Views for the error after each epoch.")
    ] = None,
    steps_per_epoch: Annotated[int | None, _option(_RECIPE, "End an epoch after so many steps.")] = None,
    result: Annotated[
        Literal["last", "best"],
        typer.Option(help="Weights for the result: the last, or those of the epoch with the lowest validation error."),
    ] = "last",
    max_hours: Annotated[
        float | None,
        typer.Option(help="Stop after so long, with a checkpoint and a result.", show_default="never"),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard events to OUT/tensorboard as well.")
    ] = False,
    columns: Annotated[
        bool,
        typer.Option(
            "--columns",
            help="Put the net's two columns on two processes: torchrun --nproc-per-node 2 -m train --columns ... "
            "Without it, every process that torchrun starts holds the whole net and takes its share of each batch.",
            rich_help_panel=_MACHINE,
        ),
    ] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(help="auto: a CUDA GPU where there is one, else the CPU.", rich_help_panel=_MACHINE),
    ] = "auto",
    accumulate: Annotated[
        int, typer.Option(help="Work on a batch in so many parts, to save memory.", rich_help_panel=_MACHINE)
    ] = 1,
    compile: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Use torch.compile; for a GPU only, on a CPU it gains nothing.",
            rich_help_panel=_MACHINE,
            show_default="on a GPU, where there is a compiler",
        ),
    ] = None,
) -> None:
    """Train an AlexNet, from images to a model file with its measured errors.

    The same command again goes on from the last checkpoint; when the run is finished it writes the result again.
    """
    if context.invoked_subcommand:
        return
    if data is None:
        raise UsageError("--data is missing: expected a folder with a labelled image set")
    changed_net = _given(
        width=width,
        hidden=hidden,
        dropout=dropout,
        columns=net_columns,
        activation=activation,
        normalization=normalization,
        pool_size=pool_size,
    )
    changed_recipe = _given(
        epochs=epochs,
        batch=batch,
        lr=lr,
        schedule=schedule,
        warmup=warmup,
        patience=patience,
        momentum=momentum,
        weight_decay=weight_decay,
        init=init,
        label_smoothing=label_smoothing,
        color_sigma=color_sigma,
        unit=unit,
        mean=mean,
        validation_views=validation_views,
        steps_per_epoch=steps_per_epoch,
    )
    if recipe not in RECIPES:
        raise UsageError(f"--recipe {recipe}: expected {' or '.join(RECIPES)}")
    net = replace(variant(preset), **changed_net)
    job = Job(
        variant=net,
        recipe=replace(RECIPES[recipe], **changed_recipe),
        data=data,
        out=out or Path("runs") / preset,
        name=name or preset,
        size=image_size,
        init_from=init_from,
        seed=seed,
        columns=2 if columns else 1,
        device=device,
        compile=compile,
        accumulate=accumulate,
        max_hours=max_hours,
        result=result,
        tensorboard=tensorboard,
    )
    _run(job)


@app.command()
def prepare(
    source: Annotated[Path, typer.Argument(help="Data set with both splits: ILSVRC as it comes, or any labelled set.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the packed set.", show_default=False)],
    image_size: Annotated[int, typer.Option(help="S: images are rescaled and cropped to squares of this side.")] = 256,
    validation: Annotated[
        Path | None,
        typer.Option(help="Where the validation split is, if it is elsewhere.", show_default=False),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Threads that decode.", show_default="one a core")] = None,
    check: Annotated[bool, typer.Option("--check", help="Then read everything again and compare the hashes.")] = False,
) -> None:
    """Decode a data set once, to squares of uint8 that training maps into memory.

    The same command again goes on where it was stopped. Exit code 1: done, but some images could not be read; they are
    listed.
    """
    from train.display import Display
    from train.packed import open_packed
    from train.prepare import Preparation
    from train.prepare import prepare as make

    job = Preparation(source=source, validation=validation, out=out, size=image_size, workers=workers)
    display = Display()
    try:
        done = make(job, display)
        for split, images in done.unreadable.items():
            for image in images:
                print(f"{split}: {image.name}: {image.reason}", file=sys.stderr)
        if check:
            packed = open_packed(out)
            with display.counting("checking", packed.bytes, "bytes") as advance:
                packed.verify(advance)
    except KeyboardInterrupt:
        _leave("interrupted: the same command goes on from here", 130)
    print(done.summary)
    if any(done.unreadable.values()):
        raise typer.Exit(1)


@app.command()
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or their log.jsonl.", metavar="RUN...")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture.")] = Path("curves.png"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON; draw nothing.")] = False,
) -> None:
    """Draw the curves of one or more runs: loss, errors, learning rate, speed."""
    from train.plot import curves, distinct_names
    from train.plot import plot as draw

    if as_json:
        print(json.dumps({name: curves(run) for name, run in zip(distinct_names(runs), runs, strict=True)}))
    else:
        draw(runs, out)
        print(out)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _run(job: Job) -> None:
    try:
        from train.display import Display
        from train.launch import launch
    except Exception as error:  # a broken installation raises what it likes
        raise import_failure(error) from None
    try:
        finished = launch(job, Display())
        if finished is not None:
            print(finished.summary)
    except KeyboardInterrupt:  # while data was read or the result measured
        _leave("interrupted: the same command starts this again", 130)


def main() -> None:
    """`python -m train`. Every error that a user can cause becomes one line on stderr and its exit code."""
    try:
        app(prog_name="python -m train")
    except AlexNetInferError as error:
        _leave(f"error: {error}" if error.exit_code != 130 else str(error), error.exit_code)
    except ImportError as error:  # of what is imported where it is used
        failure = import_failure(error)
        _leave(f"error: {failure}", failure.exit_code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _leave(f"error: {where}{error.strerror or error}", UnreadableInputError.exit_code)


def _leave(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    sys.exit(code)
