"""The command line: parse, dispatch, exit codes. The work is done in `alexnet_infer.commands`."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from alexnet_infer import __version__
from alexnet_infer.errors import AlexNetInferError, UsageError

EXIT_CODES = """Exit codes: 0 done; 1 done, but some inputs failed; 2 usage; 3 unreadable input; 4 bad model file;
5 backend or device missing; 130 interrupted."""

app = typer.Typer(
    name="alexnet-infer",
    help="AlexNet (2012) made usable and measurable today.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"alexnet-infer {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


_Backend = Annotated[
    Literal["auto", "onnxruntime", "openvino"], typer.Option(help="auto: the faster one of those that are installed.")
]
_TrustEngine = Annotated[
    bool, typer.Option("--trust-engine", help="Run an engine that was not built here, though engines are code.")
]


@app.command()
def classify(
    photos: Annotated[list[str], typer.Argument(help="Photos: files, folders, patterns, or - for standard input.")],
    model: Annotated[
        Path | None, typer.Option(help="A trained net, .onnx or .engine; the embedded net if not given.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Labels to show for each photo.")] = 5,
    views: Annotated[
        Literal["ten", "center"] | None,
        typer.Option(
            help="Average the paper's ten patches, or use the central one: ten times faster.",
            show_default="what the file does itself, else ten",
        ),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto: a CUDA GPU where one works, else the CPU.")
    ] = "auto",
    backend: _Backend = "auto",
    trust_engine: _TrustEngine = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, one line a photo.")] = False,
) -> None:
    """Name what photos show.

    A photo that can't be read gets one line on standard error; the others go on. Exit code 1 if some failed, 3 if all.
    """
    from alexnet_infer.commands.classify import run

    raise typer.Exit(
        run(
            photos,
            model=model,
            top=top,
            views=views,
            device=device,
            runtime=backend,
            trust_engine=trust_engine,
            as_json=as_json,
        )
    )


evaluation = typer.Typer(invoke_without_command=True, subcommand_metavar="[merge]", no_args_is_help=False)
app.add_typer(evaluation, name="eval")

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
            "--model", "--models", help="Trained nets, to be averaged; repeat the option.", show_default=False
        ),
    ] = None,
    views: Annotated[
        Literal["ten", "center"], typer.Option(help="The paper's ten patches, or the central one.")
    ] = "ten",
    layout: Annotated[
        str | None, typer.Option("--format", help="Layout of the data: tar, flat, folders, kaggle, parquet, caffe.")
    ] = None,
    split: Annotated[Literal["validation", "train"], typer.Option(help="Which images of the set.")] = "validation",
    limit: Annotated[int | None, typer.Option(help="Only a stratified sample of so many images.")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the nets run.")] = "auto",
    backend: _Backend = "auto",
    trust_engine: _TrustEngine = False,
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


@app.command()
def export(
    model: Annotated[
        list[Path] | None, typer.Argument(help="Trained nets; the embedded one if not given.", show_default=False)
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write an ONNX file: the default without --trt.")] = False,
    trt: Annotated[bool, typer.Option("--trt", help="Build a TensorRT engine.")] = False,
    flavor: Annotated[
        Literal["tensorrt", "rtx"] | None,
        typer.Option(help="Of the engine; rtx needs no GPU to build.", show_default="tensorrt"),
    ] = None,
    ensemble: Annotated[
        int | None, typer.Option(help="So many nets and their mean in one file.", show_default=False)
    ] = None,
    precision: Annotated[Literal["fp32", "fp16", "int8"], typer.Option(help="Of weights and activations.")] = "fp32",
    views: Annotated[
        Literal["none", "center", "ten"],
        typer.Option(help="Views that the file cuts out of uint8 images itself; none: it takes patches."),
    ] = "none",
    batch: Annotated[
        str, typer.Option(metavar="MIN,OPT,MAX", help="Images (patches, without views) a call; one number: always so.")
    ] = "1,8,64",
    lrn: Annotated[
        Literal["op", "conv", "plugin"] | None,
        typer.Option(
            help="ONNX's node, a convolution (fastest in ONNX Runtime on a CPU), or our TensorRT plugin.",
            show_default="conv; with --trt op",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The folder to write to.", show_default="named after the net")
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="Images to measure int8's ranges on: a labelled set, or a folder of photos.")
    ] = None,
    calibration_images: Annotated[int | None, typer.Option(help="So many of them.", show_default="300")] = None,
    calibration_method: Annotated[
        Literal["percentile", "entropy", "minmax"] | None,
        typer.Option(help="Where ranges are cut off.", show_default="percentile"),
    ] = None,
    keep_float: Annotated[
        list[str] | None, typer.Option(help="A layer that int8 leaves in float; repeat the option.", show_default=False)
    ] = None,
    int8_for: Annotated[
        Literal["cpu", "tensorrt"] | None,
        typer.Option(help="Which runtimes int8 is for.", show_default="cpu; with --trt tensorrt"),
    ] = None,
    workspace: Annotated[
        str | None, typer.Option(help="GPU memory for a layer, as in 2GiB.", show_default="all")
    ] = None,
    optimization_level: Annotated[
        int | None, typer.Option(help="0 builds fast, 5 runs fast.", show_default="TensorRT's own, 3")
    ] = None,
    compute_capability: Annotated[
        str | None, typer.Option(help="GPUs that an rtx engine is for, as in 8.6,8.9,12.0.", show_default="all")
    ] = None,
    triton: Annotated[
        Path | None, typer.Option(help="Put the file into this model repository of Triton Inference Server, too.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare what was written with the nets, on real images.")
    ] = True,
    data: Annotated[
        Path | None, typer.Option(help="Compare on this labelled set.", show_default="the example photos")
    ] = None,
    photo: Annotated[
        list[str] | None, typer.Option(help="Compare on these photos; repeat the option.", show_default=False)
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Compare on so many images of the set.", show_default="all")] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Largest probability difference allowed.", show_default="1e-5, fp16 0.01, int8 0.25"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Write a net as ONNX or as a TensorRT engine, and show that it gives the same answers.

    Exit code 1 when a file differs from its nets by more than the tolerance.
    """
    from alexnet_infer.commands.export import make_request, make_verification, run

    request = make_request(
        models=model or [],
        ensemble=ensemble,
        onnx=onnx,
        trt=trt,
        flavor=flavor,
        batch=batch,
        lrn=lrn,
        calibrate=calibrate,
        images=calibration_images,
        method=calibration_method,
        keep_float=keep_float or [],
        workspace=workspace,
        optimization_level=optimization_level,
        capabilities=compute_capability,
        precision=precision,
        views=views,
        int8_for=int8_for,
        out=out,
    )
    verification = make_verification(verify, data, photo or [], limit, tolerance)
    raise typer.Exit(run(request, verification, triton, as_json=as_json))


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="The reference: a trained net, .onnx or .engine.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="What is compared with it.")],
    photos: Annotated[
        list[str] | None, typer.Argument(help="Photos: files, folders, patterns.", show_default="example photos")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="A labelled set instead.", show_default=False)] = None,
    limit: Annotated[int | None, typer.Option(help="Only a stratified sample of so many of its images.")] = None,
    split: Annotated[Literal["validation", "train"], typer.Option(help="Which images of the set.")] = "validation",
    layout: Annotated[str | None, typer.Option("--format", help="Layout of the set.", show_default=False)] = None,
    views: Annotated[
        Literal["ten", "center"] | None, typer.Option(help="Views.", show_default="a file's own, else ten")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Largest probability difference allowed.", show_default="1e-5, fp16 0.01, int8 0.25"),
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the nets run.")] = "auto",
    backend: _Backend = "auto",
    trust_engine: _TrustEngine = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show whether two model files give the same answers, on real images.

    Exit code 1 when a probability differs by more than the tolerance.
    """
    from alexnet_infer.commands.compare import run

    raise typer.Exit(
        run(
            a,
            b,
            tolerance=tolerance,
            data=data,
            photos=photos or [],
            limit=limit,
            split=split,
            layout=layout,
            views=views,
            device=device,
            runtime=backend,
            trust_engine=trust_engine,
            as_json=as_json,
        )
    )


@app.command()
def info(
    net: Annotated[str, typer.Argument(help="A preset's name or a model file; the embedded net if not given.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show a net's layers, parameters and multiply-adds, and where a trained net comes from."""
    from alexnet_infer.commands.info import run

    run(net, as_json=as_json)


@app.command()
def filters(
    model: Annotated[Path | None, typer.Argument(help="A trained net; the embedded one if not given.")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The picture to write, a PNG.")] = Path("kernels.png"),
) -> None:
    """Draw a net's first kernels, as in the paper's figure 3."""
    from alexnet_infer.commands.filters import run

    run(model, out)


data_sets = typer.Typer(no_args_is_help=True)
app.add_typer(data_sets, name="data", help="Labelled image sets.")


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
        Path | None, typer.Option(help="Run a sample through this net, to see permuted labels.", show_default=False)
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


def main() -> None:
    """The `alexnet-infer` program. Every error that a user can cause becomes one line on stderr and its exit code."""
    # Imports make a hundred thousand objects and no garbage: looking for it, then and at the end, costs a sixth of the
    # time to a first label.
    gc.set_threshold(100_000)
    try:
        code = app(prog_name="alexnet-infer", standalone_mode=False)
        sys.stdout.flush()
        if code == 130:  # typer makes this of Ctrl-C, and says nothing
            _report("interrupted", code)
    except AlexNetInferError as error:
        code = _report(str(error), error.exit_code)
    except typer.TyperException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = _report("interrupted", 130)
    except BrokenPipeError:
        # The reader (head, say) has had enough. Python would complain when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    gc.freeze()
    sys.exit(code)


def _report(message: str, code: int) -> int:
    typer.echo(f"error: {message}" if code != 130 else message, err=True)
    return code
