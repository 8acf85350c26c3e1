"""A server as its clients see it: NVIDIA's client, and plain HTTP."""

from __future__ import annotations

import gzip
import io
import socket
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.errors import UsageError
from alexnet_infer.graph.served import ServedNet
from alexnet_infer.metrics import mean_probabilities
from alexnet_infer.serve.app import create_app
from alexnet_infer.serve.model import Model
from tests.serve.running import Held, eventually, infer_request, random_squares, running

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


def test_names_and_shapes_are_those_of_an_exported_file_in_a_triton_repository(client, models, nets, tmp_path):
    from alexnet_infer.export.job import ExportRequest, export
    from alexnet_infer.export.triton import ServedModel

    exported = export(ExportRequest(models=(nets[0].opened.path,), views="ten", out=tmp_path / "out"))
    name, kind, dims = ServedModel(path=exported.onnx, manifest=exported.manifest, info=exported.info).input
    config = client("GET", "/v2/models/tiny-0/config").json
    assert config["input"] == [{"name": name, "data_type": kind, "dims": dims}]
    assert config["output"] == [{"name": exported.info.outputs[0], "data_type": "TYPE_FP32", "dims": [7]}]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
@pytest.mark.parametrize("name", NAMES)
def test_the_labels_of_a_photo_are_those_of_classify(client, models, name, path):
    answer = client("POST", f"/v1/classify?model={name}&top=3", path.read_bytes(), {"Content-Type": "image/jpeg"}).json
    labels = models[name].net.classify(path, top=3)
    assert [(row["index"], row["wnid"], row["name"]) for row in answer["labels"]] == [
        (label.index, label.wnid, label.name) for label in labels
    ]
    found = [row["probability"] for row in answer["labels"]]
    np.testing.assert_allclose(found, [label.probability for label in labels], rtol=0, atol=1e-6)
    assert (answer["model"], answer["views"]) == (name, "ten")


def test_a_photo_is_turned_as_its_exif_orientation_says_and_may_be_compressed(client, models):
    exif = Image.Exif()
    exif[0x112] = 6
    file = io.BytesIO()
    Image.open(EXAMPLES[0]).save(file, "JPEG", exif=exif)
    upright = client("POST", "/v1/classify", EXAMPLES[0].read_bytes()).json["labels"]
    turned = client("POST", "/v1/classify", gzip.compress(file.getvalue()), {"Content-Encoding": "gzip"}).json["labels"]
    label = models["tiny-0"].net.classify(file.getvalue())[0]
    assert (turned[0]["index"], turned[0]["probability"]) == (label.index, pytest.approx(label.probability, abs=1e-6))
    assert turned != upright
    assert len(turned) == 5
    assert [len(client("POST", f"/v1/classify?model={name}", file.getvalue()).json["labels"]) for name in NAMES] == [
        5,
        4,
        5,
    ]


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "message"),
    [
        ("GET", "/", b"", {}, 404, "no such route"),
        ("GET", "/v2/", b"", {}, 404, "no such route"),
        ("GET", "/v2/models/absent", b"", {}, 404, "model 'absent': expected one of tiny-0, other"),
        ("GET", "/v2/models/%1b%5b31m%0aFAKE", b"", {}, 404, "expected one of"),
        ("GET", "/v2/models/tiny-0/versions/2", b"", {}, 404, "version '2' of tiny-0: expected 1"),
        ("POST", "/v2/models/tiny-0/versions/1x/infer", b"", {}, 404, "version '1x'"),
        ("GET", "/v2/models/tiny-0/infer", b"", {}, 405, "expected POST"),
        ("DELETE", "/v1/classify", b"", {}, 405, "expected POST"),
        ("POST", "/v2", b"", {}, 405, "expected GET, HEAD"),
        ("POST", "/v1/classify", b"", {}, 400, "the photo: empty (0 bytes)"),
        ("POST", "/v1/classify", b"no image", {}, 400, "the photo: not an image"),
        ("POST", "/v1/classify?top=0", b"", {}, 400, "top='0': expected 1 to 7"),
        ("POST", "/v1/classify?top=8", b"", {}, 400, "top='8': expected 1 to 7"),
        ("POST", "/v1/classify?top=%D9%A3", b"", {}, 400, "expected 1 to 7"),
        ("POST", "/v1/classify?model=absent", b"", {}, 404, "model 'absent'"),
        ("POST", "/v1/classify", b"x" * 3_000_001, {}, 413, "expected at most 3,000,000 (--max-body)"),
        ("POST", "/v1/classify", gzip.compress(bytes(9_000_000)), {"Content-Encoding": "gzip"}, 413, "--max-body"),
        ("POST", "/v1/classify", b"x", {"Content-Encoding": "gzip"}, 400, "the body is not gzip"),
        ("POST", "/v1/classify", gzip.compress(b"x")[:-1], {"Content-Encoding": "gzip"}, 400, "ends early"),
        ("POST", "/v1/classify", zlib.compress(b"x") + b"x", {"Content-Encoding": "deflate"}, 400, "goes on"),
        ("POST", "/v1/classify", b"x", {"Content-Encoding": "br"}, 415, "expected gzip, deflate or none"),
        ("POST", "/v1/classify", b"x", {"Content-Encoding": "gzip, gzip"}, 415, "expected gzip, deflate or none"),
    ],
    ids=lambda value: str(value)[:24] if isinstance(value, bytes | dict) else None,
)
def test_a_wrong_request_gets_one_line(client, method, path, body, headers, status, message):
    reply = client(method, path, body, headers)
    assert reply.status == status
    assert message in reply.error
    if status == 405:
        assert reply.headers["allow"] == message.removeprefix("expected ")


