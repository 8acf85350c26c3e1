"""Hundreds of hostile requests: none gets a 5xx but 503, and the server still works."""

from __future__ import annotations

import json
import random
import re
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.running import infer_request, random_squares

for package in ("starlette", "uvicorn", "prometheus_client", "jinja2", "onnxruntime"):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'alexnet-infer[cpu,serve]'")

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"

HEADS = [
    b"GET /v2 HTTP/1.1\r\n\r\n",
    b"GET /v2/models/tiny-0 HTTP/9.9\r\n\r\n",
    b"GET http://[::1 HTTP/1.1\r\n\r\n",
    b"GET /%ff%fe HTTP/1.1\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\n\r\n",
    b"GET /v2/models/\x1b[31m HTTP/1.1\r\n\r\n",
    b"GET //v2 HTTP/1.1\r\n\r\n",
    b"GET * HTTP/1.1\r\n\r\n",
    b"GET /absent HTTP/1.1\r\nHost: [::1\r\n\r\n",
    b"DELETE /v2?%ff=%00&&&=;# HTTP/1.1\r\nHost: \xff\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"TRACE /v2 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"BREW /v2 HTTP/1.1\r\n\r\n",
    b"GET /v2\r\n\r\n",
    b"\r\n\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /v2 HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET /v2 HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x\r\n\r\n",
    b"GET /v2 HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    b"GET /v2 HTTP/1.1\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"GET /v1/classify?" + b"top=1&" * 10_000 + b" HTTP/1.1\r\n\r\n",
    b"POST /v1/classify HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/classify HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /v1/classify HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    b"POST /v1/classify HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\na",
    b"POST /v1/classify HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /v1/classify HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"POST /v1/classify HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    b"POST /v1/classify HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    b"POST /v1/classify HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n",
    b"POST /v1/classify HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n",
    b"POST /v1/classify HTTP/1.0\r\n\r\nabc",
    b"POST /v1/classify HTTP/1.1\r\nContent-Encoding: \xff\r\nContent-Length: 1\r\n\r\na",
    b"POST /v2/models/tiny-0/infer HTTP/1.1\r\nInference-Header-Content-Length: \xb2\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /v2 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhelloGET /v2 HTTP/1.1\r\n\r\n",
]
"""Requests that are wrong as HTTP, or unusual."""


INSERTED = [b'"', b"[" * 500, b"-", b"1e999", b"null", b"{}", b"\0", b"\xff"]


def post(path: bytes, body: bytes, headers: bytes = b"") -> bytes:
    return b"POST %s HTTP/1.1\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n%s" % (path, headers, len(body), body)


def changed(data: bytes, generator: random.Random) -> bytes:
    """Return `data` with a few bytes changed, removed, repeated, or cut off."""
    content = bytearray(data)
    for _ in range(generator.choice((1, 2, 8))):
        place = generator.randrange(len(content) + 1)
        match generator.randrange(5):
            case 0:
                content[place : place + 1] = bytes([generator.randrange(256)])
            case 1:
                del content[place : place + generator.randrange(64)]
            case 2:
                content[place:place] = content[place : place + generator.randrange(64)]
            case 3:
                content[place:place] = generator.choice(
                    [b'"', b"[" * 500, b"-", b"1e999", b"null", b"{}", b"\0", b"\xff"]
                )
            case 4:
                del content[max(place, 1) :]
    return bytes(content)


def requests(squares) -> Iterator[bytes]:
    """About 530 requests with hostile bodies, the same in every run."""
    generator = random.Random(19)
    infer, classify = b"/v2/models/tiny-0/infer", b"/v1/classify"
    whole = infer_request(squares[:1], id="x", outputs=[{"name": "probabilities", "parameters": {"binary_data": True}}])
    short = re.sub(rb'"data": \[[^]]*', b'"data": [1, 2', whole)
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, *squares.shape[1:]]}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": squares[:1].size}}]}).encode()
    for _ in range(250):
        yield post(infer, changed(short, generator))
    for _ in range(30):
        yield post(infer, changed(whole, generator))
    for _ in range(150):
        length = generator.choice([len(head), len(head) + generator.randrange(-3, 4), generator.randrange(10**6)])
        body = changed(head, generator)[: len(head)] + squares[:1].tobytes()
        yield post(infer, body, b"Inference-Header-Content-Length: %d\r\n" % length)
    cat = CAT.read_bytes()
    for _ in range(60):
        yield post(classify, changed(cat[: generator.choice([200, 2000, len(cat)])], generator))
    for encoding in (b"gzip", b"deflate"):
        for _ in range(20):
            body = changed(b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + bytes(50), generator)
            yield post(classify, body, b"Content-Encoding: %s\r\n" % encoding)


def broken(squares) -> Iterator[bytes]:
    """About 190 requests that are hostile as HTTP, or end early."""
    generator = random.Random(20)
    yield from HEADS
    for _ in range(150):
        yield changed(generator.choice(HEADS[:18]) + post(b"/v1/classify", CAT.read_bytes()[:500]), generator)


def sent(client, request: bytes, *, whole: bool) -> bytes:
    """Send a request, and return the answer. A request that is not `whole` is followed by the end of the stream."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as connection:
        try:
            connection.sendall(request)
            if not whole:
                connection.shutdown(socket.SHUT_WR)
            return connection.makefile("rb").read()
        except OSError:  # it was refused before it was complete
            return b""


def test_no_hostile_request_gets_a_5xx_but_503_or_ends_the_server(client, models, caplog):
    squares = random_squares(models["tiny-0"], 2)
    statuses: Counter[bytes] = Counter()
    for request in requests(squares):
        reply = sent(client, request, whole=True)
        status = reply[9:12]
        assert reply.startswith(b"HTTP/1.1 "), request[:2000]
        assert not status.startswith(b"5") or status == b"503", (request[:2000], reply[:2000])
        statuses[status] += 1
    assert statuses[b"200"], statuses  # not all changes do harm
    assert statuses[b"400"] > 300
    for request in broken(squares):
        reply = sent(client, request, whole=False)
        assert not re.search(rb"HTTP/1.1 5(?!03)", reply), (request[:2000], reply[:2000])
    assert client("POST", "/v2/models/tiny-0/infer", infer_request(squares)).status == 200
    assert client("GET", "/v2/health/ready").status == 200
    assert client.server.open_requests == client.server.bodies._held == 0
    assert not [record for record in caplog.records if record.exc_info]
