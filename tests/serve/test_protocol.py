"""The Open Inference Protocol, without a server: requests by hand, answers read by NVIDIA's client."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from alexnet_infer.graph.served import SHA256_KEY
from alexnet_infer.manifest import ClassName
from alexnet_infer.serve.limits import MAX_JSON_BYTES, RequestError
from alexnet_infer.serve.protocol import InferRequest, Wanted, answer, json_length, read_request

SIDE, MOST = 2, 3
SQUARES = np.arange(2 * SIDE * SIDE * 3, dtype=np.uint8).reshape(2, SIDE, SIDE, 3)
VALUES = SQUARES.ravel().tolist()
TENSOR = {"name": "images", "datatype": "UINT8", "shape": [2, 2, 2, 3], "data": VALUES}
BINARY = {**TENSOR, "parameters": {"binary_data_size": 24}}
del BINARY["data"]
CLASSES = [ClassName(wnid=f"n{i}", name=f"class {i}: with a colon, é") for i in range(4)]
PROBABILITIES = np.array([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.5, 0.0]], np.float32)


def read(data: Any, behind: bytes = b"") -> InferRequest:
    head = data if isinstance(data, bytes) else json.dumps(data).encode()
    return read_request(head + behind, len(head), SIDE, MOST)


@pytest.mark.parametrize(
    ("data", "behind"),
    [
        ({"inputs": [TENSOR]}, b""),
        ({"inputs": [{**TENSOR, "data": SQUARES.tolist()}]}, b""),
        ({"inputs": [BINARY]}, SQUARES.tobytes()),
        ({"inputs": [TENSOR], "outputs": None, "parameters": None, "id": None, "other": 1}, b""),
    ],
    ids=["flat", "nested", "binary", "null"],
)
def test_squares_are_read_in_each_form(data, behind):
    request = read(data, behind)
    assert (request.squares == SQUARES).all()
    assert request.squares.dtype == np.uint8
    assert (request.id, request.wanted) == (None, Wanted())


def test_what_a_client_wants_is_read():
    def wanted(outputs: list[dict[str, Any]] | None = None, **parameters: Any) -> Wanted:
        return read({"inputs": [TENSOR], "outputs": outputs, "parameters": parameters}).wanted

    output = {"name": "probabilities"}
    assert wanted() == wanted([]) == wanted([output]) == Wanted(binary=False)
    assert wanted(binary_data_output=True) == wanted([output], binary_data_output=True) == Wanted(binary=True)
    assert wanted([{**output, "parameters": {"binary_data": False}}], binary_data_output=True) == Wanted(binary=False)
    assert wanted([{**output, "parameters": {"classification": 2}}]) == Wanted(classification=2)
    assert read({"inputs": [TENSOR], "id": "an id"}).id == "an id"


def tensor(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{**TENSOR, **changes}]}


def binary(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{**BINARY, **changes}]}


def output(**parameters: Any) -> dict[str, Any]:
    return {"inputs": [TENSOR], "outputs": [{"name": "probabilities", "parameters": parameters}]}


WRONG: dict[str, tuple[Any, bytes, str]] = {
    "nothing": (b"", b"", "not JSON"),
    "not UTF-8": (b'{"inputs": "\xff"}', b"", "not UTF-8 at byte 12"),
    "UTF-16": ('{"inputs": []}'.encode("utf-16-be"), b"", "not JSON"),
    "not an object": ([], b"", "expected a JSON object"),
    "two values": (b"{} {}", b"", "not JSON"),
    "NaN": (b'{"inputs": NaN}', b"", "NaN is not a JSON number"),
    "a key twice": (b'{"inputs": [], "inputs": []}', b"", "the key 'inputs' occurs twice"),
    "deep lists": (b"[" * 100_000, b"", "not JSON"),
    "deep objects": (b'{"a":' * 100_000, b"", "not JSON"),
    "a huge number": (b'{"inputs": 1' + b"0" * 5000 + b"}", b"", "not JSON"),
    "no inputs": ({}, b"", "no inputs: expected one, images"),
    "inputs not a list": ({"inputs": {}}, b"", "expected a list"),
    "an input that is a number": ({"inputs": [1]}, b"", "inputs[0] is 1"),
    "another name": (tensor(name="image"), b"", "inputs[0] is 'image'"),
    "no name": ({"inputs": [{}]}, b"", "inputs[0] is None"),
    "a name twice": ({"inputs": [TENSOR, TENSOR]}, b"", "images occurs 2 times"),
    "another type": (tensor(datatype="FP32"), b"", "expected UINT8"),
    "a type that is a list": (tensor(datatype=[]), b"", "expected UINT8"),
    "no shape": (tensor(shape=None), b"", "expected [N, 2, 2, 3]"),
    "a shape of text": (tensor(shape="2"), b"", "expected [N, 2, 2, 3]"),
    "a shape with a fraction": (tensor(shape=[2.0, 2, 2, 3]), b"", "expected [N, 2, 2, 3]"),
    "a shape with true": (tensor(shape=[True, 2, 2, 3]), b"", "expected [N, 2, 2, 3]"),
    "a negative shape": (tensor(shape=[-1, 2, 2, 3]), b"", "N of at least 1"),
    "no image": (tensor(shape=[0, 2, 2, 3], data=[]), b"", "N of at least 1"),
    "an empty shape": (tensor(shape=[]), b"", "expected [N, 2, 2, 3]"),
    "another side": (tensor(shape=[2, 3, 2, 2]), b"", "expected [N, 2, 2, 3]"),
    "channels first": (tensor(shape=[2, 3, 2, 2]), b"", "expected [N, 2, 2, 3]"),
    "no data": (tensor(data=None), b"", "expected whole numbers"),
    "data of text": (tensor(data="0" * 24), b"", "expected whole numbers"),
    "too few values": (tensor(data=VALUES[1:]), b"", "data of the shape [23]"),
    "too many values": (tensor(data=[*VALUES, 1]), b"", "data of the shape [25]"),
    "a negative value": (tensor(data=[-1, *VALUES[1:]]), b"", "expected whole numbers from 0 to 255"),
    "a large value": (tensor(data=[*VALUES[1:], 256]), b"", "expected whole numbers from 0 to 255"),
    "a fraction": (tensor(data=[*VALUES[1:], 0.5]), b"", "expected whole numbers from 0 to 255"),
    "true": (tensor(data=[*VALUES[1:], True]), b"", "expected whole numbers from 0 to 255"),
    "text among the values": (tensor(data=[*VALUES[1:], "1"]), b"", "expected whole numbers from 0 to 255"),
    "nested in another shape": (tensor(data=[VALUES]), b"", "expected whole numbers from 0 to 255"),
    "ragged": (tensor(data=[*SQUARES.tolist()[:1], [[[1]]]]), b"", "lists of several lengths"),
    "nested half": (tensor(data=SQUARES[:1].tolist()), b"", "data of the shape [1, 2, 2, 3]"),
    "bytes without a size": ({"inputs": [TENSOR]}, b"1234", "4 bytes behind the JSON: expected none"),
    "data in both forms": (binary(data=VALUES), SQUARES.tobytes(), "expected one of the two"),
    "a size without bytes": (binary(), b"", "0 bytes behind the JSON: expected 24"),
    "too few bytes": (binary(), SQUARES.tobytes()[1:], "23 bytes behind the JSON: expected 24"),
    "too many bytes": (binary(), SQUARES.tobytes() + b"1", "25 bytes behind the JSON: expected 24"),
    "a negative size": (binary(parameters={"binary_data_size": -24}), SQUARES.tobytes(), "binary_data_size -24"),
    "a size of text": (binary(parameters={"binary_data_size": "24"}), SQUARES.tobytes(), "binary_data_size '24'"),
    "a huge size": (binary(parameters={"binary_data_size": 2**70}), SQUARES.tobytes(), "expected 24"),
    "parameters that are a list": (binary(parameters=[]), SQUARES.tobytes(), "parameters=[]"),
    "shared memory": (
        tensor(parameters={"shared_memory_region": "x"}),
        b"",
        "'shared_memory_region': this server has no shared memory",
    ),
    "a sequence": (
        {"inputs": [TENSOR], "parameters": {"sequence_id": 7, "sequence_start": True}},
        b"",
        "the request: 'sequence_id': this server has no sequences",
    ),
    "the end of a sequence": ({"inputs": [TENSOR], "parameters": {"sequence_end": True}}, b"", "no sequences"),
    "an id that is a number": ({"inputs": [TENSOR], "id": 1}, b"", "id=1"),
    "a long id": ({"inputs": [TENSOR], "id": "x" * 1001}, b"", "at most 1,000 characters"),
    "half a surrogate pair": ({"inputs": [TENSOR], "id": "\ud800"}, b"", "at most 1,000 characters"),
    "another output": ({"inputs": [TENSOR], "outputs": [{"name": "x"}]}, b"", "outputs[0] is 'x'"),
    "an output twice": ({"inputs": [TENSOR], "outputs": [{"name": "probabilities"}] * 2}, b"", "2 times"),
    "a flag that is a number": (output(binary_data=1), b"", "binary_data=1: expected true or false"),
    "another flag": ({"inputs": [TENSOR], "parameters": {"binary_data_output": "no"}}, b"", "binary_data_output='no'"),
    "no classes": (output(classification=0), b"", "classification=0"),
    "classes that are true": (output(classification=True), b"", "classification=True"),
    "an output in shared memory": (output(shared_memory_region="x"), b"", "no shared memory"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_request_is_refused_with_one_line_that_says_what_was_expected(kind):
    data, behind, message = WRONG[kind]
    with pytest.raises(RequestError) as refused:
        read(data, behind)
    assert refused.value.status == 400
    assert message in str(refused.value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) <= 600


@pytest.mark.parametrize("length", ["-1", "1e2", "", " 5", "5.0", "x", "9" * 5000, "99999", "²", "٣"])
def test_a_length_of_the_json_that_is_no_number_of_the_body_is_refused(length):
    with pytest.raises(RequestError, match="Inference-Header-Content-Length"):
        json_length(length, 14)


def test_too_many_images_and_too_much_json_have_a_status_of_their_own():
    with pytest.raises(RequestError, match="4 images: expected at most 3") as refused:
        read(tensor(shape=[4, 2, 2, 3]))
    assert refused.value.status == 413
    with pytest.raises(
        RequestError, match="bytes of JSON: expected at most 8,000,000; send the tensor in binary"
    ) as refused:
        read(b" " * (MAX_JSON_BYTES + 1))
    assert refused.value.status == 413


def request(**wanted: Any) -> InferRequest:
    return InferRequest(squares=SQUARES, id="7\n😀é", wanted=Wanted(**wanted))


def result(binary: bool, classification: int | None = None) -> Any:
    http = pytest.importorskip("tritonclient.http", reason="needs NVIDIA's client: pip install tritonclient[http]")
    made = answer("net", "a" * 64, request(binary=binary, classification=classification), PROBABILITIES, CLASSES)
    return http.InferenceServerClient.parse_response_body(made.body, header_length=made.header_length)


@pytest.mark.parametrize("binary", [True, False])
def test_nvidias_client_reads_the_exact_probabilities(binary):
    read = result(binary)
    assert (read.as_numpy("probabilities") == PROBABILITIES).all()
    assert read.as_numpy("probabilities").dtype == np.float32
    response = read.get_response()
    assert (response["model_name"], response["model_version"]) == ("net", "1")
    assert response["parameters"] == {SHA256_KEY: "a" * 64}
    assert read.get_output("probabilities")["datatype"] == "FP32"


@pytest.mark.parametrize("binary", [True, False])
def test_nvidias_client_reads_the_most_probable_classes_as_triton_writes_them(binary):
    labels = result(binary, 2).as_numpy("probabilities")
    texts = [[text.decode() if isinstance(text, bytes) else text for text in row] for row in labels]
    assert texts == [
        [f"0.400000:3:{CLASSES[3].name}", f"0.300000:2:{CLASSES[2].name}"],
        [f"0.500000:2:{CLASSES[2].name}", f"0.250000:0:{CLASSES[0].name}"],
    ]
    assert result(binary, 99).as_numpy("probabilities").shape == (2, 4)


def test_an_id_comes_back_as_it_was_sent():
    assert json.loads(answer("net", "a" * 64, request(), PROBABILITIES, CLASSES).body)["id"] == "7\n😀é"
