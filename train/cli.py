"""The trainer's command line: parse the options, build a `Job`, and set the exit code."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from alexnet_infer.backends import Device
from alexnet_infer.errors import StoppedError, UsageError, shown
from alexnet_infer.help import WHAT, Command, Group, argument, option
from alexnet_infer.output import say, say_json, tell
from alexnet_infer.presets import PRESETS, Variant, kernel_counts, variant
from alexnet_infer.program import run as run_program
from train.job import Job
from train.recipe import RECIPES, Recipe
from train.requirements import import_failure

RUN, NET, MACHINE = "Run", "Net (defaults of alexnet; of others: alexnet-infer info PRESET)", "Machine"
RECIPE = "\t".join(["Recipe", *RECIPES])
"""Titles of the panels in the help page."""

EPILOG = """
Examples:
  python -m train --preset alexnet-64 --recipe fast --data DATA --out runs/a
  python -m train --init-from alexnet-64-0 --data DATA

Exit codes: 0 success; 1 diverged; 2 wrong usage, unwritable file; 3 unreadable
data; 4 invalid checkpoint; 5 package or device missing; 130 interrupted.
"""

PREPARE_EXAMPLES = """
Examples:
  python -m train prepare ILSVRC2012 --out packed
  python -m train prepare photos --out packed-64 --image-size 64 --check
"""

PLOT_EXAMPLES = """
Examples:
  python -m train plot runs/alexnet
  python -m train plot runs/first runs/second --out both.png
"""

REPRODUCE_EXAMPLES = """
Examples:
  python -m train reproduce --list
  python -m train reproduce --data tiny-imagenet --only lrn --max-hours 2
  python -m train reproduce --data tiny-imagenet --scale half
"""

app = typer.Typer(
    name="python -m train",
    cls=Group,
    epilog=EPILOG,
    subcommand_metavar="[prepare|plot|reproduce]",
    add_completion=False,  # a shell completes names of programs, and `python -m train` has none
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


SWITCHES = ("width", "hidden", "columns", "activation", "normalization", "pool_size")
"""Fields of `Variant` with an option of the same name, except that of `columns`, --net-columns. --kernels sets two."""

RECIPE_FIELDS = tuple(field.name for field in fields(Recipe) if field.name != "name")
"""Fields of `Recipe` with an option of the same name."""


def _recipe(field: str, help: str, metavar: str | None = None) -> Any:
    """An option that changes a field of the recipe. The help page shows the value of each recipe."""
    values = "\t".join(_shown(getattr(recipe, field)) for recipe in RECIPES.values())
    return option(RECIPE, help, default=values, metavar=metavar)


def _net(field: str, help: str, metavar: str) -> Any:
    """An option that changes a field of the preset. The help page shows alexnet's value."""
    return option(NET, help, default=_shown(getattr(variant("alexnet"), field)), metavar=metavar)


def _shown(value: object) -> str:
    return "all" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


