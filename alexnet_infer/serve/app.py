"""The ASGI app: routes, and the path of a request through the server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from alexnet_infer.errors import shown
from alexnet_infer.serve import descriptions, openapi, photos, protocol
from alexnet_infer.serve.limits import Limits, RequestError, busy
from alexnet_infer.serve.metrics import CONTENT_TYPE
from alexnet_infer.serve.model import Model
from alexnet_infer.serve.server import ClientLeftError, Server

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

Handler = Callable[[Server, "Request"], Awaitable["Answer"]]

JSON, BINARY = "application/json", "application/octet-stream"
LEFT = 499
"""The status of a request whose client left before the answer, in the metrics."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """What is sent to a client."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": JSON})


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
    async with server.work(request) as (body, end):
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
    async with server.work(request) as (body, end):
        square = await server.decode(body, model, request, end)
        probabilities = await server.probabilities(model, square, request, end)
    return _json(photos.answer(model, probabilities[0], top))


async def metrics(server: Server, request: Request) -> Answer:
    return Answer(server.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


async def description(server: Server, request: Request) -> Answer:
    return _json(server.openapi)


async def page(server: Server, request: Request) -> Answer:
    headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": openapi.POLICY}
    return Answer(server.page.encode(), headers=headers)


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
    ("/openapi.json", "GET", description),
    ("/docs", "GET", page),
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
    what = f"{shown(request.method)} {shown(request.scope['path'])}"
    if "Allow" not in (error.headers or {}):
        raise RequestError(error.status_code, f"{what}: no such route; GET /docs lists them")
    allowed = ", ".join(sorted(error.headers["Allow"].split(", ")))
    answer = _refusal(RequestError(error.status_code, f"{what}: expected {allowed}"))
    return replace(answer, headers={**answer.headers, "Allow": allowed})


def _refusal(error: RequestError) -> Answer:
    headers = {"Content-Type": JSON}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.close:
        headers["Connection"] = "close"
    return Answer(protocol.encoded({"error": str(error)}), error.status, headers)
