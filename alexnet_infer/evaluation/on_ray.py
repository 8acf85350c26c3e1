"""An evaluation on a Ray cluster: workers compute parts of the images, and this process stores their predictions.

Parts consist of the same batches as on a single machine, and their predictions are appended in order to the same files.
So a run can be stopped, resumed with or without Ray, merged and reused in other ensembles, and its result equals that
of a single machine to the last digit. Ray Data schedules the parts and repeats the part of a worker that dies.

Nodes must have this version of the package and the data at the same path. The nets are sent to them.
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

from alexnet_infer import errors
from alexnet_infer.backends import Choice, Device
from alexnet_infer.datasets import LabelledImages, Split, open_images
from alexnet_infer.errors import AlexNetInferError, BackendError, UnreadableInputError, one_line, shown
from alexnet_infer.evaluation.pipeline import predict
from alexnet_infer.evaluation.predictions import About, ImageRow, Predictions
from alexnet_infer.nets import load
from alexnet_infer.pipeline import Clock
from alexnet_infer.predict import Net
from alexnet_infer.version import __version__

PART = 8
"""Batches per part: enough to keep the cores of a worker busy, and few enough that a stopped run loses little."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """The settings that all parts share."""

    root: Path
    split: Split
    layout: str
    device: Device
    threads: int
    """Decoding threads per worker."""
    abouts: tuple[About, ...]
    models: tuple[tuple[str, Choice, Any], ...]
    """The suffix of each net's file, what runs it, and Ray's reference to its bytes."""
    version: str = __version__
    cores: int = os.cpu_count() or 1
    """CPU cores of the machine that started the evaluation. On a CPU, nodes must have the same number."""


def predict_on_ray(
    data: LabelledImages,
    positions: Sequence[int],
    nets: Sequence[tuple[Net, Predictions]],
    *,
    address: str | None = None,
    workers: int | None = None,
    clock: Clock | None = None,
    on_images: Callable[[int], None] = lambda count: None,
) -> None:
    """Complete predictions on a cluster, as `pipeline.predict` does locally. The nodes get the files of `nets`.

    `address` is the cluster's address. By default it is the one that Ray finds ($RAY_ADDRESS, or a cluster that runs on
    this machine), or else a temporary cluster on this machine. `workers` is the number of cores per worker, by default
    the number of this machine's cores, or with GPUs a node's cores divided by its GPUs.

    Raises BackendError if Ray is not installed, if the cluster can't be reached or has too few resources, or if a node
    differs from this machine. Raises the errors of `open_images` and `load` on the nodes.
    """
    ray = _import_ray()
    predictions = [part for _, part in nets]
    clock, done = clock or Clock(), min(part.done for part in predictions)
    on_images(done)
    with _cluster(ray, address):
        gpus = int(nets[0][0].backend.device == "cuda")
        cpus, most = _room([node["Resources"] for node in ray.nodes() if node["Alive"]], workers, gpus)
        work = Work(
            root=data.root.absolute(),
            split=data.split,
            layout=data.layout,
            device="cuda" if gpus else "cpu",
            threads=cpus,
            abouts=tuple(part.about for part in predictions),
            models=tuple(
                (net.opened.path.suffix, net.backend.runtime, ray.put(net.opened.path.read_bytes())) for net, _ in nets
            ),
        )
        settings = ray.data.DataContext.get_current()
        settings.execution_options.preserve_order = True
        settings.enable_progress_bars = settings.print_on_execution_start = False
        parts = _parts(positions, predictions)
        pool = ray.data.ActorPoolStrategy(size=min(most, len(parts)))
        todo = ray.data.from_items(parts, override_num_blocks=len(parts))
        batches = todo.flat_map(Worker, fn_constructor_args=(work,), compute=pool, num_cpus=cpus, num_gpus=gpus)
        for row in batches.iter_rows():
            _take(row, predictions, clock)
            done, before = min(part.done for part in predictions), done
            on_images(done - before)


def _parts(positions: Sequence[int], predictions: Sequence[Predictions]) -> list[dict[str, Any]]:
    """Divide the images that at least one net has not done yet into parts.

    A part has the index of its first image in `positions`, the positions of its images, and for each net the number of
    these images that are done.
    """
    size = PART * predictions[0].about.batch
    parts = []
    for begin in range(min(net.done for net in predictions), len(positions), size):
        own = list(positions[begin : begin + size])
        done = [min(max(net.done - begin, 0), len(own)) for net in predictions]
        parts.append({"begin": begin, "positions": own, "done": done})
    return parts


def _take(row: Mapping[str, Any], predictions: Sequence[Predictions], clock: Clock) -> None:
    """Store a batch from a worker, or raise the worker's error."""
    if row["error"]:
        kind, message = json.loads(row["error"])
        raise getattr(errors, kind, AlexNetInferError)(message)
    rows, own = [ImageRow(*values) for values in json.loads(row["images"])], predictions[row["net"]]
    assert row["begin"] == own.done, "expected parts in order"
    own.append(rows, np.frombuffer(row["probabilities"], "<f4").reshape(len(rows), -1))
    for stage, seconds in json.loads(row["seconds"]).items():
        clock.seconds[stage] += seconds


_NOTHING = {"net": 0, "begin": 0, "images": "[]", "probabilities": b"", "seconds": "{}", "error": ""}
"""An empty batch of one net, in the form in which workers send it. Ray needs the same fields in all batches."""