@app.callback(invoke_without_command=True)
def train(
    context: typer.Context,
    data: Annotated[
        Path | None, option(RUN, "Packed set, ILSVRC, Parquet shards or folders.", metavar="PATH", default=False)
    ] = None,
    preset: Annotated[str | None, option(RUN, ", ".join(PRESETS), metavar="NAME", default="alexnet")] = None,
    recipe: Annotated[str, option(RUN, f"{' or '.join(RECIPES)}; see Recipe.", metavar="NAME")] = "paper",
    out: Annotated[Path | None, option(RUN, "Folder of the run.", metavar="DIR", default="runs/PRESET")] = None,
    name: Annotated[str | None, option(RUN, "Name of the trained net.", metavar="NAME", default="the preset's")] = None,
    image_size: Annotated[
        int | None,
        option(RUN, "Side of images.", metavar="S", default="the set's or preset's"),
    ] = None,
    init_from: Annotated[
        str | None, option(RUN, "Start from this net. It sets --preset and Net.", metavar="NET", default=False)
    ] = None,
    seed: Annotated[int, option(RUN, "Seed of all random numbers.", metavar="N")] = 0,
    result: Annotated[Literal["last", "best"], option(RUN, "Last weights, or the best epoch's.")] = "last",
    max_hours: Annotated[
        float | None, option(RUN, "Stop, with a result, after HOURS.", metavar="HOURS", default="never")
    ] = None,
    tensorboard: Annotated[
        bool, option(RUN, "Also write TensorBoard events (OUT/tensorboard).", "--tensorboard")
    ] = False,
    width: Annotated[float | None, _net("width", "Multiply all kernel counts by X.", "X")] = None,
    kernels: Annotated[
        str | None,
        option(NET, "Numbers of kernels.", metavar="N,N,...", default=",".join(map(str, variant("alexnet").kernels))),
    ] = None,
    hidden: Annotated[int | None, _net("hidden", "Units of fc6 and fc7, 0 for none.", "N")] = None,
    net_columns: Annotated[int | None, _net("columns", "1 or 2.", "N")] = None,
    activation: Annotated[Literal["relu", "tanh"] | None, _net("activation", "relu or tanh.", "NAME")] = None,
    normalization: Annotated[
        Literal["lrn", "batchnorm", "none"] | None, _net("normalization", "lrn, batchnorm or none.", "NAME")
    ] = None,
    pool_size: Annotated[int | None, _net("pool_size", "Pooling windows: 3 (overlapping) or 2.", "N")] = None,
    epochs: Annotated[int | None, _recipe("epochs", "Epochs (plateau: at most).", "N")] = None,
    batch: Annotated[int | None, _recipe("batch", "Images per step.", "N")] = None,
    lr: Annotated[float | None, _recipe("lr", "First or highest learning rate.", "RATE")] = None,
    schedule: Annotated[
        Literal["plateau", "onecycle"] | None, _recipe("schedule", "Learning-rate schedule.", "NAME")
    ] = None,
    warmup: Annotated[float | None, _recipe("warmup", "onecycle: warm-up fraction.", "X")] = None,
    patience: Annotated[int | None, _recipe("patience", "plateau: epochs without a gain.", "N")] = None,
    momentum: Annotated[float | None, _recipe("momentum", "Momentum.", "X")] = None,
    weight_decay: Annotated[float | None, _recipe("weight_decay", "Weight decay.", "X")] = None,
    dropout: Annotated[float | None, _recipe("dropout", "Dropout rate of fc6 and fc7.", "RATE")] = None,
    init: Annotated[Literal["paper", "he"] | None, _recipe("init", "Initial weights.")] = None,
    label_smoothing: Annotated[float | None, _recipe("label_smoothing", "Label smoothing, 0 to below 1.", "X")] = None,
    color_sigma: Annotated[float | None, _recipe("color_sigma", "Std. deviation of colour noise.", "X")] = None,
    unit: Annotated[float | None, _recipe("unit", "Grey levels per unit in the net.", "X")] = None,
    mean: Annotated[
        Literal["pixel", "channel"] | None, _recipe("mean", "Mean per pixel or per channel.", "PER")
    ] = None,
    training_views: Annotated[
        Literal["random", "center"] | None, _recipe("training_views", "random or center patches.", "VIEW")
    ] = None,
    validation_views: Annotated[
        Literal["ten", "center"] | None, _recipe("validation_views", "Views for validation.", "VIEW")
    ] = None,
    steps_per_epoch: Annotated[int | None, _recipe("steps_per_epoch", "Steps per epoch.", "N")] = None,
    split_columns: Annotated[
        bool, option(MACHINE, "One column per torchrun process, not the whole net.", "--split-columns")
    ] = False,
    device: Annotated[Device, option(MACHINE, "auto: CUDA if available, else CPU.")] = "auto",
    accumulate: Annotated[int, option(MACHINE, "Parts per batch, to save memory.", metavar="N")] = 1,
    compile: Annotated[
        bool | None, option(MACHINE, "Use torch.compile.", "--compile/--no-compile", default="on GPUs, if possible")
    ] = None,
) -> None:
    """Train an AlexNet; write a model file with its errors. Run again to continue."""
    if context.invoked_subcommand:
        return
    if data is None:
        raise UsageError("--data is missing: expected a labelled image set, or a set packed by prepare")
    if recipe not in RECIPES:
        raise UsageError(f"--recipe {recipe}: expected {' or '.join(RECIPES)}")
    given = {name: value for name, value in (context.params | {"columns": net_columns}).items() if value is not None}
    switches = {name: given[name] for name in SWITCHES if name in given}
    if kernels and init_from:
        raise UsageError(f"--kernels {shown(kernels)}: --init-from sets the numbers of kernels; leave the option out")
    if kernels:
        switches |= kernel_counts(kernels, variant(preset or "alexnet"))
    start, net = _net_to_train(init_from, preset, switches)
    job = Job(
        variant=net,
        recipe=replace(RECIPES[recipe], **{name: given[name] for name in RECIPE_FIELDS if name in given}),
        data=data,
        out=out or Path("runs") / net.name,
        name=name or net.name,
        size=image_size,
        init_from=start,
        seed=seed,
        columns=2 if split_columns else 1,
        device=device,
        compile=compile,
        accumulate=accumulate,
        max_hours=max_hours,
        result=result,
        tensorboard=tensorboard,
    )
    _run(job)


