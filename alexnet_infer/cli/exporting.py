"""`alexnet-infer export`, `benchmark` and `compare`: files for other runtimes, their speed, and their agreement."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from alexnet_infer.cli.options import (
    HOW,
    OUTPUT,
    RUNTIME,
    AsJson,
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
from alexnet_infer.help import WHAT, argument, option

INT8, TENSORRT, VERIFY = "With --precision int8", "With --trt", "Verify"

EXPORT_EXAMPLES = """
Examples:
  alexnet-infer export --views ten
  alexnet-infer export bvlc-alexnet --trt --precision fp16 --batch 1,8,64
"""

BENCHMARK_EXAMPLES = """
Examples:
  alexnet-infer benchmark --batch 1,16
  alexnet-infer benchmark alexnet-64-0 net.onnx --seconds 5 --plot speed.png
"""

COMPARE_EXAMPLES = """
Examples:
  alexnet-infer compare bvlc-alexnet bvlc-alexnet-int8 holiday/
  alexnet-infer compare net.safetensors net.engine --data ILSVRC2012 --limit 500
  alexnet-infer compare net int8.onnx fp16.onnx --data SET --max-drop top1=0.5
"""

FOR_WEB = ("model", "web", "runtime", "precision", "as_json")
"""The parameters of `export` that apply to a web page."""

FOR_LAYERS = ("a", "b", "photos", "data", "layout", "split", "limit", "views", "layers", "as_json")
"""The parameters of `compare` that apply to `--layers`."""

_MaxDrop = Annotated[
    list[str] | None,
    option(
        VERIFY,
        "Largest rise of the top1 or top5 error in points, on --data; repeatable.",
        metavar="METRIC=X",
        default=False,
    ),
]
_Tolerance = Annotated[
    float | None,
    option(VERIFY, "Largest probability difference allowed.", metavar="X", default="1e-5; fp16: 0.01; int8: 0.15"),
]


def export(
    context: typer.Context,
    model: Annotated[
        list[Path] | None, argument("[NET]...", "Names or files.", parser=net, default="best bundled net")
    ] = None,
    ensemble: Annotated[
        int | None, option(WHAT, "Average N nets in one file.", metavar="N", default="all given")
    ] = None,
    onnx: Annotated[bool, option(WHAT, "Write an ONNX file. [default: on without --trt]", "--onnx")] = False,
    trt: Annotated[bool, option(WHAT, "Build a TensorRT engine.", "--trt")] = False,
    precision: Annotated[
        Literal["fp32", "fp16", "int8"] | None,
        option(HOW, "fp32, fp16 or int8.", metavar="TYPE", default="fp32; --web: fp16"),
    ] = None,
    views: Annotated[
        Literal["none", "center", "ten"], option(HOW, "Views that the file cuts from an image; none: it takes patches.")
    ] = "none",
    outputs: Annotated[
        str | None, option(HOW, "Layers to return.", metavar="NAME,NAME,...", default="probabilities")
    ] = None,
    batch: Annotated[
        str, option(HOW, "Images (or patches) per call; one number: fixed.", metavar="MIN,OPT,MAX")
    ] = "1,8,64",
    lrn: Annotated[
        Literal["op", "conv", "plugin"] | None,
        option(
            HOW,
            "op: ONNX operator; conv: convolution, the fastest in ONNX Runtime on a CPU; plugin: TensorRT plugin.",
            default="conv; with --trt: op",
        ),
    ] = None,
    calibrate: Annotated[
        Path | None, option(INT8, "Calibration images: labelled set or photos.", metavar="PATH", default=False)
    ] = None,
    calibration_images: Annotated[int | None, option(INT8, "Images to use.", metavar="N", default="100")] = None,
    calibration_method: Annotated[
        Literal["percentile", "entropy", "minmax"] | None,
        option(INT8, "entropy, percentile or minmax.", metavar="NAME", default="entropy"),
    ] = None,
    keep_float: Annotated[
        list[str] | None,
        option(INT8, "Layer to keep in float, or auto.", metavar="LAYER", default=False),
    ] = None,
    int8_for: Annotated[
        Literal["cpu", "tensorrt"] | None, option(INT8, "Runtime.", default="cpu; with --trt: tensorrt")
    ] = None,
    flavor: Annotated[
        Literal["tensorrt", "rtx"] | None,
        option(TENSORRT, "rtx: TensorRT-RTX, which builds without a GPU.", default="tensorrt"),
    ] = None,
    workspace: Annotated[
        str | None, option(TENSORRT, "GPU memory per layer, as in 2GiB.", metavar="SIZE", default="all")
    ] = None,
    optimization_level: Annotated[
        int | None, option(TENSORRT, "0 (fast build) to 5 (fast engine).", metavar="N", default="3")
    ] = None,
    compute_capability: Annotated[
        str | None,
        option(TENSORRT, "GPUs that an rtx engine supports.", metavar="X,Y", default="8.0,8.6,8.9,12.0,12.1"),
    ] = None,
    verify: Annotated[
        bool, option(VERIFY, "Compare files with their nets on real images.", "--verify/--no-verify")
    ] = True,
    data: Annotated[Path | None, option(VERIFY, "Labelled set.", metavar="PATH", default="example photos")] = None,
    photo: Annotated[
        list[str] | None,
        option(VERIFY, "File, folder, pattern or URL; repeatable.", metavar="PATH", default=False),
    ] = None,
    limit: Annotated[int | None, option(VERIFY, "Compare on N images of the set.", metavar="N", default="all")] = None,
    tolerance: _Tolerance = None,
    max_drop: _MaxDrop = None,
    out: Annotated[
        Path | None, option(OUTPUT, "Folder to write to.", "-o", "--out", metavar="DIR", default="named after the net")
    ] = None,
    web: Annotated[
        Path | None, option(OUTPUT, "Folder for a web page that runs the net instead.", metavar="DIR", default=False)
    ] = None,
    runtime: Annotated[
        Path | None, option(OUTPUT, "onnxruntime-web for --web.", metavar="DIR", default="from a CDN")
    ] = None,
    triton: Annotated[
        Path | None, option(OUTPUT, "Triton model repository to add the file to.", metavar="DIR", default=False)
    ] = None,
    triton_input: Annotated[
        Literal["squares", "jpeg"],
        option(OUTPUT, "What --triton's models take; jpeg: any image file.", "--input"),
    ] = "squares",
    passport: Annotated[
        Path | None, option(OUTPUT, "Report on the files: .html or .json.", metavar="FILE", default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Export nets to ONNX, TensorRT or a web page, and verify the outputs.

    Exits with 1 if a file differs from its nets by more than the tolerance, if an error may have risen by more than
    --max-drop, or if an image cannot be read.
    """
    options = locals()  # must come first: the arguments, by their names
    del options["context"]
    if web is not None:
        _check_given(context, FOR_WEB, "has no effect on a web page; leave it out, or --web")
        from alexnet_infer.commands.export_web import run

        raise typer.Exit(run(**{name: options[name] for name in FOR_WEB}))
    if runtime is not None:
        raise UsageError(f"--runtime {runtime}: applies to web pages only; add --web DIR")
    from alexnet_infer.commands.export import export_files

    del options["web"], options["runtime"]
    raise typer.Exit(export_files(**options, command=shlex.join(["alexnet-infer", *sys.argv[1:]])))


