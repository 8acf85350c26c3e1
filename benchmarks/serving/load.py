"""Throughput and latency of `alexnet-infer serve`, beside `eval`'s inner loop and a plain handler, interleaved."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_infer.decode import Squares, Timed, read_squares
from alexnet_infer.export.job import ExportRequest, export
from alexnet_infer.pipeline import Clock
from alexnet_infer.pipeline import run as run_pipeline
from alexnet_infer.predict import Net, finite
from alexnet_infer.preprocess import Rescaling
from alexnet_infer.reading import Decoded
from benchmarks.evaluation import photo
from benchmarks.serving.client import Exchange, Outcome, closed_loop, open_loop, post, run

BATCH = 16
"""`eval`'s."""

IMAGES = 64
"""Different images of a load."""

CONNECTIONS = 32
"""Enough for a full batch in the net and another one in the queue, with some on their way."""


@dataclass(frozen=True)
class Ready:
    """An image of `eval`'s loop that needs no file."""

    square: np.ndarray

    def squares(self, rescalings: set[Rescaling], timed: Timed = nullcontext) -> Squares:
        return dict.fromkeys(rescalings, self.square)


@dataclass(frozen=True)
class Encoded:
    """A photo of `eval`'s loop that needs no file, but is decoded."""

    content: bytes

    def squares(self, rescalings: set[Rescaling], timed: Timed = nullcontext) -> Squares:
        return read_squares(self.content, name="", rescalings=rescalings, timed=timed)


@dataclass
class Task:
    """What `eval` does with a net for each batch, without storing the probabilities."""

    net: Net
    done: int = 0

    def run(self, images: Sequence[Decoded], inputs: np.ndarray | None, clock: Clock) -> None:
        finite(self.net.mean_over_views(self.net.backend.infer(inputs), BATCH), "net")


def eval_rate(net: Net, images: Sequence[Ready | Encoded], seconds: float) -> float:
    """Return the images per second of `eval`'s inner loop."""
    began = time.perf_counter()
    count = 0

    def endless() -> Iterator[Ready | Encoded]:
        nonlocal count
        while time.perf_counter() - began < seconds or count % BATCH:
            yield images[count % len(images)]
            count += 1

    run_pipeline(endless(), [Task(net)], batch=BATCH)
    return count / (time.perf_counter() - began)


def squares_of(net: Net, count: int = IMAGES) -> np.ndarray:
    """Return random squares uint8 [count, S, S, 3]."""
    side = net.rescaling.size
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def tensor_exchanges(net: Net, model: str, squares: np.ndarray) -> list[Exchange]:
    """Return requests for one square each, in binary, with checks of the probabilities."""
    expected = net.probabilities(list(squares))
    return [
        Exchange(request=infer_request(model, square[None]), complaint=_difference_from(row))
        for square, row in zip(squares, expected, strict=True)
    ]


def infer_request(model: str, squares: np.ndarray) -> bytes:
    """Return a request of the Open Inference Protocol with binary tensors in both directions."""
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(squares.shape)}
    tensor["parameters"] = {"binary_data_size": squares.nbytes}
    output = {"name": "probabilities", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
    return post(
        f"/v2/models/{model}/infer",
        head + squares.tobytes(),
        Content_Type="application/octet-stream",
        Inference_Header_Content_Length=str(len(head)),
    )


def _difference_from(expected: np.ndarray) -> Callable[[bytes], str]:
    def complaint(body: bytes) -> str:
        """Runtimes sum in another order for another number of rows, so the last digits may differ."""
        found = np.frombuffer(body[-expected.nbytes :], "<f4")
        difference = np.abs(found - expected).max() if len(found) == len(expected) else np.inf
        return "" if difference < 1e-5 else f"probabilities differ by {difference:.2g}"

    return complaint


def photo_exchanges(net: Net, photos: Sequence[bytes]) -> list[Exchange]:
    """Return requests for the labels of photos, with checks of the first label."""

    def labelled(name: str) -> Callable[[bytes], str]:
        def complaint(body: bytes) -> str:
            found = json.loads(body)["labels"][0]["name"]
            return "" if found == name else f"{found} instead of {name}"

        return complaint

    return [
        Exchange(request=post("/v1/classify", data), complaint=labelled(net.classify(data, top=1)[0].name))
        for data in photos
    ]


def exported(model: Path, views: str, folder: Path) -> Path:
    """Export a net to an ONNX file that takes squares."""
    export(ExportRequest(models=(model,), out=folder, views=views, lrn="conv"))
    (path,) = folder.glob("*.onnx")
    return path


def throughput(
    servers: Mapping[str, int],
    exchanges: Sequence[Exchange],
    loop: Callable[[float], float],
    seconds: float,
    rounds: int,
) -> dict[str, Any]:
    """Return the rates of `loop`, which is `eval`'s, and of the servers (name -> port), interleaved.

    The ratios are medians of the rounds' ratios.
    """
    rates: dict[str, list[float]] = {name: [] for name in ("eval", *servers)}
    wrong: dict[str, int] = dict.fromkeys(servers, 0)
    for number in range(rounds + 1):
        for name in rates:
            if name == "eval":
                rate = loop(seconds)
            else:
                outcome = saturated(servers[name], exchanges, seconds)
                rate, wrong[name] = outcome.rate, wrong[name] + outcome.failed + len(outcome.complaints)
            if number:  # the first round warms up
                rates[name].append(rate)
    return {
        "images_per_second": {name: statistics.median(values) for name, values in rates.items()},
        "over_eval": {
            name: statistics.median(a / b for a, b in zip(rates[name], rates["eval"], strict=True)) for name in servers
        },
        "rounds": rates,
        "wrong_or_failed": wrong,
    }


def saturated(port: int, exchanges: Sequence[Exchange], seconds: float) -> Outcome:
    return run(closed_loop(port, exchanges, connections=CONNECTIONS, seconds=seconds))


def latency(
    servers: Mapping[str, int], exchanges: Sequence[Exchange], full: float, seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """Return p50 and p99 of each server at 50 and 80 % of `full` requests per second, interleaved."""
    rows = []
    for load in (0.5, 0.8):
        outcomes: dict[str, list[Outcome]] = {name: [] for name in servers}
        for seed in range(rounds):
            for name, port in servers.items():
                outcomes[name].append(run(open_loop(port, exchanges, rate=load * full, seconds=seconds, seed=seed)))
        for name, own in outcomes.items():
            merged = Outcome(latencies=[latency for outcome in own for latency in outcome.latencies])
            rows.append(
                {
                    "server": name,
                    "load": load,
                    "requests_per_second": load * full,
                    "answers_per_second": statistics.median(outcome.rate for outcome in own),
                    "p50_ms": merged.percentile(50),
                    "p99_ms": merged.percentile(99),
                    "answers": len(merged.latencies),
                    "failed": sum(outcome.failed for outcome in own),
                    "wrong": sum(len(outcome.complaints) for outcome in own),
                }
            )
    return rows


def synthetic_photos(count: int = 24) -> list[bytes]:
    """Return JPEGs of 500 x 375 pixels, the mean size of ILSVRC's."""
    return [photo(seed) for seed in range(count)]
