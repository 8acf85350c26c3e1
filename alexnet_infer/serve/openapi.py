"""The description of the routes: an OpenAPI 3.1 document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from alexnet_infer.serve.limits import MAX_JSON_BYTES, Limits
from alexnet_infer.serve.model import Model
from alexnet_infer.serve.photos import TOP
from alexnet_infer.serve.protocol import VERSION
from alexnet_infer.serve.schemas import SCHEMAS, ref
from alexnet_infer.version import __version__

if TYPE_CHECKING:
    from alexnet_infer.serve.routes import Route

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


def document(routes: Sequence[Route], models: Sequence[Model], limits: Limits) -> Json:
    """Return the OpenAPI document of a server with these routes."""
    paths: Json = {}
    for route in routes:
        described = _with_path(route.path, route.describe(models, limits))
        paths.setdefault(route.path, {})[route.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "alexnet-infer",
            "version": __version__,
            "summary": f"Serves {', '.join(model.name for model in models)}.",
            "description": (
                "Photos in, labels out (/v1), and the Open Inference Protocol, KServe v2, for programs (/v2). Errors "
                'are {"error": "..."}: one line with the value, what was expected and what to do. Every path with GET '
                "also answers HEAD, with the headers of GET only."
            ),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "responses": {f"Error{status}": _error(status) for status in _ERRORS},
            "parameters": {
                "name": _in_path("name", "A model.", {"type": "string", "enum": [model.name for model in models]}),
                "version": _in_path("version", "Its version.", {"type": "string", "const": VERSION}),
            },
        },
    }


def classify(models: Sequence[Model], limits: Limits) -> Json:
    """Return the operation that labels a photo."""
    names = [model.name for model in models]
    most = max(len(model.net.classes) for model in models)
    top = f"The number of labels, at most the model's classes and by default {TOP}, or all if there are fewer."
    query = [
        ("top", top, {"type": "integer", "minimum": 1, "maximum": most}),
        ("model", f"A model, by default {names[0]}.", {"type": "string", "enum": names}),
    ]
    described = operation(
        "classify", "The labels of a photo, as alexnet-infer classify --json prints them.", "Labels", *_WORK
    )
    return described | {
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


def infer(models: Sequence[Model], limits: Limits) -> Json:
    """Return the operation that runs a model on squares."""
    binary = {"type": "string", "description": "The JSON, and behind it the tensors' values, little-endian."}
    header = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "description": "The bytes of the JSON, if a binary tensor follows it.",
        "schema": {"type": "integer", "minimum": 0},
    }
    described = operation("infer", "The probabilities of square images.", "InferResponse", *_WORK)
    described["responses"]["200"]["content"]["application/octet-stream"] = {"schema": binary}
    described["responses"]["200"]["headers"] = {
        header["name"]: {"description": header["description"], "schema": header["schema"]}
    }
    return described | {
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


def _with_path(path: str, described: Json) -> Json:
    """Return an operation with the parameters that are in its path, and a name of its own if it has a version."""
    names = [name for name in ("name", "version") if f"{{{name}}}" in path]
    parameters = [{"$ref": f"#/components/parameters/{name}"} for name in names] + described.get("parameters", [])
    suffix = "OfVersion" if "version" in names else ""
    more = {"parameters": parameters} if parameters else {}
    return described | {"operationId": described["operationId"] + suffix} | more


def operation(name: str, summary: str, schema: str | None, *errors: int, content: str = "application/json") -> Json:
    """Return an operation whose answer has one of SCHEMAS, or is text, and that may fail with the statuses `errors`."""
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
