"""What the routes do: a request in, an answer out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alexnet_infer.serve import descriptions, photos, protocol
from alexnet_infer.serve.limits import busy
from alexnet_infer.serve.metrics import CONTENT_TYPE
from alexnet_infer.serve.page import POLICY
from alexnet_infer.serve.server import Server

if TYPE_CHECKING:
    from starlette.requests import Request

JSON, BINARY = "application/json", "application/octet-stream"


@dataclass(frozen=True)
class Answer:
    """What is sent to a client."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": JSON})


Handler = Callable[[Server, "Request"], Awaitable[Answer]]


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
    return _json(server.config(server.model(request).name))


async def repository_index(server: Server, request: Request) -> Answer:
    return _json(descriptions.index_of([(model, server.unready(name)) for name, model in server.models.items()]))


async def infer(server: Server, request: Request) -> Answer:
    model = server.model(request)
    async with server.work(request) as (body, end):
        tensors = await server.read_tensors(request, body, model, end)
        probabilities = await server.probabilities(model, tensors.squares, request, end)
    answer = protocol.answer(model.name, model.digest, tensors, probabilities, model.net.classes)
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
    return _json(request.app.state.openapi)


async def page(server: Server, request: Request) -> Answer:
    headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": POLICY}
    return Answer(request.app.state.page.encode(), headers=headers)
