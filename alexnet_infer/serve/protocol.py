"""The Open Inference Protocol (KServe v2) without HTTP: the bytes of requests and answers.

Tensors are in the JSON, or in binary behind it (the extension binary_tensor_data). Errors are `RequestError`, most of
them with the status 400. Specified in https://github.com/kserve/open-inference-protocol, and the extensions in
https://github.com/triton-inference-server/server/tree/main/docs/protocol.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np

from alexnet_infer.errors import SpecError, shown
from alexnet_infer.graph.served import SHA256_KEY
from alexnet_infer.manifest import ClassName
from alexnet_infer.metrics import highest
from alexnet_infer.serve.limits import MAX_JSON_BYTES, RequestError
from alexnet_infer.strict_json import parse

INPUT, OUTPUT = "images", "probabilities"
"""Names of the tensors, as in the files that `export` writes."""

VERSION = "1"
EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository"]

_REFUSED = {
    "shared_memory": "shared memory; send the tensor itself",
    "sequence_": "sequences: each request stands alone; leave it out",
}
"""Beginnings of parameters' names that ask for what the server lacks, and what the error says."""

LONGEST_ID = 1000
_LEVELS = Annotated[int, msgspec.Meta(ge=0, le=255)]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How a client wants the output."""

    binary: bool = False
    classification: int | None = None
    """The number of the most probable classes to return as text instead of all probabilities."""


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """A valid request: `squares` uint8 [N, S, S, 3], which may be a view of the body, and what else it says."""

    squares: np.ndarray
    id: str | None
    wanted: Wanted


def read_request(body: bytes, length: int, side: int, most: int) -> InferRequest:
    """Read the body of a request for a model that takes squares of `side` pixels.

    Its first `length` bytes are JSON. Raises RequestError, with 413 for more than `most` images.
    """
    if length > MAX_JSON_BYTES:
        raise RequestError(
            413,
            f"{length:,} bytes of JSON: expected at most {MAX_JSON_BYTES:,}; send the tensor in binary "
            "(binary_data_size), or fewer images",
        )
    data = _json(body[:length])
    tensor = _only(_list(data, "inputs"), INPUT, "inputs")
    if tensor is None:
        raise RequestError(400, f"no inputs: expected one, {INPUT}")
    shape = _shape(tensor, side, most)
    return InferRequest(squares=_tensor(tensor, shape, memoryview(body)[length:]), id=_id(data), wanted=_wanted(data))


def json_length(text: str | None, size: int) -> int:
    """Return the number of bytes of JSON in a body of `size` bytes. Raises RequestError.

    `text` is the header Inference-Header-Content-Length, and None if the body is JSON only.
    """
    if text is None:
        return size
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= size):
        raise RequestError(
            400, f"Inference-Header-Content-Length {shown(text)}: expected a number up to {size}, the bytes of the body"
        )
    return int(text)


def _json(content: bytes) -> dict[str, Any]:
    try:
        data = parse(content.decode(), "the request")
    except UnicodeDecodeError as error:
        raise RequestError(400, f"the request: not UTF-8 at byte {error.start}; expected JSON") from None
    except SpecError as error:
        raise RequestError(400, str(error)) from None
    if not isinstance(data, dict):
        raise RequestError(400, f"the request is {shown(data)}: expected a JSON object")
    return data


def _list(data: dict[str, Any], key: str) -> list[Any]:
    value = data.get(key)
    if value is not None and not isinstance(value, list):
        raise RequestError(400, f"{key}={shown(value)}: expected a list of objects")
    return value or []


def _only(tensors: list[Any], name: str, where: str) -> dict[str, Any] | None:
    """Return the only tensor of a list, or None if the list is empty."""
    for i, tensor in enumerate(tensors):
        if not isinstance(tensor, dict) or tensor.get("name") != name:
            found = tensor.get("name") if isinstance(tensor, dict) else tensor
            raise RequestError(400, f"{where}[{i}] is {shown(found)}: expected an object with the name {name!r}")
    if len(tensors) > 1:
        raise RequestError(400, f"{where}: {name} occurs {len(tensors)} times; expected it once")
    return tensors[0] if tensors else None


def _shape(tensor: dict[str, Any], side: int, most: int) -> tuple[int, ...]:
    expected = f"expected [N, {side}, {side}, 3]"
    if tensor.get("datatype") != "UINT8":
        raise RequestError(400, f"{INPUT}: datatype {shown(tensor.get('datatype'))}: expected UINT8")
    shape = tensor.get("shape")
    if not isinstance(shape, list) or any(type(n) is not int for n in shape):
        raise RequestError(400, f"{INPUT}: shape {shown(shape)}: {expected}")
    if shape[1:] != [side, side, 3] or shape[0] < 1:
        raise RequestError(400, f"{INPUT}: shape {shown(shape)}: {expected} with N of at least 1")
    if shape[0] > most:
        raise RequestError(413, f"{INPUT}: {shown(shape[0])} images: expected at most {most}; send fewer per request")
    return tuple(shape)


def _tensor(tensor: dict[str, Any], shape: tuple[int, ...], behind: memoryview) -> np.ndarray:
    size = _parameters(tensor, INPUT).get("binary_data_size")
    values = math.prod(shape)
    if size is None:
        if len(behind):
            raise RequestError(400, f"{len(behind)} bytes behind the JSON: expected none, since {INPUT} is not binary")
        return _levels(tensor.get("data"), shape, values)
    if "data" in tensor:
        raise RequestError(400, f"{INPUT} has data and binary_data_size: expected one of the two")
    if type(size) is not int or size != values or len(behind) != values:
        raise RequestError(
            400,
            f"{INPUT}: binary_data_size {shown(size)}, and {len(behind)} bytes behind the JSON: expected {values} for "
            f"the shape {list(shape)}",
        )
    return np.frombuffer(behind, np.uint8).reshape(shape)


def _levels(data: Any, shape: tuple[int, ...], values: int) -> np.ndarray:
    """Return the values of a tensor in JSON: whole numbers from 0 to 255, in one list or nested as its shape."""
    flat = not (isinstance(data, list) and data and isinstance(data[0], list))
    kind: Any = _LEVELS
    for _ in range(1 if flat else len(shape)):
        kind = list[kind]
    try:
        levels = np.array(msgspec.convert(data, kind), np.uint8)
    except (ValueError, RecursionError) as error:  # numbers of the wrong type or range; lists of several lengths
        cause = str(error) if isinstance(error, msgspec.ValidationError) else "lists of several lengths"
        raise RequestError(400, f"{INPUT}: data: {cause}; expected whole numbers from 0 to 255") from None
    if levels.shape != (shape if not flat else (values,)):
        raise RequestError(
            400, f"{INPUT}: data of the shape {list(levels.shape)}: expected {list(shape)}, or one list of {values}"
        )
    return levels.reshape(shape)


def _id(data: dict[str, Any]) -> str | None:
    value = data.get("id")
    # JSON can escape half a surrogate pair, which no text in UTF-8 has.
    if value is not None and (
        not isinstance(value, str) or len(value) > LONGEST_ID or any("\ud800" <= c <= "\udfff" for c in value)
    ):
        raise RequestError(400, f"id={shown(value)}: expected a string of at most {LONGEST_ID:,} characters")
    return value


def _parameters(data: dict[str, Any], where: str) -> dict[str, Any]:
    value = data.get("parameters")
    if value is not None and not isinstance(value, dict):
        raise RequestError(400, f"{where}: parameters={shown(value)}: expected an object")
    for key in value or ():
        for prefix, message in _REFUSED.items():
            if key.startswith(prefix):
                raise RequestError(400, f"{where}: {shown(key)}: this server has no {message}")
    return value or {}


def _wanted(data: dict[str, Any]) -> Wanted:
    binary = _flag(_parameters(data, "the request"), "binary_data_output", False)
    output = _only(_list(data, "outputs"), OUTPUT, "outputs")
    if output is None:
        return Wanted(binary=binary)
    parameters = _parameters(output, OUTPUT)
    count = parameters.get("classification")
    if count is not None and (type(count) is not int or count < 1):
        raise RequestError(400, f"{OUTPUT}: classification={shown(count)}: expected a number of classes, at least 1")
    return Wanted(binary=_flag(parameters, "binary_data", binary), classification=count)


def _flag(parameters: dict[str, Any], key: str, default: bool) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise RequestError(400, f"{key}={shown(value)}: expected true or false")
    return value


@dataclass(frozen=True)
class InferAnswer:
    """The body of an answer. `header_length` is set if binary data follows that many bytes of JSON."""

    body: bytes
    header_length: int | None = None


def answer(
    model: str, sha256: str, request: InferRequest, probabilities: np.ndarray, classes: Sequence[ClassName]
) -> InferAnswer:
    """Return the answer with `probabilities` float32 [N, classes], in the form that the request asks for.

    `sha256` is the digest of what computed them, as in the model's configuration.
    """
    texts = _classified(probabilities, request.wanted.classification, classes)
    shape = list(probabilities.shape) if texts is None else [len(texts), len(texts[0])]
    output: dict[str, Any] = {"name": OUTPUT, "datatype": "FP32" if texts is None else "BYTES", "shape": shape}
    binary = b""
    if not request.wanted.binary:
        flat = probabilities.ravel().tolist() if texts is None else [text for row in texts for text in row]
        output["data"] = flat
    else:
        binary = probabilities.astype("<f4").tobytes() if texts is None else _strings(texts)
        output["parameters"] = {"binary_data_size": len(binary)}
    data: dict[str, Any] = {"model_name": model, "model_version": VERSION, "parameters": {SHA256_KEY: sha256}}
    if request.id is not None:
        data["id"] = request.id
    head = encoded(data | {"outputs": [output]})
    return InferAnswer(head + binary, len(head) if request.wanted.binary else None)


def encoded(data: Any) -> bytes:
    """Return JSON."""
    return msgspec.json.encode(data)


def _classified(probabilities: np.ndarray, count: int | None, classes: Sequence[ClassName]) -> list[list[str]] | None:
    """Return each image's most probable classes as "probability:index:name", as Triton writes them."""
    if count is None:
        return None
    return [[f"{row[i]:.6f}:{i}:{classes[i].name}" for i in highest(row, count).tolist()] for row in probabilities]


def _strings(rows: list[list[str]]) -> bytes:
    """Return a tensor of strings in binary: each has its length in 4 bytes before it."""
    texts = [text.encode() for row in rows for text in row]
    return b"".join(part for text in texts for part in (struct.pack("<I", len(text)), text))
