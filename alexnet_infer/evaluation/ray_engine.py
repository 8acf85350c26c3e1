"""The same evaluation on a Ray cluster: workers compute parts of the images, and this process keeps what they send.

Parts are whole batches of the single machine's, and what comes back is appended in their order to the same predictions
on disk. So a run can be stopped, resumed with or without Ray, ensembled anew and merged, and its result is the single
machine's to the last digit. Ray Data does the scheduling, and repeats the part of a worker that dies.

Nodes must have this version of the package and see the data under the same path. The nets are sent to them.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from alexnet_infer import __version__, errors
from alexnet_infer.backends import Device, Runtime
from alexnet_infer.datasets import LabelledImages, Split, open_images
from alexnet_infer.errors import AlexNetInferError, BackendError, UnreadableInputError, one_line, shown
from alexnet_infer.evaluation.pipeline import Clock, predict
from alexnet_infer.evaluation.predictions import About, Predictions, Row
from alexnet_infer.predict import Net, load

PART = 8
"""Batches in a part: enough to keep a worker's cores busy, and few enough to lose when a run is stopped."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all parts have in common."""

    root: Path
    split: Split
    layout: str
    device: Device
    threads: int
    """Threads that decode in each worker."""
    abouts: tuple[About, ...]
    models: tuple[tuple[str, Any], ...]
    """(Suffix, where Ray has the bytes) of the nets' files."""
    version: str = __version__
    cores: int = os.cpu_count() or 1
    """Of the machine that must get the same probabilities."""


def predict_on_ray(
    data: LabelledImages,
    positions: Sequence[int],
    nets: Sequence[tuple[Path, Predictions]],
    *,
    address: str | None = None,
    workers: int | None = None,
    clock: Clock | None = None,
    on_images: Callable[[int], None] = lambda count: None,
) -> None:
    """Does what `pipeline.predict` does, on a cluster. `nets`: each net's file and its predictions.

    `address`: the cluster's; without it the one that Ray finds ($RAY_ADDRESS, or one that runs here), or else one on
    this machine for the time being. `workers`: cores of each worker; by default those of this machine, or a GPU's share
    of its node. Raises BackendError when Ray, the cluster or room on it is missing or a node differs from this machine,
    and the errors of `open_images` and `load` that nodes have.
    """
    ray = _import_ray()
    predictions = [one for _, one in nets]
    clock, done = clock or Clock(), min(one.done for one in predictions)
    on_images(done)
    with _cluster(ray, address):
        gpus = int("CUDA" in predictions[0].about.net["backend"])
        cpus, most = _room([node["Resources"] for node in ray.nodes() if node["Alive"]], workers, gpus)
        work = Work(
            root=data.root.absolute(),
            split=data.split,
            layout=data.layout,
            device="cuda" if gpus else "cpu",
            threads=cpus,
            abouts=tuple(one.about for one in predictions),
            models=tuple((path.suffix, ray.put(path.read_bytes())) for path, _ in nets),
        )
        settings = ray.data.DataContext.get_current()
        settings.execution_options.preserve_order = True
        settings.enable_progress_bars = settings.print_on_execution_start = False
        parts = _parts(positions, predictions)
        pool = ray.data.ActorPoolStrategy(size=min(most, len(parts)))
        todo = ray.data.from_items(parts, override_num_blocks=len(parts))
        found = todo.flat_map(Worker, fn_constructor_args=(work,), compute=pool, num_cpus=cpus, num_gpus=gpus)
        for row in found.iter_rows():
            _take(row, predictions, clock)
            done, before = min(one.done for one in predictions), done
            on_images(done - before)


def _parts(positions: Sequence[int], predictions: Sequence[Predictions]) -> list[dict[str, Any]]:
    """Of each part: its first image's place, where its images are, and how many of them each net is done with."""
    size = PART * predictions[0].about.batch
    parts = []
    for begin in range(min(one.done for one in predictions), len(positions), size):
        own = list(positions[begin : begin + size])
        done = [min(max(one.done - begin, 0), len(own)) for one in predictions]
        parts.append({"begin": begin, "positions": own, "done": done})
    return parts


def _take(row: Mapping[str, Any], predictions: Sequence[Predictions], clock: Clock) -> None:
    """Keeps what a worker sent, or raises the error it had."""
    if row["error"]:
        kind, message = json.loads(row["error"])
        raise getattr(errors, kind, AlexNetInferError)(message)
    rows, own = [Row(*values) for values in json.loads(row["images"])], predictions[row["net"]]
    assert row["begin"] == own.done, "parts must come in their order"
    own.append(rows, np.frombuffer(row["probabilities"], "<f4").reshape(len(rows), -1))
    for stage, seconds in json.loads(row["seconds"]).items():
        clock.seconds[stage] += seconds


_NOTHING = {"net": 0, "begin": 0, "images": "[]", "probabilities": b"", "seconds": "{}", "error": ""}
"""A batch as workers send it, of one net: Ray wants the same fields in all."""


