"""From a labelled image set to predictions: read, decode and resize once for all nets, cut the views, run the nets.

Images are read and decoded on all cores, at most a few batches ahead of the nets, so memory does not grow with the set.
Every call of a net has the same number of patches. Short batches are padded with zeros, since a runtime may round a
matrix product differently for a different number of rows, and the probabilities of an image must not depend on its
neighbours.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from alexnet_infer.datasets import Example, LabelledImages
from alexnet_infer.decode import printable, read_rgb
from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.evaluation.predictions import Predictions, Row
from alexnet_infer.predict import Net
from alexnet_infer.preprocess import Rescaling, square_of

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


@dataclass(frozen=True)
class Decoded:
    """One decoded image."""

    row: Row
    squares: dict[Rescaling, np.ndarray]
    """Its square for each rescaling. Empty if it can't be read."""


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
    batches = _decoded(data, positions, start, batch, {_square(net) for net, _ in nets}, clock.workers, clock)
    # Nets with the same preprocessing share the patches.
    recipes = [(json.dumps(net.manifest.preprocessing.to_json()), net.backend.takes_squares) for net, _ in nets]
    with ThreadPoolExecutor(1) as runner:  # one batch runs while the next one is cut
        running: Future[int] | None = None
        for begin, decoded in batches:
            waiting = [i for i, (_, predictions) in enumerate(nets) if predictions.done <= begin]
            inputs = _inputs(decoded, [(nets[i][0], recipes[i]) for i in waiting], batch, clock)
            if running is not None:
                on_images(running.result())
            running = runner.submit(_run, decoded, [nets[i] for i in waiting], inputs, batch, clock)
        if running is not None:
            on_images(running.result())
    clock.wall += time.perf_counter() - began


def _inputs(
    decoded: list[Decoded], nets: Sequence[tuple[Net, tuple[str, bool]]], batch: int, clock: Clock
) -> list[np.ndarray | None]:
    """Return the input of each net for the readable images, padded to the batch, or None if no image is readable.

    `nets` has pairs (net, recipe). Nets with the same recipe share an input.
    """
    readable = [image for image in decoded if image.squares]
    if not readable:
        return [None] * len(nets)
    cut: dict[tuple[str, bool], np.ndarray] = {}
    for net, recipe in nets:
        if recipe not in cut:
            with clock("patches"):
                cut[recipe] = _filled([net.inputs(image.squares[_square(net)]) for image in readable], batch)
    return [cut[recipe] for _, recipe in nets]


def _run(
    decoded: list[Decoded],
    nets: Sequence[tuple[Net, Predictions]],
    inputs: Sequence[np.ndarray | None],
    batch: int,
    clock: Clock,
) -> int:
    """Run the nets on a batch and append their probabilities. Returns the number of images in the batch."""
    rows, readable = [image.row for image in decoded], [i for i, image in enumerate(decoded) if image.squares]
    for (net, predictions), values in zip(nets, inputs, strict=True):
        probabilities = np.zeros((len(rows), len(net.manifest.classes)), np.float32)
        if values is not None:
            with clock("net"):
                scores = net.mean_over_views(net.backend.infer(values), batch)
            probabilities[readable] = scores[: len(readable)]
        predictions.append(rows, probabilities)
    return len(decoded)


def _square(net: Net) -> Rescaling:
    return net.manifest.preprocessing.rescaling


def _filled(inputs: Sequence[np.ndarray], batch: int) -> np.ndarray:
    """Concatenate each image's input (V patches, or one square) and pad the result with zeros to batch * V."""
    missing = np.zeros_like(inputs[0])
    return np.concatenate([*inputs, *[missing] * (batch - len(inputs))])


def _decoded(
    data: LabelledImages,
    positions: Sequence[int],
    start: int,
    batch: int,
    kinds: set[Rescaling],
    workers: int,
    clock: Clock,
) -> Iterator[tuple[int, list[Decoded]]]:
    """Yield (index of the first image in `positions`, images) of each batch, beginning at index `start`."""
    folder = f"{data.root}{os.sep}"
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[int, list[Future[Decoded]]]] = deque()
        try:
            begin, walk = start, _timed(data.at(positions[start:], "yield"), clock)
            while examples := list(islice(walk, batch)):
                ahead.append((begin, [pool.submit(_decode, example, folder, kinds, clock) for example in examples]))
                begin += len(examples)
                if len(ahead) > AHEAD:
                    yield _finished(*ahead.popleft())
            while ahead:
                yield _finished(*ahead.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _timed(examples: Iterator[Example], clock: Clock) -> Iterator[Example]:
    while True:
        with clock("read"):
            example = next(examples, None)
        if example is None:
            return
        yield example


def _finished(begin: int, images: list[Future[Decoded]]) -> tuple[int, list[Decoded]]:
    return begin, [image.result() for image in images]


def _decode(example: Example, folder: str, kinds: set[Rescaling], clock: Clock) -> Decoded:
    name = printable(example.name.removeprefix(folder).replace(os.sep, "/"))  # independent of the set's location
    try:
        if example.error is not None:
            raise UnreadableInputError(example.error)
        with clock("decode"):
            # ILSVRC's labels ignore EXIF orientation. The largest S limits how far a JPEG may shrink while decoding.
            largest = max(kind.size for kind in kinds)
            image = read_rgb(example.data, name=name, shrink_to=largest, apply_exif=False)
        with clock("resize"):
            squares = {kind: square_of(image, kind) for kind in kinds}
    except UnreadableInputError as error:
        return Decoded(Row(name, example.label, str(error).removeprefix(f"{name}: ")), {})
    return Decoded(Row(name, example.label, None), squares)
