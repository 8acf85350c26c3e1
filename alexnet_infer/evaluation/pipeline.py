"""From a labelled image set to predictions: read, decode and resize once for all nets, cut the views, run the nets.

Images are read and decoded on all cores, at most a few batches ahead of the nets, so memory does not grow with the set.
Every call of a net has the same number of patches. Short batches are padded with zeros, since a runtime may round a
matrix product differently for a different number of rows, and the probabilities of an image must not depend on its
neighbours.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np

from alexnet_infer.datasets import Example, LabelledImages
from alexnet_infer.decode import Squares
from alexnet_infer.evaluation.predictions import ImageRow, Predictions
from alexnet_infer.predict import Net
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


def predict(
    data: LabelledImages,
    positions: Sequence[int],
    nets: Sequence[tuple[Net, Predictions]],
    *,
    workers: int | None = None,
    clock: Clock | None = None,
    on_images: Callable[[int], None] = lambda count: None,
) -> None:
    """Complete the predictions of `nets` for the images at `positions` of `data`.

    `workers` is the number of threads that decode, by default one per core. `on_images` is called with the number of
    images done since the last call. The probabilities of an unreadable image are zeros, and its row has the reason.
    """
    clock = clock or Clock()
    clock.workers = workers or os.cpu_count() or 1
    batch, began = nets[0][1].about.batch, time.perf_counter()
    start = min(predictions.done for _, predictions in nets)
    on_images(start)
    decode = partial(Example.squares, rescalings={net.rescaling for net, _ in nets}, timed=clock)
    examples = _timed(data.at(positions[start:], "yield"), clock)
    images = decode_ahead(examples, decode, workers=clock.workers, ahead=AHEAD * batch)
    jobs = [_Job.of(*pair) for pair in nets]
    with ThreadPoolExecutor(1) as runner:  # one batch runs while the next one is cut
        running: Future[int] | None = None
        for begin, decoded in zip(itertools.count(start, batch), batches(images, batch)):
            waiting = [job for job in jobs if job.predictions.done <= begin]
            inputs = _inputs([image.image for image in decoded if image.image], waiting, batch, clock)
            if running is not None:
                on_images(running.result())
            running = runner.submit(_run, decoded, waiting, inputs, batch, clock)
        if running is not None:
            on_images(running.result())
    clock.wall += time.perf_counter() - began


class _Job(NamedTuple):
    """A net, its predictions, and all that its inputs depend on. Nets with the same recipe share their inputs."""

    net: Net
    predictions: Predictions
    recipe: tuple[str, bool]

    @classmethod
    def of(cls, net: Net, predictions: Predictions) -> _Job:
        return cls(net, predictions, (json.dumps(net.manifest.preprocessing.to_json()), net.backend.takes_squares))


def _inputs(
    readable: Sequence[Squares], jobs: Sequence[_Job], batch: int, clock: Clock
) -> dict[tuple[str, bool], np.ndarray]:
    """Return the input of each recipe for the readable images, padded to the batch. It is empty if there are none."""
    inputs: dict[tuple[str, bool], np.ndarray] = {}
    for net, _, recipe in jobs:
        if readable and recipe not in inputs:
            with clock("patches"):
                inputs[recipe] = _filled([net.inputs(squares[net.rescaling]) for squares in readable], batch)
    return inputs


def _run(
    decoded: Sequence[Decoded[Example, Squares]],
    jobs: Sequence[_Job],
    inputs: Mapping[tuple[str, bool], np.ndarray],
    batch: int,
    clock: Clock,
) -> int:
    """Run the nets on a batch and append their probabilities. Returns the number of images in the batch."""
    rows, readable = [_row(image) for image in decoded], [i for i, image in enumerate(decoded) if image.image]
    for net, predictions, recipe in jobs:
        probabilities = np.zeros((len(rows), len(net.classes)), np.float32)
        if readable:
            with clock("net"):
                scores = net.mean_over_views(net.backend.infer(inputs[recipe]), batch)
            probabilities[readable] = scores[: len(readable)]
        predictions.append(rows, probabilities)
    return len(rows)


def _filled(inputs: Sequence[np.ndarray], batch: int) -> np.ndarray:
    """Concatenate each image's input (V patches, or one square) and pad the result with zeros to batch * V."""
    missing = np.zeros_like(inputs[0])
    return np.concatenate([*inputs, *[missing] * (batch - len(inputs))])


def _timed(examples: Iterator[Example], clock: Clock) -> Iterator[Example]:
    while True:
        with clock("read"):
            example = next(examples, None)
        if example is None:
            return
        yield example


def _row(decoded: Decoded[Example, Squares]) -> ImageRow:
    example, error = decoded.source, decoded.error
    return ImageRow(example.relative_name, example.label, error and error.reason)