class Worker:
    """Computes parts in a process of its own, anywhere in the cluster."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, part: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Batches as `_take` takes them. Our errors are sent as such: Ray would wrap them in its own."""
        found: list[dict[str, Any]] = []
        clock = Clock()
        try:
            sent = [_Sent(about, i, part, found) for i, about in enumerate(self._work.abouts)]
            pairs = list(zip(self._nets, sent, strict=True))
            predict(self._data, part["positions"], pairs, workers=self._work.threads, clock=clock)
        except AlexNetInferError as error:
            message = f"{error} (on the Ray node {socket.gethostname()})"
            return [_NOTHING | {"error": json.dumps([type(error).__name__, message])}]
        found[-1]["seconds"] = json.dumps(clock.seconds)
        return found

    @cached_property
    def _data(self) -> LabelledImages:
        """The data as this node sees it. Raises UnreadableInputError when it isn't what the others see."""
        data = open_images(self._work.root, self._work.split, self._work.layout)
        if data.listing != self._work.abouts[0].data["listing"]:
            raise UnreadableInputError(f"{data.root}: other images than where the evaluation began; copy them anew")
        return data

    @cached_property
    def _nets(self) -> list[Net]:
        """Raises BackendError when this node would get other probabilities."""
        import ray

        self._expect("alexnet-infer", __version__, self._work.version)
        if self._work.device == "cpu":  # with other numbers of threads ONNX Runtime adds in another order
            self._expect("CPU cores:", os.cpu_count() or 1, self._work.cores)
        nets = []
        with tempfile.TemporaryDirectory() as folder:
            for about, (suffix, model) in zip(self._work.abouts, self._work.models, strict=True):
                path = Path(folder) / f"model{suffix}"
                path.write_bytes(ray.get(model))
                runtime: Runtime = "openvino" if about.net["backend"].startswith("OpenVINO") else "onnxruntime"
                nets.append(load(path, device=self._work.device, views=about.views, backend=runtime))
                self._expect("runs the nets on", nets[-1].backend.description, about.net["backend"])
        return nets

    @staticmethod
    def _expect(what: str, found: object, expected: object) -> None:
        if found != expected:
            raise BackendError(
                f"{what} {found}, but {expected} where the evaluation was started, and probabilities would differ; "
                "use machines and installations that are alike"
            )


class _Sent(Predictions):
    """Predictions of a part that are sent instead of written."""

    def __init__(self, about: About, net: int, part: Mapping[str, Any], found: list[dict[str, Any]]) -> None:
        self.about, self._net, self._begin, self._found = about, net, part["begin"], found
        self.done = part["done"][net]

    def append(self, rows: Sequence[Row], probabilities: np.ndarray) -> None:
        sent = {
            "net": self._net,
            "begin": self._begin + self.done,
            "images": json.dumps([[row.name, row.label, row.error] for row in rows]),
            "probabilities": probabilities.astype("<f4").tobytes(),
        }
        self._found.append(_NOTHING | sent)
        self.done += len(rows)


def _import_ray() -> ModuleType:
    # Only where the user has said nothing else: no reports to Ray's makers, no log lines between ours.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError:
        raise BackendError('--engine ray needs Ray: pip install "alexnet-infer[ray]"') from None
    return ray


@contextmanager
def _cluster(ray: ModuleType, address: str | None) -> Iterator[None]:
    """Connects, unless this process is connected, and turns what Ray says into BackendError."""
    import logging

    own = not ray.is_initialized()
    where = "--engine ray" if address is None else f"--address {shown(address)}"
    try:
        if own:
            _knock(address or os.environ.get("RAY_ADDRESS"))
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise BackendError(f"{where}: no Ray cluster to work on ({one_line(error)}); see ray status") from None
    try:
        with redirect_stdout(sys.stderr):  # Ray prints there, too, what becomes of workers
            yield
    except ray.exceptions.RayTaskError:  # a bug of ours
        raise
    except ray.exceptions.RayError as error:
        raise BackendError(f"{where}: the cluster failed ({one_line(error)}); start again to go on") from None
    finally:
        if own:
            ray.shutdown()


def _knock(address: str | None) -> None:
    """Raises OSError or ValueError when nobody listens there; Ray would wait for ever."""
    if address and address not in ("auto", "local"):
        url = urlsplit(address if "://" in address else f"//{address}")
        if not url.hostname or not url.port:
            raise ValueError("expected host:port or ray://host:port")
        socket.create_connection((url.hostname, url.port), timeout=10).close()


def _room(nodes: Sequence[Mapping[str, float]], cpus: int | None, gpus: int) -> tuple[int, int]:
    """(Cores of each worker, how many workers the nodes have room for). Raises BackendError when there is none."""
    if gpus:
        nodes = [node for node in nodes if node.get("GPU", 0) >= 1]
        shares = [int(node.get("CPU", 0) // int(node["GPU"])) for node in nodes]
        cpus = cpus or max(1, min(shares, default=1))
    cpus = cpus or os.cpu_count() or 1
    room = sum(int(min(node.get("CPU", 0) // cpus, *([node["GPU"]] if gpus else []), 10**6)) for node in nodes)
    if not room:
        what = f"a GPU and {cpus} CPUs" if gpus else f"{cpus} CPUs"
        raise BackendError(f"--engine ray: no node has {what}, which each worker takes; choose fewer with --workers")
    return cpus, room
