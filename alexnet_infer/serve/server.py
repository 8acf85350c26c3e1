"""The state of a server: its models with their queues, what it has accepted, and how a request waits for its answer."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from alexnet_infer.errors import UsageError, listed, shown
from alexnet_infer.serve import descriptions, photos, protocol
from alexnet_infer.serve.batching import Batcher
from alexnet_infer.serve.body import Bodies
from alexnet_infer.serve.limits import Limits, RequestError, busy
from alexnet_infer.serve.metrics import Metrics
from alexnet_infer.serve.model import Model, default_batch
from alexnet_infer.serve.pace import Pace, check_in_time

if TYPE_CHECKING:
    from starlette.requests import Request

T = TypeVar("T")

CLOSE_SECONDS = 5
"""How long the nets may take to end. The requests have been answered by then."""

SMALL = 65_536
"""A request's JSON of at most this many bytes is read on the event loop, which takes less time than a thread."""


class ClientLeftError(Exception):
    """The client closed the connection before its answer."""


class Server:
    """The state of an app: its models with their queues, and the threads that decode photos.

    `workers` is the number of these threads, by default one per core. Raises UsageError if two models have the same
    name.
    """

    def __init__(self, models: Sequence[Model], limits: Limits, workers: int | None = None) -> None:
        self.models = {model.name: model for model in models}
        if not models or len(self.models) < len(models):
            names = listed(model.name for model in models)
            raise UsageError(f"models {names}: expected at least one, and different names; give names with NAME=NET")
        if limits.max_batch is None:
            limits = replace(limits, max_batch=min(default_batch(models), limits.queue))
        self.limits, self.metrics, self.bodies = limits, Metrics(), Bodies(limits)
        self.draining = self._started = False
        self.open_requests = 0
        """Requests for answers of a net that are not answered yet."""
        self._workers = workers or os.cpu_count() or 1
        self._decoding: Counter[str] = Counter()
        """Photos that are or wait to be decoded, by model."""
        self._decode_pace = Pace()
        self._pool = ThreadPoolExecutor(self._workers, "alexnet-infer-decode")
        self._batchers = {model.name: self._batcher(model) for model in models}
        self._configs: dict[str, Any] = {}

    def _batcher(self, model: Model) -> Batcher:
        batcher = Batcher(
            model.prepare,
            model.run,
            name=model.name,
            max_batch=self.limits.max_batch,
            max_delay=self.limits.max_delay_ms / 1000,
            capacity=self.limits.queue,
            on_batch=partial(self.metrics.batch, model.name),
        )
        self.metrics.watch_queue(model.name, lambda: batcher.waiting)
        return batcher

    def start(self) -> None:
        """Run every net once, and start to answer, if that is not done. Raises the errors of the nets."""
        if self._started:
            return
        self._started = True
        for model in self.models.values():
            self._batchers[model.name].start(np.zeros((1, model.side, model.side, 3), np.uint8))
            self._configs[model.name] = descriptions.config_of(model, self.limits)

    def drain(self) -> None:
        """Accept no new work. What was accepted is still answered."""
        self.draining = True

    def close(self) -> None:
        """Answer what was accepted, and end the threads. Gives up on nets that take longer than CLOSE_SECONDS."""
        self.drain()
        end = time.monotonic() + CLOSE_SECONDS
        for batcher in self._batchers.values():
            batcher.close(max(0.0, end - time.monotonic()))
        self._pool.shutdown(wait=False, cancel_futures=True)

    def unready(self, name: str) -> str:
        """Return why a model is not ready, or ""."""
        if reason := self._closed():
            return reason
        failure = self._batchers[name].failure
        return "" if failure is None else f"its latest batch failed: {failure}"

    def _closed(self) -> str:
        """Return why the server takes no work, or ""."""
        if len(self._configs) < len(self.models):
            return "the server has not started: the app in which it is mounted must run its lifespan"
        return "the server is shutting down: try another one" if self.draining else ""

    def config(self, name: str) -> Any:
        """Return the configuration of a model. Raises RequestError with the status 503 before the start."""
        if name not in self._configs:
            raise busy(self._closed())
        return self._configs[name]

    def model(self, request: Request, name: str | None = None) -> Model:
        """Return the model that the path names, or the one named `name`. Raises RequestError with the status 404."""
        name = request.path_params.get("name", name)
        version = request.path_params.get("version", protocol.VERSION)
        if name is not None and name not in self.models:
            statistics = "; GET /metrics has statistics" if name == "stats" else ""
            raise RequestError(404, f"model {shown(name)}: expected one of {listed(self.models)}{statistics}")
        if version != protocol.VERSION:
            raise RequestError(404, f"version {shown(version)} of {name}: expected {protocol.VERSION}")
        return self.models[name] if name is not None else next(iter(self.models.values()))

    @asynccontextmanager
    async def work(self, request: Request) -> AsyncIterator[tuple[bytes, float]]:
        """The body of a request for an answer of a net, and the time at which the answer must be ready.

        Raises RequestError and ClientDisconnect.
        """
        if reason := self._closed():
            raise busy(reason)
        self.open_requests += 1
        try:
            async with self.bodies.read(request) as body:
                yield body, time.monotonic() + self.limits.timeout
        finally:
            self.open_requests -= 1

    async def decode(self, content: bytes, model: Model, request: Request, end: float) -> np.ndarray:
        """Decode a photo in a thread: uint8 [1, S, S, 3]. Raises RequestError.

        A photo that the model's queue would not take is refused before.
        """
        before = self._decoding.total()
        if before >= self.limits.queue:
            raise busy(f"{before} photos wait to be decoded: try again later")
        self._batchers[model.name].check(1 + self._decoding[model.name], end)
        seconds = self._decode_pace.seconds / self._workers
        waiting = max(0, before + 1 - self._workers)  # of the threads, one may be free
        check_in_time(1, waiting, seconds, end - time.monotonic(), name="the decoder")
        self._decoding[model.name] += 1
        try:
            return await self._wait(self._pool.submit(self._timed_square, content, model), request, end)
        finally:
            self._decoding[model.name] -= 1

    def _timed_square(self, content: bytes, model: Model) -> np.ndarray:
        began = time.perf_counter()
        try:
            return photos.square_of(content, model, self.limits.max_pixels)
        finally:
            seconds = time.perf_counter() - began
            self._decode_pace.add(1, seconds)
            self.metrics.decoded(seconds)

    async def read_tensors(self, request: Request, body: bytes, model: Model, end: float) -> protocol.InferRequest:
        """Read a request of the protocol. Raises RequestError.

        Long JSON is read in a thread, and only if the model's queue would take an image.
        """
        length = protocol.json_length(request.headers.get("inference-header-content-length"), len(body))
        read = partial(protocol.read_request, body, length, model.side, self.limits.queue)
        if length <= SMALL:
            return read()
        self._batchers[model.name].check(1, end)
        return await self._wait(self._pool.submit(read), request, end)

    async def probabilities(self, model: Model, squares: np.ndarray, request: Request, end: float) -> np.ndarray:
        """Run the model on squares uint8 [N, S, S, 3], in batches with those of others. Raises RequestError."""
        return await self._wait(self._batchers[model.name].submit(squares, end), request, end)

    async def _wait(self, future: Future[T], request: Request, end: float) -> T:
        """Wait for a result until `end`, while the client waits, too. Work that nobody waits for is cancelled.

        Raises RequestError after `end`, ClientLeftError if the client leaves, and what the future raises.
        """
        result = asyncio.wrap_future(future)
        gone = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({result, gone}, timeout=end - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return result.result()
            if gone.done():
                raise ClientLeftError
            raise busy(f"no answer after {self.limits.timeout:g} s: try again later, or with fewer requests at a time")
        finally:
            gone.cancel()
            result.cancel()


async def _left(request: Request) -> None:
    """Return when the client has left. The body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
