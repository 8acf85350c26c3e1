"""From images to what nets compute: read, decode and resize once for all nets, cut the views, run the nets.

Images are read and decoded on all cores, at most a few batches ahead of the nets, so memory does not grow with the set.
Every call of a net has the same number of patches. Short batches are padded with zeros, since a runtime may round a
matrix product differently for a different number of rows, and the values of an image must not depend on its neighbours.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from alexnet_infer.decode import Squares, Timed
from alexnet_infer.predict import Net
from alexnet_infer.preprocess import Rescaling
from alexnet_infer.reading import Decoded, batches, decode_ahead

AHEAD = 3
"""Batches that are read and decoded in advance."""

STAGES = ("read", "decode", "resize", "patches", "net")


@dataclass
class Clock:
    """The time spent in each stage."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Seconds in each of STAGES, summed over all threads."""
    wall: float = 0.0
    """Seconds from beginning to end."""
    workers: int = 1
    """Threads that decode and resize. Each of the other stages has one thread."""

    def bottleneck(self) -> tuple[str, float] | None:
        """Return the stage that the others wait for and the fraction of the time it was busy, from 0 to 1.

        Decoding and resizing count as one stage, "decode", since they run in the same threads. On a CPU they also take
        cores from the net. Returns None if nothing ran.
        """
        if not self.wall:
            return None
        busy = {stage: self.seconds[stage] for stage in ("read", "patches", "net")}
        busy["decode"] = (self.seconds["decode"] + self.seconds["resize"]) / self.workers
        stage = max(busy, key=busy.__getitem__)
        return stage, min(busy[stage] / self.wall, 1.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time spent in a `with` block to `stage`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started


class Image(Protocol):
    """An image of a set or a photo, not decoded yet."""

    def squares(self, rescalings: set[Rescaling], timed: Timed) -> Squares:
        """Decode it once. Returns its square for each of `rescalings`; `timed` is as in `decode.read_squares`.

        Raises UnreadableInputError.
        """
        ...


Source = TypeVar("Source", bound=Image)


class Task(Protocol, Generic[Source]):
    """A net, and what is done with the values that it computes."""

    net: Net
    done: int
    """Images that were done before, from the first one on: whole batches, or all."""

    def run(self, images: Sequence[Decoded[Source, Squares]], inputs: np.ndarray | None, clock: Clock) -> None:
        """Compute the values of the next images, and keep them.

        `inputs` are those of the readable ones for the backend, padded to a whole batch, or None if there are none.
        """
        ...


def run(
    images: Iterable[Source],
    tasks: Sequence[Task[Source]],
    *,
    batch: int,
    workers: int | None = None,
    clock: Clock | None = None,
    on_images: Callable[[int], None] = lambda count: None,
) -> None:
    """Do `tasks` for `images`, of which the first is the first one that is not done for all tasks.

    `workers` is the number of threads that decode, by default one per core. `on_images` is called with the number of
    images done since the last call.
    """
    clock = clock or Clock()
    clock.workers = workers or os.cpu_count() or 1
    began = time.perf_counter()
    start = min(task.done for task in tasks)
    on_images(start)
    rescalings = {task.net.rescaling for task in tasks}
    decoded = decode_ahead(
        _timed(iter(images), clock), partial(_squares, rescalings, clock), workers=clock.workers, ahead=AHEAD * batch
    )
    jobs = [_Job.of(task) for task in tasks]
    with ThreadPoolExecutor(1) as runner:  # one batch runs while the next one is cut
        running: Future[int] | None = None
        for begin, part in zip(itertools.count(start, batch), batches(decoded, batch)):
            waiting = [job for job in jobs if job.task.done <= begin]
            inputs = _inputs([image.image for image in part if image.image], waiting, batch, clock)
            if running is not None:
                on_images(running.result())
            running = runner.submit(_run, part, waiting, inputs, clock)
        if running is not None:
            on_images(running.result())
    clock.wall += time.perf_counter() - began


def _squares(rescalings: set[Rescaling], clock: Clock, image: Image) -> Squares:
    return image.squares(rescalings, timed=clock)


class _Job(NamedTuple):
    """A task, and all that its net's inputs depend on. Nets with the same recipe share their inputs."""

    task: Task
    recipe: tuple[str, str, bool]

    @classmethod
    def of(cls, task: Task) -> _Job:
        net = task.net
        return cls(task, (json.dumps(net.manifest.preprocessing.to_json()), net.views, net.backend.takes_squares))


def _inputs(
    readable: Sequence[Squares], jobs: Sequence[_Job], batch: int, clock: Clock
) -> dict[tuple[str, str, bool], np.ndarray]:
    """Return the input of each recipe for the readable images, padded to the batch. It is empty if there are none."""
    inputs: dict[tuple[str, str, bool], np.ndarray] = {}
    for task, recipe in jobs:
        if readable and recipe not in inputs:
            with clock("patches"):
                inputs[recipe] = _filled([task.net.inputs(squares[task.net.rescaling]) for squares in readable], batch)
    return inputs


def _run(
    images: Sequence[Decoded[Source, Squares]],
    jobs: Sequence[_Job],
    inputs: dict[tuple[str, str, bool], np.ndarray],
    clock: Clock,
) -> int:
    """Do the tasks for a batch of images. Returns their number."""
    for task, recipe in jobs:
        task.run(images, inputs.get(recipe), clock)
    return len(images)


def _filled(inputs: Sequence[np.ndarray], batch: int) -> np.ndarray:
    """Concatenate each image's input (V patches, or one square) and pad the result with zeros to batch * V."""
    missing = np.zeros_like(inputs[0])
    return np.concatenate([*inputs, *[missing] * (batch - len(inputs))])


def _timed(images: Iterator[Source], clock: Clock) -> Iterator[Source]:
    while True:
        with clock("read"):
            image = next(images, None)
        if image is None:
            return
        yield image
