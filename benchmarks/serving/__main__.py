"""Load test of `alexnet-infer serve` on the loopback interface.

    python -m benchmarks.serving throughput [--net NAME] [--views center|ten] [--seconds 5] [--rounds 3]
    python -m benchmarks.serving latency [the same]      p50 and p99 at 50 and 80 % of the highest throughput
    python -m benchmarks.serving photos [the same]       POST /v1/classify with JPEGs of 500 x 375 pixels
    python -m benchmarks.serving memory [--requests 100000]
    python -m benchmarks.serving kill                    kill -9 and a restart, and SIGTERM, each under load
    python -m benchmarks.serving hostile [--cases 10000] [--seed 0]

The servers are separate processes; the client shares the machine's cores with them. `throughput` and `latency` compare
with `eval`'s inner loop on the same net and images, without files, and with a plain FastAPI handler around ONNX Runtime
(benchmarks/serving/peer.py), in interleaved rounds. They need `pip install fastapi` beside the extra [serve]. Requests
have one image, as a binary tensor. The other parts use a tiny net, so that most of the time is spent in the server.
Every answer is checked: probabilities with those of `Net.probabilities`, labels with those of `classify`.

Exit codes: 0 success; 1 a wrong answer, or a fault under hostile requests or signals.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexnet_infer.nets import find_net, load
from alexnet_infer.predict import Net
from benchmarks.serving import endurance
from benchmarks.serving.load import (
    Encoded,
    Ready,
    eval_rate,
    exported,
    latency,
    photo_exchanges,
    squares_of,
    synthetic_photos,
    tensor_exchanges,
    throughput,
)
from benchmarks.serving.servers import plain_handler, served

OURS, PEER = "alexnet-infer serve", "plain handler"
NAME = "net"


def _opened(options: argparse.Namespace) -> tuple[Net, tuple[object, ...]]:
    """The net, and the arguments of `serve` for it. Both run in ONNX Runtime, as the plain handler does."""
    net = load(options.net, views=options.views, device="cpu", backend="onnxruntime")
    arguments = (f"{NAME}={find_net(options.net)}", "--views", options.views, "--device", "cpu")
    return net, (*arguments, "--backend", "onnxruntime", *options.serve)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Throughput of both servers and, for `latency`, their latencies at two loads."""
    net, arguments = _opened(options)
    squares = squares_of(net)
    exchanges = tensor_exchanges(net, NAME, squares)
    images = [Ready(square) for square in squares]
    with tempfile.TemporaryDirectory() as folder:
        file = exported(find_net(options.net), options.views, Path(folder))
        with served(*arguments) as ours, plain_handler(file) as peer:
            ports = {OURS: ours.port, PEER: peer.port}
            result = throughput(ports, exchanges, lambda s: eval_rate(net, images, s), options.seconds, options.rounds)
            if options.part == "latency":
                full = result["images_per_second"][OURS]
                result["latency"] = latency(ports, exchanges, full, options.seconds, options.rounds)
    return result


def photos(options: argparse.Namespace) -> dict[str, Any]:
    """Throughput with photos, beside `eval`'s loop with the same photos in memory."""
    net, arguments = _opened(options)
    encoded = synthetic_photos()
    with served(*arguments) as ours:
        return throughput(
            {OURS: ours.port},
            photo_exchanges(net, encoded),
            lambda s: eval_rate(net, [Encoded(data) for data in encoded], s),
            options.seconds,
            options.rounds,
        )


def _wrong(result: dict[str, Any]) -> bool:
    """Whether a part found a fault."""
    answers = [*result.get("wrong_or_failed", {}).values(), result.get("wrong", 0), result.get("in_flight_lost", 0)]
    rows: Sequence[dict[str, Any]] = result.get("latency", ())
    return any(answers) or any(row["wrong"] for row in rows) or bool(result.get("faults"))


def _printed(result: dict[str, Any], indent: str = "") -> None:
    for key, value in result.items():
        if isinstance(value, dict):
            print(f"{indent}{key}:")
            _printed(value, indent + "    ")
        elif isinstance(value, list) and value and isinstance(value[0], dict | str):
            print(f"{indent}{key}:")
            for row in value:
                cells = [row] if isinstance(row, str) else [f"{k} {_short(v)}" for k, v in row.items()]
                print(f"{indent}    {', '.join(cells)}")
        else:
            values = value if isinstance(value, list) else [value]
            print(f"{indent}{key!s:24} {', '.join(map(_short, values))}")


def _short(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("throughput", "latency", "photos", "memory", "kill", "hostile"))
    parser.add_argument("--net", default="alexnet-64-0", help="default: %(default)s")
    parser.add_argument("--views", choices=("center", "ten"), default="center", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (default: %(default)g)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--serve", nargs="+", default=[], metavar="OPTION", help="further options, as in max-batch=16")
    parser.add_argument("--requests", type=int, default=100_000, help="default: %(default)s")
    parser.add_argument("--cases", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.serve = [f"--{option}" for option in options.serve]
    match options.part:
        case "throughput" | "latency":
            results = [compare(options)]
        case "photos":
            results = [photos(options)]
        case "memory":
            results = [endurance.memory(options.requests)]
        case "kill":
            results = [endurance.killed(), endurance.terminated()]
        case "hostile":
            results = [endurance.hostile(options.cases, options.seed)]
    for result in results:
        print(json.dumps(result)) if options.json else _printed(result)
    raise SystemExit(any(map(_wrong, results)))


if __name__ == "__main__":
    main()