@app.command(cls=Command, epilog=PREPARE_EXAMPLES)
def prepare(
    source: Annotated[
        Path,
        argument(
            "PATH",
            "Data set with both splits: ILSVRC, Parquet (train-*.parquet, validation-*.parquet, classes.tsv) or "
            "folders (train/ and val/ with one folder per class).",
        ),
    ],
    out: Annotated[Path, option(WHAT, "Folder for the packed set.", "-o", "--out", metavar="DIR", default=False)],
    validation: Annotated[
        Path | None, option(WHAT, "The validation split.", metavar="PATH", default="in the data set")
    ] = None,
    image_size: Annotated[
        int, option("How", "S: images are rescaled and cropped to S x S squares.", metavar="S")
    ] = 256,
    workers: Annotated[int | None, option("How", "Decoding threads.", metavar="N", default="one per core")] = None,
    classes: Annotated[
        str | None,
        option("Part", "Only these classes, as FIRST:LAST:STEP: :100 or 1::2.", metavar="SLICE", default="all"),
    ] = None,
    hold_out: Annotated[
        int, option("Part", "Move the last N training images of each class to validation.", metavar="N")
    ] = 0,
    check: Annotated[bool, option("Verify", "Read everything again afterwards and compare hashes.", "--check")] = False,
) -> None:
    """Decode a data set once, for training.

    The squares are stored as uint8, and training maps them into memory. After an interruption, run the same command
    again to continue. Exits with 1 if some images could not be read; they are listed.
    """
    from train.display import Display
    from train.prepare import Preparation
    from train.prepare import prepare as make
    from train.selection import Selection

    part = Selection(classes=classes or ":", hold_out=hold_out)
    job = Preparation(source=source, validation=validation, out=out, size=image_size, selection=part, workers=workers)
    display = Display()
    try:
        preparation = make(job, display)
        for split, unreadable in preparation.unreadable.items():
            for item in unreadable:
                tell(f"{split}: {item.image}: {item.reason}")
        if check:
            with display.counting("checking", preparation.packed.bytes, "bytes") as advance:
                preparation.packed.verify(advance)
    except KeyboardInterrupt:
        raise StoppedError("interrupted: run the same command again to continue") from None
    say(preparation.summary)
    if any(preparation.unreadable.values()):
        raise typer.Exit(1)