def test_a_photo_of_more_pixels_than_allowed_is_refused_before_it_is_decoded(client):
    file = io.BytesIO()
    Image.new("1", (5_000, 5_000)).save(file, "PNG")
    reply = client("POST", "/v1/classify", file.getvalue())
    assert (reply.status, "5000 x 5000 pixels: expected at most 1,000,000" in reply.error) == (400, True)


def test_a_body_of_unknown_length_is_refused_when_it_is_too_long(client):
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as connection:
        connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(4):
            connection.sendall(b"%x\r\n%s\r\n" % (1_000_000, bytes(1_000_000)))
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_all_errors_of_one_connection_leave_it_usable(client, models):
    import http.client

    squares = random_squares(models["tiny-0"], 1)
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
    for _ in range(3):
        connection.request("POST", "/v2/models/tiny-0/infer", b"x" * 2_000_000)
        response = connection.getresponse()
        assert (response.status, response.read()[:9]) == (400, b'{"error":')
        connection.request("POST", "/v2/models/tiny-0/infer", infer_request(squares))
        response = connection.getresponse()
        assert (response.status, response.read()[:9]) == (200, b'{"model_n')
    connection.close()


@pytest.fixture
def held(models):
    """A server whose net waits: (client, model)."""
    model = Held.holding(models["tiny-0"])
    with running(model, max_batch=1, queue=3, timeout=20) as client:
        model.allowed.clear()
        while model.entered.acquire(blocking=False):
            pass
        yield client, model
        model.allowed.set()


