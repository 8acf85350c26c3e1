"""The routes of the server: what each one does, and how the OpenAPI document describes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alexnet_infer.serve import handlers, openapi
from alexnet_infer.serve.handlers import Handler
from alexnet_infer.serve.limits import Limits
from alexnet_infer.serve.model import Model
from alexnet_infer.serve.openapi import Json, operation


@dataclass(frozen=True)
class Route:
    """A path with one method. Starlette answers HEAD, too, where the method is GET."""

    method: str
    path: str
    handler: Handler
    describe: Callable[[Sequence[Model], Limits], Json]
    """Returns the operation for the OpenAPI document."""


def _route(method: str, path: str, handler: Handler, *facts: Any, **more: Any) -> Route:
    """Return a route whose description, what `operation` makes of `facts`, depends on neither models nor limits."""
    described = operation(*facts, **more)
    return Route(method, path, handler, lambda models, limits: described)


def _with_versions(*routes: Route) -> Iterator[Route]:
    """Return routes of a model, each followed by the same one of its only version."""
    for route in routes:
        yield route
        yield replace(route, path=route.path.replace("{name}", "{name}/versions/{version}"))


_MODEL = "/v2/models/{name}"
_READY = "Whether a model is ready: its latest batch worked."
_ALL_READY = "Whether all models are ready. While it shuts down they are not."
_CONFIG = "Triton's configuration, with the net's manifest."
_INDEX = "All models and whether they are ready."
ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/classify", handlers.classify, openapi.classify),
    *_with_versions(
        Route("POST", f"{_MODEL}/infer", handlers.infer, openapi.infer),
        _route("GET", _MODEL, handlers.model_metadata, "modelMetadata", "A model's tensors.", "ModelMetadata", 404),
        _route("GET", f"{_MODEL}/ready", handlers.model_ready, "modelReady", _READY, "ModelReady", 404, 503),
        _route("GET", f"{_MODEL}/config", handlers.model_config, "modelConfig", _CONFIG, "ModelConfig", 404, 503),
    ),
    _route("GET", "/v2", handlers.server_metadata, "serverMetadata", "The server's extensions.", "ServerMetadata"),
    _route("GET", "/v2/health/live", handlers.live, "serverLive", "Whether the server runs.", "Live"),
    _route("GET", "/v2/health/ready", handlers.ready, "serverReady", _ALL_READY, "Ready", 503),
    _route("POST", "/v2/repository/index", handlers.repository_index, "repositoryIndex", _INDEX, "RepositoryIndex"),
    _route("GET", "/metrics", handlers.metrics, "metrics", "Metrics for Prometheus.", None, content="text/plain"),
    _route("GET", "/openapi.json", handlers.description, "openapi", "This document.", "Object"),
    _route("GET", "/docs", handlers.page, "docs", "This document as a page.", None, content="text/html"),
)
"""All routes, the most frequent ones first: they are tried in this order."""