@app.command(cls=Command, epilog=PLOT_EXAMPLES)
def plot(
    runs: Annotated[list[Path], argument("RUN...", "Run folders, or their log.jsonl files.")],
    out: Annotated[Path, option("Output", "Image file to write.", "-o", "--out", metavar="FILE")] = Path("curves.png"),
    as_json: Annotated[bool, option("Output", "Print the figures as JSON; draw nothing.", "--json")] = False,
) -> None:
    """Plot the curves of one or more runs.

    The curves are loss, errors, learning rate and speed.
    """
    from train.plot import curves, distinct_names
    from train.plot import plot as draw

    if as_json:
        say_json({name: curves(run) for name, run in zip(distinct_names(runs), runs, strict=True)})
    else:
        draw(runs, out)
        say(out)


@app.command(cls=Command, epilog=REPRODUCE_EXAMPLES)
def reproduce(
    data: Annotated[
        Path | None, option(WHAT, "Data set with both splits; see prepare.", metavar="PATH", default=False)
    ] = None,
    scale: Annotated[
        Literal["miniature", "quarter", "half", "four-layer", "full", "bundled"],
        option(WHAT, "Size of nets and data. four-layer: ReLU and tanh. bundled: measure the program's nets."),
    ] = "quarter",
    only: Annotated[
        list[str] | None, option(WHAT, "Only this row. Repeat for several.", metavar="ROW", default="all")
    ] = None,
    as_list: Annotated[
        bool, option("Instead", "List the rows: what is done, missing, and would take here.", "--list")
    ] = False,
    as_json: Annotated[bool, option("Instead", "Print the list as JSON.", "--json")] = False,
    page: Annotated[bool, option("Instead", "Only write the page, from the results that exist.", "--page")] = False,
    work: Annotated[Path, option("How", "Folder for packed sets and runs.", metavar="DIR")] = Path("runs/reproduce"),
    results: Annotated[Path, option("How", "Folder for results; the page is beside it.", metavar="DIR")] = Path(
        "models/reproduction"
    ),
    jobs: Annotated[
        int | None, option("How", "Runs side by side.", metavar="N", default="one per core; 3 on a GPU")
    ] = None,
    max_hours: Annotated[
        float | None, option("How", "Stop after HOURS; continue later.", metavar="HOURS", default="never")
    ] = None,
    device: Annotated[Device, option("How", "auto: CUDA if available, else CPU.")] = "auto",
) -> None:
    """Test the paper's claims by training small nets.

    Each row compares nets with and without one part. Results are kept as small files, no net is trained twice, and
    REPRODUCTION.md is written from them. After an interruption, run the same command again to continue. Exits with 1 if
    a run failed.
    """
    from train.reproduction.experiments import read_plan
    from train.reproduction.request import Request, Workplace

    request = Request(plan=read_plan(), scale=scale, only=tuple(only or ()), results=results)
    from train.reproduction.commands import list_rows, run_rows, write_page

    if page:
        say(write_page(request))
    elif as_list or as_json:
        list_rows(request, data, device, jobs, as_json=as_json)
    elif data is None:
        raise UsageError("--data is missing: expected a data set; --list and --page need none")
    else:
        where = Workplace(data=data, work=work, device=device, jobs=jobs, max_hours=max_hours)
        if not run_rows(request, where):
            raise typer.Exit(1)


def _net_to_train(init_from: str | None, preset: str | None, switches: dict[str, Any]) -> tuple[Path | None, Variant]:
    """Return the file of the net to start from, if there is one, and the net to train."""
    if init_from is None:
        return None, replace(variant(preset or "alexnet"), **switches)
    from alexnet_infer.nets import find_net
    from train.transfer import initial_variant

    path = find_net(init_from)
    return path, initial_variant(path, preset, switches)


def _run(job: Job) -> None:
    try:
        from train.display import Display
        from train.launch import launch
    except Exception as error:  # a broken installation can raise any error
        raise import_failure(error) from None
    try:
        result = launch(job, Display())
        if result is not None:
            say(result.summary)
    except KeyboardInterrupt:  # while reading data or measuring the result
        raise StoppedError("interrupted: run the same command again") from None


def main() -> None:
    """Run `python -m train`, and exit. `alexnet_infer.program` handles errors and exit codes."""
    run_program("python -m train", app, import_failure)
