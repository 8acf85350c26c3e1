"""A server as NVIDIA's client for Triton sees it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.graph.served import SHA256_KEY, ServedNet
from alexnet_infer.metrics import mean_probabilities
from alexnet_infer.serve.model import Model
from tests.serve.running import random_squares

for package in ("starlette", "uvicorn", "prometheus_client", "jinja2", "onnxruntime"):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'alexnet-infer[cpu,serve]'")

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.jpg"))
NAMES = ["tiny-0", "other", "tiny-0-and-1-more"]


@pytest.fixture
def triton(client):
    http = pytest.importorskip("tritonclient.http", reason="needs NVIDIA's client: pip install tritonclient[http]")
    with http.InferenceServerClient(client.address, concurrency=8) as triton:
        yield triton


def tensor(squares: np.ndarray, *, binary: bool = True):
    import tritonclient.http as http

    made = http.InferInput("images", list(squares.shape), "UINT8")
    made.set_data_from_numpy(squares, binary_data=binary)
    return made


def expected(model: Model, squares: np.ndarray) -> np.ndarray:
    """The mean of the nets' own probabilities."""
    return mean_probabilities([net.probabilities(list(squares)) for net in model.net.nets])


def close(found: np.ndarray, model: Model, squares: np.ndarray) -> None:
    """Up to the rounding of products with another number of rows, and far less than what different images differ by."""
    right = expected(model, squares)
    np.testing.assert_allclose(found, right, rtol=0, atol=1e-6)
    assert found.dtype == np.float32
    if len(squares) > 1:
        assert np.abs(right - right[::-1]).max() > 1e-3


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary_output", [True, False])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_probabilities_are_those_of_the_nets(triton, models, name, binary, binary_output, compression):
    import tritonclient.http as http

    model = models[name]
    squares = random_squares(model, 3)
    answer = triton.infer(
        name,
        [tensor(squares, binary=binary)],
        outputs=[http.InferRequestedOutput("probabilities", binary_data=binary_output)],
        request_id="an id",
        request_compression_algorithm=compression,
        model_version="1",
    )
    close(answer.as_numpy("probabilities"), model, squares)
    assert answer.get_response()["id"] == "an id"


def test_a_single_image_has_exactly_the_nets_own_probabilities(triton, models):
    for name in NAMES:
        squares = random_squares(models[name], 1)
        answer = triton.infer(name, [tensor(squares)]).as_numpy("probabilities")
        assert (answer == expected(models[name], squares)).all()


def test_requests_of_many_clients_are_run_together_and_each_gets_its_own(triton, models):
    squares = {name: random_squares(models[name], 12, seed=5) for name in NAMES}
    sizes = [1, 2, 1, 4, 6]
    requests = [(name, begin, sizes[(begin + i) % 5]) for i, name in enumerate(NAMES) for begin in range(6)]
    sent = [triton.async_infer(name, [tensor(squares[name][begin : begin + count])]) for name, begin, count in requests]
    for (name, begin, count), request in zip(requests, sent, strict=True):
        own = squares[name][begin : begin + count]
        found = request.get_result(timeout=30).as_numpy("probabilities")
        np.testing.assert_allclose(found, expected(models[name], own), rtol=0, atol=1e-6)


def test_nvidias_client_gets_what_a_server_says_of_itself(triton, models, nets):
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.get_server_metadata()["name"] == "alexnet-infer"
    assert [row["name"] for row in triton.get_model_repository_index()] == NAMES
    for name in NAMES:
        assert triton.is_model_ready(name)
        assert triton.is_model_ready(name, "1")
        side = models[name].side
        metadata = triton.get_model_metadata(name)
        assert metadata["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, side, side, 3]}]
        assert metadata["outputs"][0]["shape"] == [-1, 4 if name == "other" else 7]
        assert triton.get_model_metadata(name, "1") == metadata


def test_the_configuration_says_what_is_served(triton, nets):
    def served(name: str) -> ServedNet:
        config = triton.get_model_config(name)
        assert config["max_batch_size"] == 4
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        return ServedNet.from_parameters(parameters, name)

    one, mean = served("tiny-0"), served("tiny-0-and-1-more")
    assert one.manifest.to_json() == nets[0].manifest.to_json()
    assert [member.sha256 for member in one.info.members] == [nets[0].opened.sha256]
    assert [member.sha256 for member in mean.info.members] == [net.opened.sha256 for net in nets[:2]]
    assert mean.manifest.name == "tiny 0 + tiny 1"
    assert (one.info.views, one.info.precision, one.info.batch.max) == ("ten", "fp32", 4)
    assert one.backend == nets[0].backend.description
    assert len({one.sha256, mean.sha256, served("other").sha256}) == 3


def test_each_answer_has_the_digest_of_the_configuration(triton, models):
    for name in NAMES:
        answer = triton.infer(name, [tensor(random_squares(models[name], 1))]).get_response()
        parameters = triton.get_model_config(name)["parameters"]
        assert answer["parameters"] == {SHA256_KEY: parameters[SHA256_KEY]["string_value"]}


def test_names_and_shapes_are_those_of_an_exported_file_in_a_triton_repository(client, models, nets, tmp_path):
    from alexnet_infer.export.job import ExportRequest, export
    from alexnet_infer.export.triton import ServedModel

    exported = export(ExportRequest(models=(nets[0].opened.path,), views="ten", out=tmp_path / "out"))
    name, kind, dims = ServedModel(path=exported.onnx, manifest=exported.manifest, info=exported.info).input
    config = client("GET", "/v2/models/tiny-0/config").json
    assert config["input"] == [{"name": name, "data_type": kind, "dims": dims}]
    assert config["output"] == [{"name": exported.info.outputs[0], "data_type": "TYPE_FP32", "dims": [7]}]
