"""The server inside another app, which may or may not run its lifespan."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from alexnet_infer.serve.app import create_app
from tests.serve.running import infer_request, random_squares

for package in ("starlette", "uvicorn", "prometheus_client", "jinja2", "onnxruntime"):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'alexnet-infer[cpu,serve]'")


def mounted(app: Any, **options: Any) -> Any:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    return Starlette(routes=[Mount("/alexnet", app)], **options)


async def ask(app: Any, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
    """Call an ASGI app with one request. The client stays until it has the answer."""
    sent: list[dict[str, Any]] = []
    received = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        return next(received, None) or await asyncio.Future()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b"", "root_path": ""}
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_without_its_lifespan_the_server_says_so_at_once(models):
    model = models["tiny-0"]
    app = mounted(create_app([model]))

    async def check() -> None:
        assert await ask(app, "GET", "/alexnet/v2/health/live") == (200, {"live": True})
        for method, path in (
            ("GET", "/v2/health/ready"),
            ("GET", "/v2/models/tiny-0/ready"),
            ("GET", "/v2/models/tiny-0/config"),
            ("GET", "/v2/models/tiny-0/versions/1/config"),
            ("POST", "/v2/models/tiny-0/infer"),
            ("POST", "/v1/classify"),
        ):
            status, answer = await ask(app, method, f"/alexnet{path}", infer_request(random_squares(model, 1)))
            assert status == 503, path
            assert "the app in which it is mounted must run its lifespan" in answer["error"]
        status, ((row,)) = await ask(app, "POST", "/alexnet/v2/repository/index")
        assert (status, row["state"]) == (200, "UNAVAILABLE")
        assert "lifespan" in row["reason"]

    asyncio.run(check())


def test_an_app_that_runs_its_lifespan_serves_it(models):
    model = models["tiny-0"]
    inner = create_app([model])
    outer = mounted(inner, lifespan=lambda outer: inner.router.lifespan_context(inner))

    async def check() -> None:
        async with outer.router.lifespan_context(outer):
            assert (await ask(outer, "GET", "/alexnet/v2/health/ready"))[0] == 200
            assert (await ask(outer, "GET", "/alexnet/v2/models/tiny-0/config"))[1]["name"] == "tiny-0"
            body = infer_request(random_squares(model, 1))
            status, answer = await ask(outer, "POST", "/alexnet/v2/models/tiny-0/infer", body)
            assert (status, answer["outputs"][0]["shape"]) == (200, [1, 7])
            assert (await ask(outer, "GET", "/alexnet/openapi.json"))[1]["openapi"] == "3.1.0"
        assert "shutting down" in (await ask(outer, "POST", "/alexnet/v1/classify"))[1]["error"]

    asyncio.run(check())
