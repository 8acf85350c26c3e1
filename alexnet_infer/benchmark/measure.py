"""The measurements of `alexnet-infer benchmark`: each model file in each runtime, at each batch size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from alexnet_infer.artifact import embedded_model
from alexnet_infer.backends import Choice, Device
from alexnet_infer.backends.opening import chooses_runtime, describe, open_model
from alexnet_infer.backends.remote.address import ServerAddress, Source
from alexnet_infer.benchmark.floor import Machine, probe_count, probes
from alexnet_infer.benchmark.timing import Run, Timing, interleave
from alexnet_infer.errors import AlexNetInferError, UsageError, printable, shown
from alexnet_infer.graph.info import Precision
from alexnet_infer.nets import load
from alexnet_infer.packages import installed
from alexnet_infer.predict import LARGEST_BATCH, Net

MeasuredViews = Literal["none", "center", "ten"]
"""What one unit of a batch is: a patch ("none"), or an image whose center view or ten views are cut and averaged."""

ROUNDS = 5
BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
"""Bytes per weight in a file of each precision."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkRequest:
    """What to measure. Raises UsageError if a value is out of range."""

    models: tuple[Source, ...] = ()
    """The files and served nets to measure. If empty, the default bundled net."""
    batches: tuple[int, ...] = (1, 8, 64)
    backend: Choice | Literal["all"] = "all"
    """"all": each model in every installed runtime that can run it."""
    views: MeasuredViews | None = None
    """By default, the views that a file cuts itself; for other files, the center view."""
    device: Device = "auto"
    seconds: float = 2.0
    """Measured time for each row."""
    trust_engine: bool = False

    def __post_init__(self) -> None:
        if self.backend not in ("all", *get_args(Choice)):
            raise UsageError(f"--backend {shown(self.backend)}: expected all, {', '.join(get_args(Choice))}")
        if self.views not in (None, *get_args(MeasuredViews)):
            raise UsageError(f"--views {shown(self.views)}: expected {', '.join(get_args(MeasuredViews))}")
        if not self.batches or not all(1 <= batch <= LARGEST_BATCH for batch in self.batches):
            sizes = ",".join(map(str, self.batches))
            raise UsageError(f"--batch {sizes}: expected sizes from 1 to {LARGEST_BATCH}, as in 1,8,64")
        if not 0 < self.seconds <= 3600:
            raise UsageError(f"--seconds {self.seconds:g}: expected more than 0, at most 3600")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A net in a runtime, and the facts that its rows show."""

    model: str
    """The file's name, or its path if another file has the same name, or the address of a served net."""
    net: Net
    precision: Precision
    views: MeasuredViews
    multiply_adds: int | None
    """Multiply-adds for one image, with all its views, or one patch. None if unknown (a file with several nets), or if
    the net runs on a GPU or a server, for which no floor is measured."""
    weight_bytes: int

    @property
    def unit(self) -> str:
        return "patches" if self.views == "none" else "images"

    @property
    def title(self) -> str:
        """The net, runtime and views. The runtime's description includes the precision if it isn't float32."""
        return f"{self.model}, {self.net.backend.description}, views {self.views}"

    def run(self, batch: int) -> Run:
        """Return a call that runs `batch` images or patches of noise. For images, it includes cutting the views."""
        rng = np.random.default_rng(batch)
        preprocessing, backend = self.net.manifest.preprocessing, self.net.backend
        if self.views == "none":
            shape = (batch, 3, preprocessing.patch, preprocessing.patch)
            patches = rng.normal(0, 70, shape).astype(np.float32)
            return lambda: backend.infer(patches)
        squares = list(rng.integers(0, 256, (batch, preprocessing.size, preprocessing.size, 3), np.uint8))
        return lambda: self.net.probabilities(squares)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One subject at one batch size."""

    subject: Subject
    batch: int
    timing: Timing
    floor: float | None
    """Minimum time in seconds on this CPU in float32. None if no floor is known."""

    @property
    def per_second(self) -> float:
        """Images or patches per second."""
        return self.batch / self.timing.mean

    def to_json(self, first: Measurement) -> dict[str, Any]:
        return {
            "model": self.subject.model,
            "backend": self.subject.net.backend.description,
            "precision": self.subject.precision,
            "views": self.subject.views,
            "batch": self.batch,
            "unit": self.subject.unit,
            "p50_ms": self.timing.p50 * 1e3,
            "p90_ms": self.timing.p90 * 1e3,
            "p99_ms": self.timing.p99 * 1e3,
            "calls": len(self.timing.seconds),
            "per_second": self.per_second,
            "ratio": self.per_second / first.per_second,
            "over_floor": None if self.floor is None else self.timing.p50 / self.floor,
        }


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The results of a benchmark."""

    rows: tuple[Measurement, ...]
    machine: Machine | None
    """None if no subject has a floor."""
    skipped: tuple[str, ...] = ()
    """One line for each model and runtime that was left out, with the reason."""

    def to_json(self) -> dict[str, Any]:
        machine = self.machine and {
            "gflops": self.machine.flops / 1e9,
            "gflops_of": self.machine.flops_of,
            "gb_per_second": self.machine.bandwidth / 1e9,
            "gb_per_second_of": self.machine.bandwidth_of,
        }
        rows = [row.to_json(self.rows[0]) for row in self.rows]
        return {"rows": rows, "machine": machine, "skipped": list(self.skipped)}