def benchmark(
    models: Annotated[
        list[object] | None,
        argument(
            "[NET]...",
            "Names of nets, model files, .onnx, .engine or servers.",
            parser=net_or_server,
            default="best bundled net",
        ),
    ] = None,
    batch: Annotated[str, option(HOW, "Batch sizes: images (or patches) per call.", metavar="N,N,...")] = "1,8,64",
    views: Annotated[
        Literal["none", "center", "ten"] | None,
        option(HOW, "Views per image; none: time patches.", default="the file's, or center"),
    ] = None,
    seconds: Annotated[float, option(HOW, "Measuring time per row.", metavar="SECONDS")] = 2.0,
    device: Device = "auto",
    backend: Annotated[
        Literal["all", "auto", "onnxruntime", "openvino", "reference"],
        option(RUNTIME, "all (every installed one), auto, onnxruntime, openvino or reference.", metavar="NAME"),
    ] = "all",
    trust_engine: TrustEngine = False,
    plot: Annotated[
        Path | None, option(OUTPUT, "Draw the throughput to this PNG.", metavar="FILE", default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure latency and throughput.

    Each row is compared with the first row and with the limit of this machine.
    """
    from alexnet_infer.benchmark.measure import BenchmarkRequest, parse_batches
    from alexnet_infer.commands.benchmark import run

    request = BenchmarkRequest(
        models=tuple(models or ()),
        batches=parse_batches(batch),
        backend=backend,
        views=views,
        device=device,
        seconds=seconds,
        trust_engine=trust_engine,
    )
    run(request, as_json=as_json, plot=plot)


def compare(
    context: typer.Context,
    a: Annotated[
        object, argument("A", "Reference: net name, model file, .onnx, .engine or server.", parser=net_or_server)
    ],
    b: Annotated[object, argument("B", "Net to compare with it.", parser=net_or_server)],
    photos: Annotated[
        list[str] | None,
        argument(
            "[PHOTO]...",
            "Files, folders, patterns or http(s) URLs. With --data: more nets to compare with A.",
            default="example photos",
        ),
    ] = None,
    data: Annotated[
        Path | None, option(WHAT, "Use this labelled set instead of photos.", metavar="PATH", default=False)
    ] = None,
    layout: Layout = None,
    split: Split = "validation",
    limit: Annotated[
        int | None, option(WHAT, "Use a stratified sample of N images.", metavar="N", default="all")
    ] = None,
    views: Annotated[
        Literal["ten", "center"] | None, option(HOW, "Views to average.", default="the file's, or ten")
    ] = None,
    layers: Annotated[bool, option(HOW, "Compare layer by layer, worst first.", "--layers")] = False,
    tolerance: _Tolerance = None,
    max_drop: _MaxDrop = None,
    device: Device = "auto",
    backend: Backend = "auto",
    trust_engine: TrustEngine = False,
    as_json: AsJson = False,
) -> None:
    """Compare the outputs of nets on real images.

    Exits with 1 if a probability differs by more than the tolerance, if an error may have risen by more than --max-drop
    (by its 95 % interval), or if an image cannot be read.
    """
    options = locals()  # must come first: the arguments, by their names
    del options["context"], options["layers"]
    if layers:
        from alexnet_infer.commands.compare_layers import run as run_layers

        _check_given(context, FOR_LAYERS, "has no effect with --layers; leave out one of the two")
        if data is not None and photos:
            raise UsageError(f"{photos[0]}: --layers compares two nets, on photos or on --data; leave it out")
        for served in (a, b):
            if not isinstance(served, Path):
                raise UsageError(f"{served}: a server, which returns only probabilities; leave out --layers")
        raise typer.Exit(run_layers(**{name: options[name] for name in FOR_LAYERS if name != "layers"}))
    from alexnet_infer.commands.compare import check_no_photos, run

    if data is not None:
        check_no_photos(data, photos or ())
        options["more"], options["photos"] = [net_or_server(name) for name in photos or ()], None
    raise typer.Exit(run(**options))


def _check_given(context: typer.Context, allowed: Sequence[str], reason: str) -> None:
    """Raise UsageError if the user set another parameter than those `allowed`."""
    for parameter, name in given(context).items():
        if parameter not in allowed:
            raise UsageError(f"{name}: {reason}")
