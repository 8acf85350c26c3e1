"""The OpenAPI document: valid, complete, and true of what the server answers."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from alexnet_infer.serve.routes import ROUTES
from tests.serve.running import Reply, infer_request, random_squares

for package in ("starlette", "uvicorn", "prometheus_client", "jinja2", "onnxruntime"):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'alexnet-infer[cpu,serve]'")

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}


@pytest.fixture(scope="module")
def document(client) -> dict[str, Any]:
    reply = client("GET", "/openapi.json")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    return reply.json


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method.upper(), operation


def resolved(document: dict[str, Any], value: Any) -> Any:
    while isinstance(value, dict) and "$ref" in value:
        assert value.keys() == {"$ref"}
        target: Any = document
        for key in value["$ref"].removeprefix("#/").split("/"):
            target = target[key]
        value = target
    return value


def fits(document: dict[str, Any], schema: Any, value: Any) -> None:
    """Check `value` against the part of JSON Schema that the document uses."""
    schema = resolved(document, schema)
    known = {
        *("type", "required", "properties", "items", "enum", "const", "description", "minimum", "maximum", "maxLength"),
        *("minItems", "maxItems", "additionalProperties"),
    }
    assert schema.keys() <= known
    if "type" in schema:
        assert isinstance(value, TYPES[schema["type"]]), (schema, value)
        assert not isinstance(value, bool) or schema["type"] == "boolean"
    assert value in schema.get("enum", [value])
    assert value == schema.get("const", value)
    if isinstance(value, dict):
        assert {*schema.get("required", ())} <= value.keys(), (schema, value)
        for key, part in value.items():
            fits(document, schema.get("properties", {}).get(key, schema.get("additionalProperties", {})), part)
    if isinstance(value, list):
        assert schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        for part in value:
            fits(document, schema.get("items", {}), part)


def test_every_route_is_documented_and_every_documented_route_exists(document):
    assert {(path, method) for path, method, _ in operations(document)} == {
        (route.path, route.method) for route in ROUTES
    }


def test_the_document_has_the_form_that_openapi_3_1_demands(document):
    assert document["openapi"] == "3.1.0"
    assert document.keys() <= {"openapi", "info", "paths", "components"}
    assert {"title", "version"} <= document["info"].keys()
    names = [operation["operationId"] for *_, operation in operations(document)]
    assert len({*names}) == len(names)
    for path, _, operation in operations(document):
        assert operation.keys() <= {"operationId", "summary", "description", "parameters", "requestBody", "responses"}
        parameters = [resolved(document, parameter) for parameter in operation.get("parameters", ())]
        assert {*re.findall(r"{(\w+)}", path)} == {p["name"] for p in parameters if p["in"] == "path"}
        assert len({(p["name"], p["in"]) for p in parameters}) == len(parameters)
        for parameter in parameters:
            assert parameter.keys() <= {"name", "in", "required", "description", "schema"}
            assert parameter["in"] in ("path", "query", "header")
            assert parameter["in"] != "path" or parameter["required"] is True
        for status, response in operation["responses"].items():
            assert re.fullmatch("[1-5][0-9][0-9]", status)
            assert {"description"} <= resolved(document, response).keys() <= {"description", "content", "headers"}


def test_every_reference_leads_somewhere_and_everything_is_referred_to(document):
    text = str(document)
    used = set(re.findall(r"#/components/(\w+/\w+)", text))
    assert used == {f"{kind}/{name}" for kind, parts in document["components"].items() for name in parts}


def answers(client, models) -> Iterator[tuple[str, Reply]]:
    squares = random_squares(models["tiny-0"], 1)
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/openapi.json"):
        yield path, client("GET", path)
    yield "/v2/repository/index", client("POST", "/v2/repository/index")
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        for end in ("", "/ready", "/config"):
            yield path + end, client("GET", path.format(name="tiny-0", version="1") + end)
        yield (
            f"{path}/infer",
            client("POST", path.format(name="tiny-0", version="1") + "/infer", infer_request(squares)),
        )
    yield "/v1/classify", client("POST", "/v1/classify?model=tiny-0-and-1-more", CAT.read_bytes())


def test_what_the_server_answers_fits_the_schemas(client, models, document):
    seen = set()
    for path, reply in answers(client, models):
        (operation,) = document["paths"][path].values()
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert reply.status == 200
        fits(document, schema, reply.json)
        seen.add(path)
    assert {*document["paths"]} - seen == {"/metrics", "/docs"}
    fits(
        document,
        {"$ref": "#/components/responses/Error400"}["$ref"] and {"$ref": "#/components/schemas/Error"},
        {"error": "x"},
    )


def test_a_request_of_the_protocol_fits_the_schema_and_a_wrong_one_does_not(models, document):
    schema = {"$ref": "#/components/schemas/InferRequest"}
    request = json.loads(
        infer_request(random_squares(models["tiny-0"], 1), id="x", outputs=[{"name": "probabilities"}])
    )
    fits(document, schema, request)
    for wrong in ({}, {"inputs": []}, request | {"id": 1}, request | {"outputs": [{"name": "x"}]}):
        with pytest.raises(AssertionError):
            fits(document, schema, wrong)


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for key, value in attributes if key in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_every_route_and_loads_nothing(client, document):
    reply = client("GET", "/docs")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    page = Page(reply.body.decode())
    assert page.loads == ["openapi.json"]  # a link
    assert not {*page.tags} & {"script", "link", "img", "iframe"}
    assert "@import" not in page.text
    assert "url(" not in page.text
    for path, method, operation in operations(document):
        assert f"{method} {path}" in page.text
        assert operation["summary"] in page.text


def test_the_page_shows_what_is_in_a_request_and_in_an_answer(client):
    text = html.unescape(client("GET", "/docs").body.decode())
    sections = {part.split('"')[0]: " ".join(re.sub("<.*?>", " ", part).split()) for part in text.split('<h2 id="')[1:]}
    for name in ("infer", "inferOfVersion"):
        assert 'inputs[].name "images" (body)' in sections[name]
        assert 'inputs[].datatype "UINT8" (body)' in sections[name]
        assert "inputs[].shape array; [N, S, S, 3] (body)" in sections[name]
        assert "outputs[].parameters.classification integer; Return this number" in sections[name]
        assert "outputs[].datatype string (answer)" in sections[name]
    assert 'views "ten" or "center" (answer)' in sections["classify"]
    assert "ready boolean (answer)" in sections["serverReady"]


def test_the_number_of_labels_has_the_maximum_that_the_server_accepts(client, models, document):
    (top,) = [row for row in document["paths"]["/v1/classify"]["post"]["parameters"] if row["name"] == "top"]
    most = top["schema"]["maximum"]
    statuses = {
        (name, count): client("POST", f"/v1/classify?model={name}&top={count}", CAT.read_bytes()).status
        for name in models
        for count in (most, most + 1)
    }
    assert {count for (_, count), status in statuses.items() if status == 200} == {most}


def test_head_is_answered_where_the_document_says_so(client, document):
    assert "Every path with GET also answers HEAD" in document["info"]["description"]
    for path, method, _ in operations(document):
        reply = client("HEAD", path.format(name="tiny-0", version="1"))
        assert (reply.status, reply.body) == (200 if method == "GET" else 405, b""), path
