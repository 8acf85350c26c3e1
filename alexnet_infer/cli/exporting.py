"""`alexnet-infer export` and `alexnet-infer compare`: files for other runtimes, and whether they are the same net."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from alexnet_infer.cli.options import Backend, TrustEngine, net


def export(
    model: Annotated[
        list[Path] | None,
        typer.Argument(
            parser=net,
            metavar="[NET]...",
            help="Trained nets, or names of published ones; the embedded one if not given.",
            show_default=False,
        ),
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
    calibration_images: Annotated[int | None, typer.Option(help="So many of them.", show_default="100")] = None,
    calibration_method: Annotated[
        Literal["percentile", "entropy", "minmax"] | None,
        typer.Option(help="Where ranges are cut off.", show_default="entropy"),
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
        typer.Option(help="Largest probability difference allowed.", show_default="1e-5, fp16 0.01, int8 0.15"),
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


def benchmark(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            parser=net,
            metavar="[NET]...",
            help="Trained nets, .onnx, .engine, or names of published nets; the embedded net if not given.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[str, typer.Option(metavar="N,N,...", help="Images (or patches) a call.")] = "1,8,64",
    backend: Annotated[
        Literal["all", "auto", "onnxruntime", "openvino"], typer.Option(help="all: every one that is installed.")
    ] = "all",
    views: Annotated[
        Literal["none", "center", "ten"] | None,
        typer.Option(help="none: patches, without cutting them.", show_default="a file's own, else center"),
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the nets run.")] = "auto",
    seconds: Annotated[float, typer.Option(help="Measured for each row.")] = 2.0,
    plot: Annotated[Path | None, typer.Option(help="Draw the throughput to this PNG.")] = None,
    trust_engine: TrustEngine = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure latency and throughput of nets here, against the first row and against this machine's limit."""
    from alexnet_infer.benchmark.run import Request, parse_batches
    from alexnet_infer.commands.benchmark import run

    request = Request(
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
    a: Annotated[Path, typer.Argument(parser=net, metavar="A", help="The reference: a trained net, .onnx or .engine.")],
    b: Annotated[Path, typer.Argument(parser=net, metavar="B", help="What is compared with it.")],
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
        typer.Option(help="Largest probability difference allowed.", show_default="1e-5, fp16 0.01, int8 0.15"),
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the nets run.")] = "auto",
    backend: Backend = "auto",
    trust_engine: TrustEngine = False,
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
