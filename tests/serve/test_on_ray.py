"""The server as an application of Ray Serve: its arguments, and two replicas on a real cluster on this machine."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.errors import BackendError, UsageError
from alexnet_infer.nets import load
from alexnet_infer.predict import Net
from alexnet_infer.serve import on_ray
from alexnet_infer.serve.app import create_app
from alexnet_infer.serve.model import Model
from alexnet_infer.serve.on_ray import REPLICA, Replica, Settings
from tests.evaluation.test_on_ray import ancestors
from tests.nets import random_artifact
from tests.serve.running import eventually, random_squares

for package in ("starlette", "uvicorn", "prometheus_client", "jinja2", "onnxruntime"):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'alexnet-infer[cpu,serve]'")

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.jpg"))


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Net:
    path = tmp_path_factory.mktemp("net") / "tiny.safetensors"
    random_artifact().save(path)
    return load(path, device="cpu", backend="onnxruntime")


@pytest.fixture(scope="module")
def address(net) -> Iterator[str]:
    """A cluster with two replicas of a model named "tiny"."""
    ray = pytest.importorskip("ray", reason="needs Ray")
    serve = pytest.importorskip("ray.serve", reason="needs Ray Serve", exc_type=ImportError)
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    arguments = {"nets": f"tiny={net.opened.path}", "backend": "onnxruntime", "device": "cpu", "replicas": "2"}
    ray.init("local", num_cpus=2, object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(on_ray.app({**arguments, "max_batch": "4"}))
        yield f"127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


def replica_that_answers(address: str) -> str:
    """Send a request on a connection of its own. Returns the replica's name, or "" for an error."""
    connection = http.client.HTTPConnection(address, timeout=30)
    with closing(connection):
        connection.request("GET", "/v2/models/tiny/ready")
        response = connection.getresponse()
        return response.headers[REPLICA.decode()] if response.status == 200 else ""


def processes() -> list[int]:
    """Return the ids of the processes in which this process's cluster runs replicas."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended
            if (folder / "cmdline").read_bytes().startswith(b"ray::ServeReplica:") and os.getpid() in ancestors(folder):
                found.append(int(folder.name))
    return found


def test_nvidias_client_gets_the_nets_probabilities_from_every_replica(address, net):
    http_client = pytest.importorskip(
        "tritonclient.http", reason="needs NVIDIA's client: pip install tritonclient[http]"
    )
    squares = random_squares(Model.of(net, "tiny"), 6)
    expected = net.probabilities(list(squares))
    assert np.abs(expected - expected[::-1]).max() > 1e-3
    with http_client.InferenceServerClient(address, concurrency=8) as triton:
        assert triton.is_model_ready("tiny")
        requests = []
        for square in squares:
            image = http_client.InferInput("images", [1, *square.shape], "UINT8")
            image.set_data_from_numpy(square[None])
            requests += [triton.async_infer("tiny", [image]) for _ in range(5)]
        found = np.concatenate([request.get_result().as_numpy("probabilities") for request in requests])
    np.testing.assert_allclose(found, expected.repeat(5, 0), rtol=0, atol=1e-6)
    names: set[str] = set()
    eventually(lambda: names.add(replica_that_answers(address)) or len(names) == 2)
    assert "" not in names


def test_a_photo_gets_the_labels_of_classify(address, net):
    connection = http.client.HTTPConnection(address, timeout=30)
    with closing(connection):
        connection.request("POST", "/v1/classify?top=2", EXAMPLES[0].read_bytes())
        labels = json.loads(connection.getresponse().read())["labels"]
    assert [label["name"] for label in labels] == [label.name for label in net.classify(str(EXAMPLES[0]), top=2)]


def test_a_wrong_request_is_refused_as_without_ray(address):
    connection = http.client.HTTPConnection(address, timeout=30)
    with closing(connection):
        connection.request("POST", "/v2/models/tiny/infer", b"[")
        response = connection.getresponse()
        assert response.status == 400
        assert json.loads(response.read()).keys() == {"error"}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_the_other_replica_answers_when_one_is_killed(address):
    names: set[str] = set()
    eventually(lambda: names.add(replica_that_answers(address)) or len(names - {""}) == 2)
    first, *_ = processes()
    os.kill(first, signal.SIGKILL)
    eventually(lambda: first not in processes())
    eventually(lambda: replica_that_answers(address) in names - {""})  # at most the first request may see the loss


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, Settings()),
        ({"nets": "a,b=c", "replicas": "2", "cpus": "0.5"}, Settings(nets=("a", "b=c"), replicas=2, cpus=0.5)),
        ({"nets": ["a"], "gpus": 1, "views": "center"}, Settings(nets=("a",), gpus=1, views="center")),
        ({"timeout": "2.5", "max_batch": "4"}, Settings(limits=(("max_batch", 4), ("timeout", 2.5)))),
    ],
)
def test_arguments_are_text_on_a_command_line_and_values_in_a_file(arguments, expected):
    settings = Settings.of(arguments)
    assert settings == expected
    assert [type(value) for _, value in settings.limits] == [type(value) for _, value in expected.limits]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"net": "a"}, "did you mean nets"),
        ({"replicas": "0"}, "replicas=0: expected at least 1"),
        ({"replicas": "two"}, "replicas"),
        ({"views": "nine"}, "views"),
        ({"max_batch": 0}, "--max-batch 0: expected 1"),
        ({"nets": 5}, "nets"),
    ],
)
def test_a_wrong_argument_is_one_line_before_anything_is_deployed(arguments, message):
    with pytest.raises(UsageError, match=message) as error:
        on_ray.app(arguments)
    assert len(str(error.value)) < 600


def test_a_replica_whose_net_fails_is_unhealthy(net, monkeypatch):
    app = create_app([Model.of(net, "tiny")])
    monkeypatch.setattr(on_ray, "_app_of", lambda settings: app)
    replica = Replica(Settings())
    with pytest.raises(BackendError, match="has not started"):
        replica.check_health()
    app.state.server.start()
    replica.check_health()
    monkeypatch.setattr(app.state.server._batchers["tiny"], "failure", "out of memory")
    with pytest.raises(BackendError, match=r"tiny is not ready: .*out of memory"):
        replica.check_health()
    app.state.server.drain()
    replica.check_health()
    app.state.server.close()
