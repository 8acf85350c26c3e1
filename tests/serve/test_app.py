"""A server over plain HTTP: photos, errors, limits, and its end."""

from __future__ import annotations

import gzip
import io
import socket
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.errors import UsageError
from alexnet_infer.serve.app import create_app
from alexnet_infer.serve.limits import Limits
from tests.serve.running import Held, eventually, infer_request, random_squares, running

for package in ("starlette", "uvicorn", "prometheus_client", "jinja2", "onnxruntime"):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'alexnet-infer[cpu,serve]'")

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.jpg"))
NAMES = ["tiny-0", "other", "tiny-0-and-1-more"]


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
        ("GET", "/v2/models/stats", b"", {}, 404, "other, tiny-0-and-1-more; GET /metrics has statistics"),
        ("GET", "/v2/models/tiny-0/stats", b"", {}, 404, "no such route"),
        ("POST", "/v2/repository/models/tiny-0/load", b"", {}, 404, "no such route"),
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
        (
            "POST",
            "/v1/classify",
            gzip.compress(bytes(9_000_000), mtime=0),
            {"Content-Encoding": "gzip"},
            413,
            "--max-body",
        ),
        ("POST", "/v1/classify", b"x", {"Content-Encoding": "gzip"}, 400, "the body is not gzip"),
        ("POST", "/v1/classify", b"", {"Content-Encoding": ""}, 400, "empty (0 bytes)"),
        ("POST", "/v1/classify", gzip.compress(b"x", mtime=0)[:-1], {"Content-Encoding": "gzip"}, 400, "ends early"),
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
        model.allowed.set()
        assert [future.result().status for future in (running, collected, waiting)] == [200] * 3
        assert client("POST", "/v2/models/tiny-0/infer", infer_request(random_squares(model, 4))).status == 413


def test_what_can_not_be_answered_in_time_is_refused_before_it_is_read(held, monkeypatch):
    client, model = held
    batcher = client.server._batchers["tiny-0"]
    monkeypatch.setattr(batcher._running, "seconds", 100.0)
    square = random_squares(model, 1)
    with ThreadPoolExecutor(1) as clients:
        running = clients.submit(client, "POST", "/v2/models/tiny-0/infer", infer_request(square))
        assert model.entered.acquire(timeout=20)
        reads = Mock(side_effect=AssertionError)
        monkeypatch.setattr(client.server._pool, "submit", reads)
        for path, body in (
            ("/v1/classify", EXAMPLES[0].read_bytes()),
            ("/v2/models/tiny-0/infer", infer_request(square, more="x" * 70_000)),  # JSON that a thread reads
        ):
            reply = client("POST", path, body)
            assert (reply.status, reply.headers["retry-after"]) == (503, "100")
            assert "tiny-0 is too busy to answer in time (--timeout): 1 images before these" in reply.error
        assert not reads.called
        model.allowed.set()
        assert running.result().status == 200


def test_a_photo_that_can_not_be_decoded_in_time_is_refused(models, monkeypatch):
    started, end = threading.Semaphore(0), threading.Event()

    def square_of(*arguments: object) -> np.ndarray:
        started.release()
        assert end.wait(30)
        return random_squares(models["tiny-0"], 1)

    monkeypatch.setattr("alexnet_infer.serve.photos.square_of", square_of)
    with running(models["tiny-0"]) as client, ThreadPoolExecutor(2) as clients:
        monkeypatch.setattr(client.server._decode_pace, "seconds", 1000.0)
        decoded = []
        for _ in range(2):  # there are two threads
            decoded.append(clients.submit(client, "POST", "/v1/classify", b"x"))
            assert started.acquire(timeout=20)
        reply = client("POST", "/v1/classify", b"x")
        assert (reply.status, reply.headers["retry-after"]) == (503, "500")
        assert "the decoder is too busy" in reply.error
        end.set()
        assert [future.result().status for future in decoded] == [200, 200]


@pytest.mark.parametrize("length", ["0000000100", "100"])
def test_only_long_json_is_read_in_a_thread_however_long_its_tensor_is(client, monkeypatch, length):
    def threads(json: bytes, tensor: int) -> int:
        submit = Mock(wraps=client.server._pool.submit)
        monkeypatch.setattr(client.server._pool, "submit", submit)
        headers = {"Inference-Header-Content-Length": length.replace("100", str(len(json)))}
        assert client("POST", "/v2/models/tiny-0/infer", json + bytes(tensor), headers).status == 400
        monkeypatch.undo()
        return submit.call_count

    assert threads(b"[]", 1_000_000) == 0
    assert threads(b"[" + b" " * 70_000 + b"]", 0) == 1


@pytest.mark.parametrize(
    ("limits", "on_gpu", "expected"),
    [
        (Limits(), False, 8),
        (Limits(), True, 64),
        (Limits(queue=5), False, 5),
        (Limits(queue=20), True, 20),
        (Limits(max_batch=3), True, 3),
    ],
    ids=["CPU", "GPU", "short queue", "short queue on a GPU", "given"],
)
def test_the_images_per_call_depend_on_the_device_if_no_number_is_given(models, monkeypatch, limits, on_gpu, expected):
    monkeypatch.setattr(models["tiny-0"].net.backend, "device", "cuda" if on_gpu else "cpu")
    server = create_app([models["tiny-0"]], limits).state.server
    assert server.limits.max_batch == server._batchers["tiny-0"]._max_batch == expected


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
