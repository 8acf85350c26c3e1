"""What clients may do on a connection: how much they send before a body, how slowly, and how slowly they read."""

from __future__ import annotations

import operator
import socket
import threading
from functools import partial
from pathlib import Path

import pytest

from alexnet_infer.serve.connection import MAX_HEAD, PIPELINED, Limited
from tests.serve.running import Held, Reply, eventually, infer_request, random_squares, running

for package in ("starlette", "uvicorn", "prometheus_client", "jinja2", "onnxruntime"):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'alexnet-infer[cpu,serve]'")

CAT = (Path(__file__).parents[2] / "examples" / "cat.jpg").read_bytes()
GET = b"GET /v2/health/live HTTP/1.1\r\n\r\n"


def connect(client) -> socket.socket:
    return socket.create_connection(("127.0.0.1", client.port), timeout=30)


def replies(connection: socket.socket) -> list[Reply]:
    """Read answers until the server closes the connection."""
    rest, found = connection.makefile("rb").read(), []
    while rest:
        head, _, rest = rest.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        size = int(headers["content-length"])
        found.append(Reply(int(first.split()[1]), headers, rest[:size]))
        rest = rest[size:]
    return found


def refused(client, request: bytes) -> Reply:
    """Send a request that the server refuses before the app sees it, and return the answer."""
    with connect(client) as connection:
        connection.sendall(request)
        return only_reply(connection)


def only_reply(connection: socket.socket) -> Reply:
    (reply,) = replies(connection)
    assert reply.headers["connection"] == "close"
    return reply


@pytest.fixture
def lost(monkeypatch) -> threading.Semaphore:
    """Counts the connections that have ended."""
    count = threading.Semaphore(0)
    original = Limited.connection_lost

    def connection_lost(self, error):
        original(self, error)
        count.release()

    monkeypatch.setattr(Limited, "connection_lost", connection_lost)
    return count


@pytest.fixture
def received(monkeypatch) -> bytearray:
    """What the server has read and parsed."""
    data = bytearray()
    original = Limited.data_received

    def data_received(self, piece):
        original(self, piece)
        data.extend(piece)

    monkeypatch.setattr(Limited, "data_received", data_received)
    return data


@pytest.fixture
def small_buffers(monkeypatch) -> None:
    """Let the system hold little of what is sent."""
    from tests.serve import running

    original = running.bind

    def bind(host: str, port: int) -> socket.socket:
        listener = original(host, port)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return listener

    monkeypatch.setattr(running, "bind", bind)


