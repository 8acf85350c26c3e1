"""`alexnet-infer serve`: its options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from alexnet_infer.cli.options import HOW, RUNTIME, Backend, Device, TrustEngine, net
from alexnet_infer.errors import shown
from alexnet_infer.help import WHAT, argument, option

SERVE_EXAMPLES = """
Examples:
  alexnet-infer serve
  alexnet-infer serve bvlc-alexnet small=alexnet-64-0 --port 0
  alexnet-infer serve --ensemble 5 --views center --max-batch 16

  curl --data-binary @photo.jpg http://127.0.0.1:8000/v1/classify
"""

LIMITS = "Limits"
"""Title of a panel."""

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


def _named_net(text: str) -> tuple[str | None, Path]:
    from alexnet_infer.serve.opening import split_name

    name, path = split_name(text)
    return name, net(path)


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,12})([kMG]?)B?", str(text))
    if match is None:
        raise typer.BadParameter(f"{shown(text)}: expected bytes, as in 500k, 32M or 32000000")
    return int(match[1]) * _UNITS[match[2]]


def serve(
    nets: Annotated[
        list[str] | None,
        argument(
            "[NET]...",
            "Net names, model files, .onnx or .engine; NAME=NET for another name.",
            default="best bundled net",
            parser=_named_net,
        ),
    ] = None,
    ensemble: Annotated[
        int | None,
        option(WHAT, "Average N of these nets, or N bundled ones, as one model.", min=1, metavar="N", default="1 each"),
    ] = None,
    views: Annotated[
        Literal["ten", "center"] | None,
        option(HOW, "Average the paper's ten views, or use the center only.", default="the file's, or ten"),
    ] = None,
    max_batch: Annotated[
        int | None, option(HOW, "Images per call of a net.", metavar="N", default="8; on a GPU: 64")
    ] = None,
    max_delay_ms: Annotated[
        float, option(HOW, "Milliseconds that an image waits for others while its net is idle.", metavar="X")
    ] = 1.0,
    host: Annotated[
        str, option(RUNTIME, "Address. Others than 127.0.0.1 let other machines in.", metavar="HOST")
    ] = "127.0.0.1",
    port: Annotated[int, option(RUNTIME, "Port; 0 for a free one.", min=0, max=65535, metavar="N")] = 8000,
    workers: Annotated[
        int | None, option(RUNTIME, "Threads that decode photos.", min=1, max=1024, metavar="N", default="one per core")
    ] = None,
    device: Device = "auto",
    backend: Backend = "auto",
    trust_engine: TrustEngine = False,
    queue: Annotated[int, option(LIMITS, "Images that wait for a net; more get status 503.", metavar="N")] = 256,
    max_body: Annotated[
        int | None,
        option(LIMITS, "Bytes of a request, also when decompressed.", parser=_size, metavar="SIZE", default="32M"),
    ] = None,
    max_pixels: Annotated[int, option(LIMITS, "Pixels of a photo.", metavar="N")] = 33_000_000,
    timeout: Annotated[
        float, option(LIMITS, "Seconds for a request to arrive, and then to be answered.", metavar="S")
    ] = 30.0,
) -> None:
    """Answer requests over HTTP: photos in, labels out, and the Open Inference Protocol (KServe v2) for programs.

    `GET /docs` describes the routes. Requests of all clients are batched. SIGTERM and Ctrl-C end the server after it
    has answered what it accepted. There is no password.
    """
    options = locals()  # must come first: the arguments, by their names
    from alexnet_infer.commands.serve import run

    names = ("max_batch", "max_delay_ms", "queue", "max_body", "max_pixels", "timeout")
    limits = {name: options.pop(name) for name in names}
    raise typer.Exit(run(options.pop("nets") or [], limits=limits, **options))
