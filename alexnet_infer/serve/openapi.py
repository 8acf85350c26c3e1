"""The description of the routes: an OpenAPI 3.1 document, and a page that is made from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alexnet_infer import pages
from alexnet_infer.serve.limits import MAX_JSON_BYTES, Limits
from alexnet_infer.serve.model import Model
from alexnet_infer.serve.photos import TOP
from alexnet_infer.serve.protocol import VERSION
from alexnet_infer.serve.schemas import SCHEMAS, ref
from alexnet_infer.version import __version__

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The page's Content-Security-Policy: it loads nothing and runs nothing."""

Json = dict[str, Any]

_ERRORS = {
    400: "The request is wrong. The error says what was expected.",
    404: "No such model or version.",
    408: "The body did not arrive in time.",
    413: "The body, its JSON or its number of images is too large.",
    415: "The Content-Encoding is not gzip or deflate.",
    503: "The server is busy, is shutting down, or the net failed. Try again after the seconds in Retry-After.",
}
_WORK = (400, 404, 408, 413, 415, 503)


def document(models: Sequence[Model], limits: Limits) -> Json:
    """Return the OpenAPI document of a server."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "alexnet-infer",
            "version": __version__,
            "summary": f"Serves {', '.join(model.name for model in models)}.",
            "description": (
                "Photos in, labels out (/v1), and the Open Inference Protocol, KServe v2, for programs (/v2). Errors "
                'are {"error": "..."}: one line with the value, what was expected and what to do.'
            ),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": _paths(models, limits),
        "components": {
            "schemas": SCHEMAS,
            "responses": {f"Error{status}": _error(status) for status in _ERRORS},
            "parameters": {
                "name": _in_path("name", "A model.", {"type": "string", "enum": [model.name for model in models]}),
                "version": _in_path("version", "Its version.", {"type": "string", "const": VERSION}),
            },
        },
    }


def page(openapi: Json) -> str:
    """Return the page for people: one HTML file that loads nothing."""
    return pages.render("alexnet_infer.serve", "docs.html.jinja", {"openapi": openapi, "operations": _rows(openapi)})


def _rows(openapi: Json) -> list[Json]:
    """Return what the page shows of each operation, with references resolved."""

    def found(value: Json) -> Json:
        while "$ref" in value:
            target: Any = openapi
            for key in value["$ref"].removeprefix("#/").split("/"):
                target = target[key]
            value = target
        return value

    return [
        {
            "method": method.upper(),
            "path": path,
            **operation,
            "parameters": [found(parameter) for parameter in operation.get("parameters", ())],
            "responses": {status: found(response) for status, response in operation["responses"].items()},
        }
        for path, operations in openapi["paths"].items()
        for method, operation in operations.items()
    ]


def _paths(models: Sequence[Model], limits: Limits) -> Json:
    versions = {
        path.replace("{name}", "{name}/versions/{version}"): operation for path, operation in _of_models(limits).items()
    }
    return {
        "/v1/classify": {"post": _classify(models, limits)},
        **{path: _with_path(path, operations) for path, operations in (_of_models(limits) | versions).items()},
        "/v2": {"get": _operation("serverMetadata", "The server and the extensions that it has.", "ServerMetadata")},
        "/v2/health/live": {"get": _operation("serverLive", "Whether the server runs.", "Live")},
        "/v2/health/ready": {
            "get": _operation(
                "serverReady", "Whether all models are ready. While it shuts down they are not.", "Ready", 503
            )
        },
        "/v2/repository/index": {
            "post": _operation("repositoryIndex", "All models and whether they are ready.", "RepositoryIndex")
        },
        "/metrics": {"get": _operation("metrics", "Metrics for Prometheus.", None, content="text/plain")},
        "/openapi.json": {"get": _operation("openapi", "This document.", "Object")},
        "/docs": {"get": _operation("docs", "This document as a page.", None, content="text/html")},
    }


def _classify(models: Sequence[Model], limits: Limits) -> Json:
    names = [model.name for model in models]
    query = [
        ("top", f"The number of labels, by default {TOP}.", {"type": "integer", "minimum": 1}),
        ("model", f"A model, by default {names[0]}.", {"type": "string", "enum": names}),
    ]
    operation = _operation(
        "classify", "The labels of a photo, as alexnet-infer classify --json prints them.", "Labels", *_WORK
    )
    return operation | {
        "description": (
            "The body is the content of an image file, of any format that classify reads, and of any Content-Type: "
            f"at most {limits.max_body:,} bytes and {limits.max_pixels:,} pixels. EXIF orientation is applied."
        ),
        "parameters": [
            {"name": name, "in": "query", "description": text, "schema": schema} for name, text, schema in query
        ],
        "requestBody": {
            "required": True,
            "content": {kind: {} for kind in ("application/octet-stream", "image/*", "*/*")},
        },
    }


def _of_models(limits: Limits) -> dict[str, Json]:
    """Return the operations on a model. They are the same on its only version."""
    path = "/v2/models/{name}"
    return {
        f"{path}/infer": {"post": _infer(limits)},
        path: {"get": _operation("modelMetadata", "A model's input and output.", "ModelMetadata", 404)},
        f"{path}/ready": {
            "get": _operation(
                "modelReady", "Whether a model is ready: its latest batch worked.", "ModelReady", 404, 503
            )
        },
        f"{path}/config": {
            "get": _operation("modelConfig", "Triton's configuration, with the net's manifest.", "ModelConfig", 404)
        },
    }


def _infer(limits: Limits) -> Json:
    binary = {"type": "string", "description": "The JSON, and behind it the tensors' values, little-endian."}
    header = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "description": "The bytes of the JSON, if a binary tensor follows it.",
        "schema": {"type": "integer", "minimum": 0},
    }
    operation = _operation("infer", "The probabilities of square images.", "InferResponse", *_WORK)
    operation["responses"]["200"]["content"]["application/octet-stream"] = {"schema": binary}
    operation["responses"]["200"]["headers"] = {
        header["name"]: {"description": header["description"], "schema": header["schema"]}
    }
    return operation | {
        "description": (
            f"At most {limits.queue:,} images and {limits.max_body:,} bytes, of which {MAX_JSON_BYTES:,} may be JSON. "
            "The body may be compressed (Content-Encoding gzip or deflate)."
        ),
        "parameters": [header],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": ref("InferRequest")},
                "application/octet-stream": {"schema": binary},
            },
        },
    }


def _with_path(path: str, operations: Json) -> Json:
    """Return operations on a path with the parameters in it, and names of their own if it has a version."""
    names = [name for name in ("name", "version") if f"{{{name}}}" in path]
    parameters = [{"$ref": f"#/components/parameters/{name}"} for name in names]
    suffix = "OfVersion" if "version" in names else ""
    return {
        method: operation
        | {
            "operationId": operation["operationId"] + suffix,
            "parameters": [*parameters, *operation.get("parameters", ())],
        }
        for method, operation in operations.items()
    }


def _operation(name: str, summary: str, schema: str | None, *errors: int, content: str = "application/json") -> Json:
    answer = {"schema": ref(schema)} if schema is not None else {"schema": {"type": "string"}}
    return {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": {"description": "Success.", "content": {content: answer}},
            **{str(status): {"$ref": f"#/components/responses/Error{status}"} for status in errors},
        },
    }


def _error(status: int) -> Json:
    response: Json = {
        "description": _ERRORS[status],
        "content": {"application/json": {"schema": ref("Error")}},
    }
    if status == 503:
        response["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return response


def _in_path(name: str, text: str, schema: Json) -> Json:
    return {"name": name, "in": "path", "required": True, "description": text, "schema": schema}