class Worker:
    """Computes parts in a separate process on a node of the cluster."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, part: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the batches of a part for `_take`. An AlexNetInferError is returned as data: Ray would wrap it."""
        batches: list[dict[str, Any]] = []
        clock = Clock()
        try:
            sent = [_Sent(about, i, part, batches) for i, about in enumerate(self._work.abouts)]
            pairs = list(zip(self._nets, sent, strict=True))
            predict(self._data, part["positions"], pairs, workers=self._work.threads, clock=clock)
        except AlexNetInferError as error:
            message = f"{error} (on the Ray node {socket.gethostname()})"
            return [_NOTHING | {"error": json.dumps([type(error).__name__, message])}]
        batches[-1]["seconds"] = json.dumps(clock.seconds)
        return batches

    @cached_property
    def _data(self) -> LabelledImages:
        """The data on this node. Raises UnreadableInputError if its images differ from those on the first machine."""
        numbered = self._work.abouts[0].net.classes
        data = open_images(self._work.root, self._work.split, self._work.layout, numbered=numbered)
        if data.listing != self._work.abouts[0].data.listing:
            raise UnreadableInputError(
                f"{data.root}: its images differ from those on the machine that started the evaluation; copy them again"
            )
        return data

    @cached_property
    def _nets(self) -> list[Net]:
        """The nets on this node. Raises BackendError if this node might compute other probabilities."""
        import ray

        self._expect("alexnet-infer", __version__, self._work.version)
        if self._work.device == "cpu":  # ONNX Runtime's order of summation depends on the number of threads
            self._expect("CPU cores:", os.cpu_count() or 1, self._work.cores)
        nets = []
        with tempfile.TemporaryDirectory() as folder:
            for about, (suffix, backend, model) in zip(self._work.abouts, self._work.models, strict=True):
                path = Path(folder) / f"model{suffix}"
                path.write_bytes(ray.get(model))
                nets.append(load(path, device=self._work.device, views=about.views, backend=backend))
                self._expect("runs the nets on", nets[-1].backend.description, about.net.backend)
        return nets

    @staticmethod
    def _expect(name: str, actual: object, expected: object) -> None:
        if actual != expected:
            raise BackendError(
                f"{name} {actual}, but {expected} on the machine that started the evaluation, so probabilities might "
                "differ; use the same hardware and software on all machines"
            )


class _Sent(Predictions):
    """Predictions of a part, which are sent to the first machine instead of being written to disk."""

    def __init__(self, about: About, net: int, part: Mapping[str, Any], batches: list[dict[str, Any]]) -> None:
        self.about, self._net, self._begin, self._batches = about, net, part["begin"], batches
        self.done = part["done"][net]

    def append(self, rows: Sequence[ImageRow], probabilities: np.ndarray) -> None:
        """Add a batch to those that are sent."""
        batch = {
            "net": self._net,
            "begin": self._begin + self.done,
            "images": json.dumps([[row.name, row.label, row.error] for row in rows]),
            "probabilities": probabilities.astype("<f4").tobytes(),
        }
        self._batches.append(_NOTHING | batch)
        self.done += len(rows)


def _import_ray() -> ModuleType:
    # Unless the user has set these, send no usage statistics and print no log lines.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError:
        raise BackendError('--on ray needs Ray: pip install "alexnet-infer[ray]"') from None
    return ray


@contextmanager
def _cluster(ray: ModuleType, address: str | None) -> Iterator[None]:
    """Connect to the cluster, unless this process is connected, and turn Ray's errors into BackendError."""
    import logging

    own = not ray.is_initialized()
    where = "--on ray" if address is None else f"--address {shown(address)}"
    try:
        if own:
            _knock(address or os.environ.get("RAY_ADDRESS"))
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise BackendError(f"{where}: can't connect to a Ray cluster ({one_line(error)}); see ray status") from None
    try:
        with redirect_stdout(sys.stderr):  # Ray also prints messages about workers to stdout
            yield
    except ray.exceptions.RayTaskError:  # a bug in alexnet-infer
        raise
    except ray.exceptions.RayError as error:
        raise BackendError(f"{where}: the cluster failed ({one_line(error)}); run eval again to continue") from None
    finally:
        if own:
            ray.shutdown()


def _knock(address: str | None) -> None:
    """Raise OSError or ValueError if nothing listens at `address`. Ray would wait forever."""
    if address and address not in ("auto", "local"):
        url = urlsplit(address if "://" in address else f"//{address}")
        if not url.hostname or not url.port:
            raise ValueError("expected host:port or ray://host:port")
        socket.create_connection((url.hostname, url.port), timeout=10).close()


def _room(nodes: Sequence[Mapping[str, float]], cpus: int | None, gpus: int) -> tuple[int, int]:
    """Return the number of cores per worker and the number of workers that fit on the nodes.

    Raises BackendError if no worker fits.
    """
    if gpus:
        nodes = [node for node in nodes if node.get("GPU", 0) >= 1]
        shares = [int(node.get("CPU", 0) // int(node["GPU"])) for node in nodes]
        cpus = cpus or max(1, min(shares, default=1))
    cpus = cpus or os.cpu_count() or 1
    room = sum(int(min(node.get("CPU", 0) // cpus, *([node["GPU"]] if gpus else []), 10**6)) for node in nodes)
    if not room:
        needs = f"a GPU and {cpus} CPUs" if gpus else f"{cpus} CPUs"
        raise BackendError(f"--on ray: no node has {needs}, which each worker needs; choose fewer with --workers")
    return cpus, room
