"""The ASGI app: the path of a request through the server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from alexnet_infer.errors import shown
from alexnet_infer.serve import protocol
from alexnet_infer.serve.handlers import JSON, Answer, Handler
from alexnet_infer.serve.limits import Limits, RequestError
from alexnet_infer.serve.model import Model
from alexnet_infer.serve.openapi import document
from alexnet_infer.serve.page import page
from alexnet_infer.serve.routes import ROUTES
from alexnet_infer.serve.server import ClientLeftError, Server

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

LEFT = 499
"""The status of a request whose client left before the answer, in the metrics."""

_log = logging.getLogger(__name__)


def create_app(models: Sequence[Model], limits: Limits | None = None, *, workers: int | None = None) -> Starlette:
    """Return the ASGI app that serves `models`. Its `state.server` is the `Server`.

    The nets are run for the first time when the app starts (ASGI's lifespan), and it closes when the app ends. An app
    in which it is mounted must run that, too: until then, every request for work gets 503. Raises UsageError if two
    models have the same name.
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
        routes=[Route(row.path, _endpoint(server, row.path, row.handler), methods=[row.method]) for row in ROUTES],
        exception_handlers={HTTPException: _endpoint(server, "none", _no_route)},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.server = server
    app.state.openapi = document(ROUTES, models, server.limits)
    app.state.page = page(app.state.openapi)
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
