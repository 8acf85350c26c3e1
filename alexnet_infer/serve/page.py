"""The OpenAPI document as a page for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from alexnet_infer import pages
from alexnet_infer.packages import missing_package
from alexnet_infer.serve.openapi import Json

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The page's Content-Security-Policy: it loads nothing and runs nothing."""


def page(openapi: Json) -> str:
    """Return the page: one HTML file that loads nothing. Raises BackendError if jinja2 is missing."""
    try:
        return pages.render(
            "alexnet_infer.serve", "docs.html.jinja", {"openapi": openapi, "operations": _rows(openapi)}
        )
    except ImportError as error:
        raise missing_package(error, extra="serve") from None


def _rows(openapi: Json) -> list[Json]:
    """Return what the page shows of each operation, with references resolved."""

    def found(value: Json) -> Json:
        while "$ref" in value:
            target: Any = openapi
            for key in value["$ref"].removeprefix("#/").split("/"):
                target = target[key]
            value = target
        return value

    def fields_of(body: Json) -> list[tuple[str, str]]:
        schemas = [content["schema"] for content in body.get("content", {}).values() if "schema" in content]
        return [*_fields(found(schemas[0]))] if schemas else []

    return [
        {
            "method": method.upper(),
            "path": path,
            **operation,
            "parameters": [found(parameter) for parameter in operation.get("parameters", ())],
            "responses": {status: found(response) for status, response in operation["responses"].items()},
            "sent": fields_of(operation.get("requestBody", {})),
            "answered": fields_of(operation["responses"]["200"]),
        }
        for path, operations in openapi["paths"].items()
        for method, operation in operations.items()
    ]


def _fields(schema: Json, name: str = "", required: bool = True) -> Iterator[tuple[str, str]]:
    """Yield the name and the description of each value in JSON of this schema, as in "inputs[].shape"."""
    if schema.get("properties"):
        for key, part in schema["properties"].items():
            yield from _fields(part, f"{name}.{key}".lstrip("."), required and key in schema["required"])
    elif schema.get("items", {}).get("properties"):
        yield from _fields(schema["items"], f"{name}[]", required)
    elif name:
        values = [schema["const"]] if "const" in schema else schema.get("enum", [])
        facts = [" or ".join(map(json.dumps, values)) or schema.get("type", ""), schema.get("description", "")]
        yield name, "; ".join([fact for fact in facts if fact] + ([] if required else ["optional"]))
