"""The JSON schemas of what clients send and get, for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alexnet_infer.graph.served import SHA256_KEY
from alexnet_infer.serve.protocol import INPUT, LONGEST_ID, OUTPUT

Json = dict[str, Any]


def ref(schema: str) -> Json:
    """Return a reference to one of SCHEMAS."""
    return {"$ref": f"#/components/schemas/{schema}"}


def _object(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> Json:
    return {"type": "object", "required": [*required], "properties": {**required, **(optional or {})}}


def _array(items: Json, **more: Any) -> Json:
    return {"type": "array", "items": items, **more}


_TEXT, _FLAG, _WHOLE = {"type": "string"}, {"type": "boolean"}, {"type": "integer"}
_TENSOR = {"name": _TEXT, "datatype": _TEXT, "shape": _array(_WHOLE)}
_SHAPE = _array({"type": "integer", "minimum": 1}, minItems=4, maxItems=4, description="[N, S, S, 3]")
_SIZE = {"binary_data_size": {"type": "integer", "description": "The bytes of the tensor behind the JSON."}}

SCHEMAS: Json = {
    "Object": {"type": "object"},
    "Error": _object({"error": _TEXT}),
    "Live": _object({"live": _FLAG}),
    "Ready": _object({"ready": _FLAG}),
    "ModelReady": _object({"name": _TEXT, "ready": _FLAG}),
    "ServerMetadata": _object({"name": _TEXT, "version": _TEXT, "extensions": _array(_TEXT)}),
    "ModelMetadata": _object(
        {
            "name": _TEXT,
            "versions": _array(_TEXT),
            "platform": _TEXT,
            "inputs": _array(_object(_TENSOR)),
            "outputs": _array(_object(_TENSOR)),
        }
    ),
    "ModelConfig": _object(
        {
            "name": _TEXT,
            "max_batch_size": _WHOLE,
            "input": _array({"type": "object"}),
            "output": _array({"type": "object"}),
            "parameters": {
                "type": "object",
                "description": "The net's manifest, what is served, and a digest that changes if the answers may.",
                "additionalProperties": _object({"string_value": _TEXT}),
            },
        }
    ),
    "RepositoryIndex": _array(
        _object({"name": _TEXT, "version": _TEXT, "state": {"enum": ["READY", "UNAVAILABLE"]}, "reason": _TEXT})
    ),
    "InferRequest": _object(
        {
            "inputs": _array(
                _object(
                    {"name": {"const": INPUT}, "datatype": {"const": "UINT8"}, "shape": _SHAPE},
                    {
                        "data": _array({}, description="0 to 255, RGB, in one list or nested as the shape."),
                        "parameters": _object({}, _SIZE),
                    },
                ),
                minItems=1,
                maxItems=1,
            )
        },
        {
            "id": {"type": "string", "maxLength": LONGEST_ID, "description": "Is in the answer, too."},
            "parameters": _object({}, {"binary_data_output": _FLAG}),
            "outputs": _array(
                _object(
                    {"name": {"const": OUTPUT}},
                    {
                        "parameters": _object(
                            {},
                            {
                                "binary_data": _FLAG,
                                "classification": {
                                    "type": "integer",
                                    "minimum": 1,
                                    "description": "Return this number of classes as text, the most probable first.",
                                },
                            },
                        )
                    },
                ),
                maxItems=1,
            ),
        },
    ),
    "InferResponse": _object(
        {
            "model_name": _TEXT,
            "model_version": _TEXT,
            "parameters": _object({SHA256_KEY: _TEXT}),
            "outputs": _array(_object(_TENSOR, {"data": _array({}), "parameters": _object({}, _SIZE)})),
        },
        {"id": _TEXT},
    ),
    "Labels": _object(
        {
            "model": _TEXT,
            "labels": _array(
                _object({"index": _WHOLE, "wnid": _TEXT, "name": _TEXT, "probability": {"type": "number"}})
            ),
            "net": _TEXT,
            "views": {"enum": ["ten", "center"]},
            "backend": _TEXT,
        },
        {"nets": _array(_TEXT)},
    ),
}