def unread(client, request: bytes) -> socket.socket:
    """Send a request, and don't read the answer."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", client.port))
    connection.sendall(request)
    return connection


def text_of_metrics(client) -> str:
    return client("GET", "/metrics").body.decode()


@pytest.mark.parametrize("more", [0, 1])
def test_the_requests_that_wait_on_one_connection_are_limited(models, more):
    model = Held.holding(models["tiny-0"])
    body = infer_request(random_squares(model, 1))
    first = b"POST /v2/models/tiny-0/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with running(model) as client, connect(client) as connection:
        model.allowed.clear()
        connection.sendall(first + GET * (PIPELINED - 1 + more) + last)
        if more:
            (reply,) = replies(connection)
            assert (reply.status, "more than 100 requests wait" in reply.error) == (400, True)
            eventually(lambda: client.server.open_requests == 0)
            model.allowed.set()
        else:
            eventually(lambda: client.server.open_requests == 1)
            model.allowed.set()
            assert [reply.status for reply in replies(connection)] == [200] * (1 + PIPELINED)
        assert client("GET", "/v2/health/live").status == 200


POST = b"POST /v1/classify HTTP/1.1\r\n"
LONG = b"a" * (MAX_HEAD + 1)
MANY = b"A: b\r\n" * (MAX_HEAD // 6) + b"C: defg\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LARGE = {
    "a long address": b"GET /%s HTTP/1.1\r\n\r\n" % LONG,
    "an address that goes on": b"GET /" + LONG,
    "many headers": b"GET /v2 HTTP/1.1\r\n" + MANY + b"\r\n",
    "a header that goes on": b"GET /v2 HTTP/1.1\r\nA: " + LONG,
    "a header's name that goes on": b"GET /v2 HTTP/1.1\r\n" + LONG,
    "many trailers": CHUNKED + b"0\r\n" + MANY + b"\r\n",
    "a trailer that goes on": CHUNKED + b"1\r\na\r\n0\r\nA: " + LONG,
    "a chunk's extension that goes on": CHUNKED + b"1;" + LONG,
    "empty lines": b"\r\n" * (MAX_HEAD // 2 + 1),
}


COMPLETE = [name for name in LARGE if "goes on" not in name and name != "empty lines"]
"""These are refused even if the server reads them in one piece."""


@pytest.mark.parametrize(
    ("name", "in_pieces"), [*((name, True) for name in LARGE), *((name, False) for name in COMPLETE)]
)
def test_more_than_64_kb_before_or_after_a_body_are_431(client, received, name, in_pieces):
    request = LARGE[name]
    begin = max(1, len(request) - len(LONG)) if in_pieces else 0
    with connect(client) as connection:
        # A connection that is closed before all is read is reset, so that the answer could be lost. The last piece has
        # the byte that is too many.
        for piece in (request[:begin], request[begin:-60], request[-60:]):
            received.clear()
            connection.sendall(piece)
            eventually(partial(operator.eq, received, piece))
        reply = only_reply(connection)
    assert (reply.status, "more than 65,536 bytes" in reply.error) == (431, True)


def test_nearly_64_kb_of_headers_and_any_number_of_chunks_are_read(client):
    assert client("GET", "/v2", headers={"X": "y" * 60_000}).status == 200
    photo = CAT.ljust(3 * MAX_HEAD, b"\0")
    chunks = b"".join(b"8\r\n%s\r\n" % photo[at : at + 8] for at in range(0, len(photo), 8))
    assert len(chunks) - len(photo) > MAX_HEAD
    with connect(client) as connection:
        connection.sendall(CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + chunks + b"0\r\n\r\n")
        (reply,) = replies(connection)
    assert (reply.status, reply.body) == (200, client("POST", "/v1/classify", CAT).body)


@pytest.mark.parametrize(
    ("request_bytes", "message"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "not a valid HTTP request: "),
        (CHUNKED + b"xyz\r\n", "not a valid HTTP request: "),
        (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", "not a valid HTTP request: "),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", "address 'x:80': expected a path"),
    ],
    ids=["TLS", "chunk", "two lengths", "CONNECT"],
)
def test_what_is_no_http_gets_an_error_in_json_and_is_counted(models, request_bytes, message):
    with running(models["tiny-0"]) as client:
        reply = refused(client, request_bytes)
        assert (reply.status, message in reply.error) == (400, True)
        assert 'alexnet_infer_requests_total{route="none",status="400"} 1.0' in text_of_metrics(client)


@pytest.mark.parametrize("pieces", [1, 50])
@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Length: %d\r\n" % len(CAT), CAT),
        (b"Transfer-Encoding: chunked\r\n", b"%x\r\n%s\r\n0\r\n\r\n" % (len(CAT), CAT)),
    ],
    ids=["length", "chunked"],
)
def test_a_request_to_upgrade_is_ignored_and_its_body_and_the_next_request_are_read(client, head, body, pieces):
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n"
    websocket = b"GET /v2 HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    last = b"GET /v2/health/live HTTP/1.1\r\nConnection: close\r\n\r\n"
    request = POST + upgrade + head + b"\r\n" + body + websocket * 2 + last
    with connect(client) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        size = -(-len(request) // pieces)
        for at in range(0, len(request), size):
            connection.sendall(request[at : at + size])
        first, *others = replies(connection)
    assert (first.status, first.body) == (200, client("POST", "/v1/classify", CAT).body)
    assert [reply.status for reply in others] == [200, 200, 200]


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
def test_a_client_that_does_not_read_is_cut_off(models, lost, small_buffers, close):
    with running(models["tiny-0"], timeout=0.2) as client:
        with unread(client, b"GET /openapi.json HTTP/1.1\r\n%s\r\n" % close * 20):
            assert lost.acquire(timeout=20)
        assert client("GET", "/v2/health/live").status == 200


def test_a_client_that_does_not_read_while_the_server_ends_prints_nothing(
    models, lost, small_buffers, monkeypatch, caplog
):
    monkeypatch.setattr("alexnet_infer.serve.run.GRACE", 1)
    with running(models["tiny-0"]) as client:
        connection = unread(client, b"GET /openapi.json HTTP/1.1\r\n\r\n" * 20)
        eventually(lambda: 'route="/openapi.json",status="200"}' in text_of_metrics(client))
    connection.close()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("start", [b"POST /v1/cl", b"GET / HTTP/1.1\r\nHost: x\r\n"], ids=["address", "headers"])
def test_headers_that_do_not_arrive_in_time_are_408(models, start):
    with running(models["tiny-0"], timeout=0.2) as client:
        reply = refused(client, start)
        assert (reply.status, "not complete after 0.2 s" in reply.error) == (408, True)


@pytest.mark.parametrize("start", [b"", b"\r\n"], ids=["nothing", "an empty line"])
def test_a_connection_on_which_no_request_begins_is_closed(models, start):
    with running(models["tiny-0"], timeout=0.2) as client, connect(client) as connection:
        connection.sendall(start)
        assert replies(connection) == []


def test_a_connection_on_which_an_empty_line_follows_a_request_is_closed(models):
    with running(models["tiny-0"], timeout=0.2) as client, connect(client) as connection:
        connection.sendall(GET)
        first = connection.recv(10)
        connection.sendall(b"\r\n")
        assert (first + connection.makefile("rb").read()).endswith(b'{"live":true}')


def test_a_body_that_nobody_reads_is_not_waited_for(models, monkeypatch):
    monkeypatch.setattr("alexnet_infer.serve.connection.GRACE", 0)
    with running(models["tiny-0"], timeout=0.2) as client, connect(client) as connection:
        connection.sendall(b"POST /absent HTTP/1.1\r\nContent-Length: 9\r\n\r\nab")
        assert [reply.status for reply in replies(connection)] == [404]


def test_a_client_that_ends_its_side_of_the_connection_counts_as_gone(models):
    model = Held.holding(models["tiny-0"])
    body = infer_request(random_squares(model, 1))
    with running(model) as client, connect(client) as connection:
        model.allowed.clear()
        connection.sendall(b"POST /v2/models/tiny-0/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        eventually(lambda: client.server.open_requests == 1)
        connection.shutdown(socket.SHUT_WR)
        assert replies(connection) == []
        eventually(lambda: client.server.open_requests == 0)
        model.allowed.set()