def parse_batches(text: str) -> tuple[int, ...]:
    """Parse batch sizes such as "1,8,64". Returns each size once, in order. Raises UsageError if `text` is invalid."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise UsageError(f"--batch {shown(text)}: expected sizes from 1 to {LARGEST_BATCH}, as in 1,8,64")
    return tuple(dict.fromkeys(map(int, parts)))


def subjects(request: BenchmarkRequest) -> tuple[list[Subject], list[str]]:
    """Open the nets to measure.

    Returns them with one line for each model that could not be run in one of the runtimes, if `backend` is "all".
    Raises the error of `load` if a model runs in no runtime, and UsageError if patches are requested from a file that
    takes images.
    """
    paths = request.models or (embedded_model(),)
    nets, skipped = [], []
    for path in paths:
        opened, errors = [], []
        for choice in _choices(request, path):
            try:
                opened.append(_open(path, choice, request, _name(path, paths)))
            except AlexNetInferError as error:
                if request.backend != "all" or isinstance(error, UsageError):
                    raise
                errors.append(error)
        if not opened:
            raise errors[0]
        nets += opened
        skipped += map(str, errors)
    return nets, skipped


def measure(
    subjects: Sequence[Subject], batches: Sequence[int], *, seconds: float, on_turn: Callable[[], None] = lambda: None
) -> Benchmark:
    """Measure all subjects and this machine's rates, interleaved. `on_turn` is called `turns` times."""
    pairs = [(subject, batch) for subject in subjects for batch in batches]
    rates = probes() if any(map(has_floor, subjects)) else []
    runs = [subject.run(batch) for subject, batch in pairs]
    timings = interleave([*runs, *(probe.run for probe in rates)], seconds=seconds, rounds=ROUNDS, on_turn=on_turn)
    machine = None
    if rates:
        machine = Machine.of(rates, timings[len(runs) :])
        for (subject, batch), timing in zip(pairs, timings, strict=False):
            if has_floor(subject):
                machine = machine.including(
                    f"{subject.title}, batch {batch}",
                    2 * batch * subject.multiply_adds,
                    subject.weight_bytes,
                    timing.p50,
                )

    def floor(subject: Subject, batch: int) -> float | None:
        if machine is None or not has_floor(subject):
            return None
        return machine.floor(batch * subject.multiply_adds, subject.weight_bytes)

    rows = [
        Measurement(subject=subject, batch=batch, timing=timing, floor=floor(subject, batch))
        for (subject, batch), timing in zip(pairs, timings, strict=False)
    ]
    return Benchmark(rows=tuple(rows), machine=machine)


def has_floor(subject: Subject) -> bool:
    """Whether the machine's float32 rates limit a net. They don't limit int8. CPUs compute fp16 in float32."""
    return subject.multiply_adds is not None and subject.precision != "int8"


def turns(subjects: Sequence[Subject], batches: Sequence[int]) -> int:
    """Return how many times `measure` calls `on_turn`."""
    rates = probe_count() if any(map(has_floor, subjects)) else 0
    return ROUNDS * (len(subjects) * len(batches) + rates)


def _choices(request: BenchmarkRequest, path: Source) -> Iterator[Choice]:
    if isinstance(path, ServerAddress):
        yield "auto"
    elif request.backend != "all":
        yield request.backend
    elif not chooses_runtime(path):
        yield "auto"
    else:
        yield "onnxruntime"
        if request.device != "cuda" and installed("openvino"):
            yield "openvino"


def _open(path: Source, backend: Choice, request: BenchmarkRequest, name: str) -> Subject:
    if isinstance(path, ServerAddress):
        return _open_served(path, request, name)
    manifest, info = describe(path)
    takes_images = info is not None and info.takes_squares
    views = request.views or (info.views if info is not None and takes_images else "center")
    if takes_images and views == "none":
        raise UsageError(f"{path}: takes images and cuts its views itself; use --views {info.views}")
    options = {"device": request.device, "backend": backend, "trust_engine": request.trust_engine}
    if views == "none":
        opened = open_model(path, **options)
        net = Net(opened.manifest, opened.backend, opened=opened)
    else:
        net = load(path, views=views, **options)
    known = net.backend.device == "cpu" and (info is None or len(info.members) == 1)
    architecture = manifest.architecture
    return Subject(
        model=name,
        net=net,
        precision=net.backend.precision,
        views=views,
        # A file with several nets describes only the first one.
        multiply_adds=architecture.multiply_adds * (10 if views == "ten" else 1) if known else None,
        weight_bytes=architecture.parameters * BYTES[net.backend.precision],
    )


def _open_served(address: ServerAddress, request: BenchmarkRequest, name: str) -> Subject:
    """A net on a server. Device and backend are those of the other nets."""
    opened = open_model(address)
    views = request.views or opened.views or "center"
    if opened.views not in (None, views):
        raise UsageError(f"{address}: the server averages views={opened.views}; leave out --views {views}")
    net = Net(opened.manifest, opened.backend, "ten" if views == "none" else views, opened)
    return Subject(
        model=name, net=net, precision=net.backend.precision, views=views, multiply_adds=None, weight_bytes=0
    )


def _name(path: Source, paths: Sequence[Source]) -> str:
    if isinstance(path, ServerAddress):
        return printable(str(path))
    is_unique = [file.name for file in paths].count(path.name) == 1
    return printable(path.name if is_unique else str(path))
