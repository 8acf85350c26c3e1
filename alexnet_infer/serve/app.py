"""The ASGI app: routes, and the path of a request through the server."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from alexnet_infer.errors import UsageError, listed, shown
from alexnet_infer.serve import descriptions, photos, protocol
from alexnet_infer.serve.batching import Batcher
from alexnet_infer.serve.body import Bodies
from alexnet_infer.serve.limits import Limits, RequestError, busy
from alexnet_infer.serve.metrics import CONTENT_TYPE, Metrics
from alexnet_infer.serve.model import Model

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

T = TypeVar("T")
Handler = Callable[["Server", "Request"], Awaitable["Answer"]]

JSON, BINARY = "application/json", "application/octet-stream"
LEFT = 499
"""The status of a request whose client left before the answer, in the metrics."""

SMALL = 65_536
"""A request's JSON of at most this many bytes is read on the event loop, which takes less time than a thread."""

_log = logging.getLogger(__name__)


class ClientLeftError(Exception):
    """The client closed the connection before its answer."""


@dataclass(frozen=True)
class Answer:
    """What is sent to a client."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": JSON})


class Server:
    """The state of an app: its models with their queues, and the threads that decode photos.

    `workers` is the number of these threads, by default one per core. Raises UsageError if two models have the same
    name.
    """

    def __init__(self, models: Sequence[Model], limits: Limits, workers: int | None = None) -> None:
        self.limits, self.metrics, self.bodies = limits, Metrics(), Bodies(limits)
        self.models = {model.name: model for model in models}
        if not models or len(self.models) < len(models):
            names = listed(model.name for model in models)
            raise UsageError(f"models {names}: expected at least one, and different names; give names with NAME=NET")
        self.draining = self._started = False
        self.open_requests = 0
        """Requests for answers of a net that are not answered yet."""
        self._decoding = 0
        self._pool = ThreadPoolExecutor(workers or os.cpu_count() or 1, "alexnet-infer-decode")
        self._batchers = {model.name: self._batcher(model) for model in models}
        self.configs: dict[str, Any] = {}

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
            self.configs[model.name] = descriptions.config_of(model, self.limits)

    def drain(self) -> None:
        """Accept no new work. What was accepted is still answered."""
        self.draining = True

    def close(self) -> None:
        """Answer what was accepted, within the time limit of requests, and end the threads."""
        self.drain()
        end = time.monotonic() + self.limits.timeout
        for batcher in self._batchers.values():
            batcher.close(max(0.0, end - time.monotonic()))
        self._pool.shutdown(wait=False, cancel_futures=True)

    def unready(self, name: str) -> str:
        """Return why a model is not ready, or ""."""
        if self.draining:
            return "the server is shutting down"
        failure = self._batchers[name].failure
        return "" if failure is None else f"its latest batch failed: {failure}"

    def model(self, request: Request, name: str | None = None) -> Model:
        """Return the model that the path names, or the one named `name`. Raises RequestError with the status 404."""
        name = request.path_params.get("name", name)
        version = request.path_params.get("version", protocol.VERSION)
        if name is not None and name not in self.models:
            raise RequestError(404, f"model {shown(name)}: expected one of {listed(self.models)}")
        if version != protocol.VERSION:
            raise RequestError(404, f"version {shown(version)} of {name}: expected {protocol.VERSION}")
        return self.models[name] if name is not None else next(iter(self.models.values()))

    async def decode(self, content: bytes, model: Model, request: Request, end: float) -> np.ndarray:
        """Decode a photo in a thread: uint8 [1, S, S, 3]. Raises RequestError."""
        if self._decoding >= self.limits.queue:
            raise busy(f"{self._decoding} photos wait to be decoded: try again later")
        self._decoding += 1
        try:
            return await self._wait(self._pool.submit(self._timed_square, content, model), request, end)
        finally:
            self._decoding -= 1

    def _timed_square(self, content: bytes, model: Model) -> np.ndarray:
        began = time.perf_counter()
        try:
            return photos.square_of(content, model, self.limits.max_pixels)
        finally:
            self.metrics.decoded(time.perf_counter() - began)

    async def read_tensors(self, request: Request, body: bytes, model: Model, end: float) -> protocol.InferRequest:
        """Read a request of the protocol, in a thread if its JSON is long. Raises RequestError."""
        length = request.headers.get("inference-header-content-length")
        read = partial(protocol.read_request, body, length, model.side, self.limits.queue)
        if len(body) <= SMALL or (length is not None and len(length) < 6):
            return read()
        return await self._wait(self._pool.submit(read), request, end)

    async def probabilities(self, model: Model, squares: np.ndarray, request: Request, end: float) -> np.ndarray:
        """Run the model on squares uint8 [N, S, S, 3], in batches with those of others. Raises RequestError."""
        return await self._wait(self._batchers[model.name].submit(squares), request, end)

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


def _json(data: Any) -> Answer:
    return Answer(protocol.encoded(data))


async def server_metadata(server: Server, request: Request) -> Answer:
    return _json(descriptions.of_server())


async def live(server: Server, request: Request) -> Answer:
    return _json({"live": True})


async def ready(server: Server, request: Request) -> Answer:
    reasons = [reason for name in server.models if (reason := server.unready(name))]
    if reasons:
        raise busy(f"not ready: {reasons[0]}")
    return _json({"ready": True})


async def model_ready(server: Server, request: Request) -> Answer:
    model = server.model(request)
    if reason := server.unready(model.name):
        raise busy(f"{model.name} is not ready: {reason}")
    return _json({"name": model.name, "ready": True})


async def model_metadata(server: Server, request: Request) -> Answer:
    return _json(descriptions.of_model(server.model(request)))


async def model_config(server: Server, request: Request) -> Answer:
    return _json(server.configs[server.model(request).name])


async def repository_index(server: Server, request: Request) -> Answer:
    return _json(descriptions.index_of([(model, server.unready(name)) for name, model in server.models.items()]))


async def infer(server: Server, request: Request) -> Answer:
    model = server.model(request)
    async with _work(server, request) as (body, end):
        tensors = await server.read_tensors(request, body, model, end)
        probabilities = await server.probabilities(model, tensors.squares, request, end)
    answer = protocol.answer(model.name, tensors, probabilities, model.net.classes)
    if answer.header_length is None:
        return Answer(answer.body)
    headers = {"Content-Type": BINARY, "Inference-Header-Content-Length": str(answer.header_length)}
    return Answer(answer.body, headers=headers)


async def classify(server: Server, request: Request) -> Answer:
    model = server.model(request, request.query_params.get("model"))
    top = photos.top_of(request.query_params.get("top"), model)
    async with _work(server, request) as (body, end):
        square = await server.decode(body, model, request, end)
        probabilities = await server.probabilities(model, square, request, end)
    return _json(photos.answer(model, probabilities[0], top))


@asynccontextmanager
async def _work(server: Server, request: Request) -> AsyncIterator[tuple[bytes, float]]:
    """The body of a request for an answer of a net, and the time at which the answer must be ready."""
    if server.draining:
        raise busy("the server is shutting down: try another one")
    server.open_requests += 1
    try:
        async with server.bodies.read(request) as body:
            yield body, time.monotonic() + server.limits.timeout
    finally:
        server.open_requests -= 1


async def metrics(server: Server, request: Request) -> Answer:
    return Answer(server.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


_MODEL = "/v2/models/{name}"
_VERSION = _MODEL + "/versions/{version}"
ROUTES: tuple[tuple[str, str, Handler], ...] = (
    (f"{_MODEL}/infer", "POST", infer),
    (f"{_VERSION}/infer", "POST", infer),
    ("/v1/classify", "POST", classify),
    ("/v2", "GET", server_metadata),
    ("/v2/health/live", "GET", live),
    ("/v2/health/ready", "GET", ready),
    (_MODEL, "GET", model_metadata),
    (_VERSION, "GET", model_metadata),
    (f"{_MODEL}/ready", "GET", model_ready),
    (f"{_VERSION}/ready", "GET", model_ready),
    (f"{_MODEL}/config", "GET", model_config),
    (f"{_VERSION}/config", "GET", model_config),
    ("/v2/repository/index", "POST", repository_index),
    ("/metrics", "GET", metrics),
)
"""Path, method and handler, the most frequent ones first: they are tried in this order."""


def create_app(models: Sequence[Model], limits: Limits | None = None, *, workers: int | None = None) -> Starlette:
    """Return the ASGI app that serves `models`. Its `state.server` is the `Server`.

    The nets are run for the first time when the app starts (ASGI's lifespan), and it closes when the app ends. Raises
    UsageError if two models have the same name.
    """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    server = Server(models, limits or Limits(), workers)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await asyncio.to_thread(server.start)
        try:
            yield
        finally:
            await asyncio.to_thread(server.close)

    app = Starlette(
        routes=[
            Route(path, _endpoint(server, path, handler), methods=[method], name=f"{method} {path}")
            for path, method, handler in ROUTES
        ],
        exception_handlers={HTTPException: _endpoint(server, "none", _no_route)},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.server = server
    return app


def _endpoint(server: Server, path: str, handler: Handler) -> Callable[..., Awaitable[Response]]:
    """Return Starlette's function for a handler: errors become answers, and requests are counted."""
    from starlette.requests import ClientDisconnect
    from starlette.responses import Response

    async def endpoint(request: Request, *error: Exception) -> Response:
        began = time.perf_counter()
        try:
            answer = await handler(server, request, *error)
        except RequestError as refused:
            answer = _refusal(refused)
        except (ClientLeftError, ClientDisconnect):
            answer = Answer(status=LEFT)
        except Exception:  # a bug
            _log.exception("%s failed", path)
            answer = _refusal(RequestError(500, "the server has a bug: its log says more"))
        server.metrics.request(path, answer.status, time.perf_counter() - began)
        return Response(answer.body, answer.status, answer.headers)

    return endpoint


async def _no_route(server: Server, request: Request, error: Any) -> Answer:
    """Refuse a path or method that no route has, as Starlette's HTTPException says."""
    what = f"{shown(request.method)} {shown(request.url.path)}"
    allowed = (error.headers or {}).get("Allow")
    if allowed is None:
        raise RequestError(error.status_code, f"{what}: no such route; GET /docs lists them")
    answer = _refusal(RequestError(error.status_code, f"{what}: expected {allowed}"))
    return replace(answer, headers={**answer.headers, "Allow": allowed})


def _refusal(error: RequestError) -> Answer:
    headers = {"Content-Type": JSON}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.close:
        headers["Connection"] = "close"
    return Answer(protocol.encoded({"error": str(error)}), error.status, headers)