def test_a_full_queue_is_503_with_retry_after(held):
    client, model = held
    squares = random_squares(model, 3)
    batcher = client.server._batchers["tiny-0"]
    with ThreadPoolExecutor(4) as clients:
        running = clients.submit(client, "POST", "/v2/models/tiny-0/infer", infer_request(squares[:1]))
        assert model.entered.acquire(timeout=20)
        collected = clients.submit(client, "POST", "/v2/models/tiny-0/infer", infer_request(squares[:1]))
        eventually(lambda: client.server.open_requests == 2 and not batcher.waiting)
        waiting = clients.submit(client, "POST", "/v2/models/tiny-0/infer", infer_request(squares))
        eventually(lambda: batcher.waiting == 3)
        reply = client("POST", "/v2/models/tiny-0/infer", infer_request(squares[:1]))
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert "the queue of tiny-0 is full (3 of 3 images wait)" in reply.error
        assert client("POST", "/v2/models/tiny-0/infer", infer_request(random_squares(model, 4))).status == 413
        model.allowed.set()
        assert [future.result().status for future in (running, collected, waiting)] == [200] * 3


def test_the_work_of_a_client_that_leaves_is_dropped(held):
    client, model = held
    squares = random_squares(model, 2)
    batcher = client.server._batchers["tiny-0"]
    with ThreadPoolExecutor(2) as clients:
        stays = [
            clients.submit(client, "POST", "/v2/models/tiny-0/infer", infer_request(squares[:1])) for _ in range(2)
        ]
        eventually(lambda: client.server.open_requests == 2 and not batcher.waiting)
        body = infer_request(squares)
        leaves = socket.create_connection(("127.0.0.1", client.port))
        leaves.sendall(b"POST /v2/models/tiny-0/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        eventually(lambda: batcher.waiting == 2)
        leaves.close()
        eventually(lambda: not batcher.waiting and client.server.open_requests == 2)
        model.allowed.set()
        assert [future.result().status for future in stays] == [200, 200]
    assert 'status="499"} 1.0' in client("GET", "/metrics").body.decode()


def test_draining_answers_what_was_accepted_and_takes_no_new_work(held):
    client, model = held
    squares = random_squares(model, 1)
    with ThreadPoolExecutor(2) as clients:
        accepted = [clients.submit(client, "POST", "/v2/models/tiny-0/infer", infer_request(squares)) for _ in range(2)]
        eventually(lambda: client.server.open_requests == 2)
        assert model.entered.acquire(timeout=20)
        assert client("GET", "/v2/health/ready").status == 200
        client.server.drain()
        for path in ("/v2/health/ready", "/v2/models/tiny-0/ready"):
            reply = client("GET", path)
            assert (reply.status, "shutting down" in reply.error) == (503, True)
        assert client("GET", "/v2/health/live").status == 200
        assert client("POST", "/v2/models/tiny-0/infer", infer_request(squares)).status == 503
        assert client("POST", "/v1/classify", EXAMPLES[0].read_bytes()).status == 503
        assert client("POST", "/v2/repository/index").json[0]["state"] == "UNAVAILABLE"
        model.allowed.set()
        assert [future.result().status for future in accepted] == [200, 200]
    eventually(lambda: not _listens(client.port))


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def test_slow_senders_and_slow_nets_are_not_waited_for(models):
    model = Held.holding(models["tiny-0"])
    with running(model, timeout=0.3) as client:
        with socket.create_connection(("127.0.0.1", client.port), timeout=30) as connection:
            connection.sendall(b"POST /v1/classify HTTP/1.1\r\nContent-Length: 9\r\n\r\nab")
            head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")  # until the server closes it
            assert head.startswith(b"HTTP/1.1 408 ")
            assert b"not complete after 0.3 s" in body
        model.allowed.clear()
        reply = client("POST", "/v2/models/tiny-0/infer", infer_request(random_squares(model, 1)))
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert "no answer after 0.3 s" in reply.error
        model.allowed.set()


def test_a_connection_that_never_sends_a_request_is_closed(models, monkeypatch):
    monkeypatch.setattr("alexnet_infer.serve.run.GRACE", 0)
    with running(models["tiny-0"], timeout=0.2) as client:
        for start in (b"", b"POST /v1/cl", b"GET / HTTP/1.1\r\nHost: x\r\n"):
            with socket.create_connection(("127.0.0.1", client.port), timeout=30) as connection:
                connection.sendall(start)
                assert connection.recv(1000) == b""


def test_the_memory_of_all_bodies_together_is_bounded(models):
    with running(models["tiny-0"], max_body=100_000) as client:
        slow = []
        for _ in range(8):
            slow.append(socket.create_connection(("127.0.0.1", client.port), timeout=30))
            slow[-1].sendall(b"POST /v1/classify HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + bytes(99_999))
        eventually(lambda: client.server.bodies._held == 8 * 99_999)
        reply = client("POST", "/v1/classify", EXAMPLES[0].read_bytes()[:50_000])
        assert (reply.status, "try again later" in reply.error) == (503, True)
        for connection in slow:
            connection.close()
        eventually(lambda: client.server.bodies._held == 0)


def test_a_net_that_fails_is_503_and_not_ready_until_it_works(models, monkeypatch):
    class Failing(Held):
        def run(self, inputs):
            if not self.allowed.is_set():
                raise RuntimeError("out of memory\nat 0x7f")
            return super().run(inputs)

    monkeypatch.setattr("alexnet_infer.serve.batching.PROBE_SECONDS", 0.05)
    model = Failing.holding(models["tiny-0"])
    with running(model) as client:
        model.allowed.clear()
        reply = client("POST", "/v2/models/tiny-0/infer", infer_request(random_squares(model, 1)))
        assert (reply.status, reply.error) == (503, "tiny-0 failed: out of memory at 0x7f")
        assert "its latest batch failed: out of memory" in client("GET", "/v2/health/ready").error
        assert client("GET", "/v2/health/live").status == 200
        model.allowed.set()
        eventually(lambda: client("GET", "/v2/health/ready").status == 200)


def test_probabilities_that_are_not_finite_never_leave_the_server(models):
    model = Held.holding(models["tiny-0"])
    with running(model) as client:
        client.server._batchers["tiny-0"]._run = lambda inputs: model.run(inputs) * np.nan
        for path, body in (
            ("/v2/models/tiny-0/infer", infer_request(random_squares(model, 1))),
            ("/v1/classify", EXAMPLES[0].read_bytes()),
        ):
            reply = client("POST", path, body)
            assert (reply.status, "not finite" in reply.error) == (503, True)
            assert b"NaN" not in reply.body


def test_models_of_one_name_are_refused(models):
    with pytest.raises(UsageError, match="models tiny-0, tiny-0: expected at least one, and different names"):
        create_app([models["tiny-0"]] * 2)


def test_metrics_count_requests_images_and_batches(models):
    with running(models["tiny-0"], max_batch=4) as client:
        client("POST", "/v2/models/tiny-0/infer", infer_request(random_squares(models["tiny-0"], 6)))
        client("POST", "/v1/classify", EXAMPLES[0].read_bytes())
        client("POST", "/v1/classify", b"no image")
        client("GET", "/absent")
        reply = client("GET", "/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = dict(line.rsplit(" ", 1) for line in reply.body.decode().splitlines() if not line.startswith("#"))
    own = {key.removeprefix("alexnet_infer_"): float(value) for key, value in lines.items()}
    assert own['requests_total{route="/v2/models/{name}/infer",status="200"}'] == 1
    assert own['requests_total{route="/v1/classify",status="200"}'] == 1
    assert own['requests_total{route="/v1/classify",status="400"}'] == 1
    assert own['requests_total{route="none",status="404"}'] == 1
    assert own['images_total{model="tiny-0"}'] == 7
    assert own['batch_images_count{model="tiny-0"}'] == own['inference_seconds_count{model="tiny-0"}'] == 3
    assert own['batch_images_bucket{le="2.0",model="tiny-0"}'] == 2
    assert own['queue_images{model="tiny-0"}'] == 0
    assert own["decode_seconds_count"] == 2
    assert own['request_seconds_count{route="/v1/classify"}'] == 2
