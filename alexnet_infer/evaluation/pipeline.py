"""From a labelled image set to predictions: read, decode and resize once for all nets, cut the views, run the nets.

Reading and decoding run on all cores ahead of the nets, a few batches at most, so that memory doesn't grow with the
set. Every call of a net takes the same number of patches, filled up with zeros: a runtime may round a product of
matrices differently when there are more or fewer rows, and an image's probabilities must not depend on its neighbours.
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
"""Batches that are read and decoded before they are needed."""

STAGES = ("read", "decode", "resize", "patches", "net")


@dataclass
class Clock:
    """Seconds spent in each stage, over all threads."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    wall: float = 0.0
    """Seconds from beginning to end."""
    workers: int = 1
    """Threads that decode and resize. One thread does each of the other stages."""

    def bottleneck(self) -> tuple[str, float] | None:
        """The stage that the others wait for, and the share of the time in which it was busy; None if nothing ran.

        Decoding and resizing are one stage here, in the same threads. On a CPU they also take cores from the net.
        """
        if not self.wall:
            return None
        busy = {stage: self.seconds[stage] for stage in ("read", "patches", "net")}
        busy["decode"] = (self.seconds["decode"] + self.seconds["resize"]) / self.workers
        stage = max(busy, key=busy.__getitem__)
        return stage, min(busy[stage] / self.wall, 1.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started


@dataclass(frozen=True)
class Decoded:
    """One image: its squares, or why there are none."""

    row: Row
    squares: dict[Rescaling, np.ndarray]


def predict(
    data: LabelledImages,
    positions: Sequence[int],
    nets: Sequence[tuple[Net, Predictions]],
    *,
    workers: int | None = None,
    clock: Clock | None = None,
    on_images: Callable[[int], None] = lambda count: None,
) -> None:
    """Completes the predictions of `nets` for the images at `positions` of `data`.

    `workers`: threads that decode, one a core if not given. `on_images` is called with the number of images done since
    the last call. An image that can't be read has zeros for probabilities and its reason beside its name.
    """
    clock = clock or Clock()
    clock.workers = workers or os.cpu_count() or 1
    batch, began = nets[0][1].about.batch, time.perf_counter()
    start = min(predictions.done for _, predictions in nets)
    on_images(start)
    batches = _decoded(data, positions, start, batch, {_square(net) for net, _ in nets}, clock.workers, clock)
    # Nets of one recipe share the mean, and so the patches.
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
    """What each net takes for the images that could be read, filled up to the batch; None where there are none. Nets
    with the same second element take the same."""
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
    """Runs the nets on a batch and appends what they give; returns the number of its images."""
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
    """What a net takes for each image (V patches, or one square), as one array of batch * V that ends in zeros."""
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
    """(Place of the first among `positions`, images) of each batch from place `start` on."""
    folder = f"{data.root}{os.sep}"
    with ThreadPoolExecutor(workers) as pool:
        coming: deque[tuple[int, list[Future[Decoded]]]] = deque()
        try:
            begin, walk = start, _timed(data.at(positions[start:], "yield"), clock)
            while examples := list(islice(walk, batch)):
                coming.append((begin, [pool.submit(_decode, example, folder, kinds, clock) for example in examples]))
                begin += len(examples)
                if len(coming) > AHEAD:
                    yield _finished(*coming.popleft())
            while coming:
                yield _finished(*coming.popleft())
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
    name = printable(example.name.removeprefix(folder).replace(os.sep, "/"))  # the same wherever the set lies
    try:
        if example.error is not None:
            raise UnreadableInputError(example.error)
        with clock("decode"):
            # Labels were made without regard to EXIF orientation. The largest S decides how far a JPEG may shrink.
            largest = max(kind.size for kind in kinds)
            image = read_rgb(example.data, name=name, shrink_to=largest, apply_exif=False)
        with clock("resize"):
            squares = {kind: square_of(image, kind) for kind in kinds}
    except UnreadableInputError as error:
        return Decoded(Row(name, example.label, str(error).removeprefix(f"{name}: ")), {})
    return Decoded(Row(name, example.label, None), squares)
