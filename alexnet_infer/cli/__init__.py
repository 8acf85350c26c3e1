"""The command line: parse, dispatch, exit codes. The work is done in `alexnet_infer.commands`."""

from __future__ import annotations

import gc
import io
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from alexnet_infer import __version__
from alexnet_infer.cli.evaluation import data_sets, evaluation
from alexnet_infer.cli.exporting import benchmark, compare, export
from alexnet_infer.cli.options import Backend, TrustEngine, net
from alexnet_infer.cli.published import import_, models, pull
from alexnet_infer.errors import AlexNetInferError, one_line

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


@app.command()
def classify(
    photos: Annotated[list[str], typer.Argument(help="Photos: files, folders, patterns, or - for standard input.")],
    model: Annotated[
        Path | None,
        typer.Option(
            parser=net,
            metavar="<net>",
            help="A trained net, .onnx or .engine, or the name of a published net; the embedded net if not given.",
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Labels to show for each photo.", show_default="5, or all that there are")
    ] = None,
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
    backend: Backend = "auto",
    trust_engine: TrustEngine = False,
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


app.add_typer(evaluation, name="eval")
app.command()(export)
app.command()(compare)
app.command()(benchmark)
app.command()(models)
app.command()(pull)
app.command("import")(import_)


@app.command()
def info(
    net: Annotated[
        str, typer.Argument(help="A preset's name, a model file, .onnx or .engine; the embedded net if not given.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show a net's layers, parameters and multiply-adds, and where a trained net comes from."""
    from alexnet_infer.commands.info import run

    run(net, as_json=as_json)


@app.command()
def filters(
    model: Annotated[
        Path | None,
        typer.Argument(parser=net, metavar="[NET]", help="A trained net; the embedded one if not given."),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The picture to write, a PNG.")] = Path("kernels.png"),
) -> None:
    """Draw a net's first kernels, as in the paper's figure 3."""
    from alexnet_infer.commands.filters import run

    run(model, out)


app.add_typer(data_sets, name="data", help="Labelled image sets.")


def main() -> None:
    """The `alexnet-infer` program. Every error that a user can cause becomes one line on stderr and its exit code."""
    # Imports make a hundred thousand objects and no garbage: looking for it, then and at the end, costs a sixth of the
    # time to a first label.
    gc.set_threshold(100_000)
    _prepare_streams()
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
    except BrokenPipeError:  # the reader (head, say) has had enough
        code = 1
    except OSError as error:  # a full disk under stdout, say
        code = _report(one_line(error), 2)
    _flush()
    gc.freeze()
    sys.exit(code)


def _prepare_streams() -> None:
    """Streams that were closed become empty ones, and what a stream's encoding lacks is written as an escape."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, Path(os.devnull).open(mode, errors="backslashreplace"))  # noqa: SIM115 (for good)
        elif isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def _flush() -> None:
    """Python would complain when it flushes, at its end, what stdout doesn't take."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(message: str, code: int) -> int:
    typer.echo(f"error: {message}" if code != 130 else message, err=True)
    return code
