"""Requests that are hostile as HTTP, or come slowly, or end early."""

from __future__ import annotations

import random

from benchmarks.serving.client import post
from benchmarks.serving.hostile_bodies import broken_json, duplicate_keys, wrong_size
from benchmarks.serving.target import CLOSED_OR, LIMITS, Case, Target, one


def lying_content_length(target: Target, rng: random.Random) -> Case:
    """A Content-Length that is too short, so that the rest is taken for a request, or that is no number."""
    head, data = target.binary(rng)
    length = rng.choice((0, 1, len(head), -1, 10**9, 2**64, 10**30, "x", "1e3", "0x5", "5, 6", ""))
    request = (
        f"POST {target.path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n"
        f"Inference-Header-Content-Length: {len(head)}\r\n\r\n"
    )
    return one("lying Content-Length", request.encode() + head + data, CLOSED_OR)


def truncated(target: Target, rng: random.Random) -> Case:
    """The client leaves in the middle of its request."""
    request = target.right(rng)
    part = request[: rng.randrange(1, len(request))]
    return Case(kind="truncated", parts=(part,), expected=frozenset({0}), leaves=True)


def slow(target: Target, rng: random.Random) -> Case:
    """A client that sends some bytes, and then nothing, or one byte from time to time, for longer than allowed."""
    request = target.right(rng)
    body = request.index(b"\r\n\r\n") + 4
    end = rng.choice((1, 10, 40, body, body + 400))
    drops = tuple(request[i : i + 1] for i in range(end, end + 100)) if rng.random() < 0.5 else ()
    return Case(kind="slow", parts=(request[:end], *drops), pause=0.2, expected=frozenset({408, 0}))


def garbage(target: Target, rng: random.Random) -> Case:
    """Bytes that are no HTTP."""
    data = rng.choice(
        (
            rng.randbytes(rng.choice((5, 300, 5_000))) + b"\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200),  # TLS
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"\r\n" * 500 + b"X\r\n\r\n",
            b"POST " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
            b"POST / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
            b"POST / HTTP/1.1\r\nA: " + b"b" * 200_000 + b"\r\n\r\n",
            b"POST / HTTP/1.1\r\nno colon\r\n\r\n",
            b"POST / HTTP/1.1\r\nA: b\x00\r\n\r\n",
        )
    )
    return one("garbage", data, CLOSED_OR)


def bad_chunks(target: Target, rng: random.Random) -> Case:
    """A body in chunks whose sizes are wrong, or that say more than a body may have."""
    chunks = rng.choice(
        (
            b"zz\r\nabc\r\n0\r\n\r\n",
            b"-5\r\nabc\r\n0\r\n\r\n",
            b"ffffffffffffffff1\r\nabc\r\n0\r\n\r\n",
            b"5\r\nab\r\n0\r\n\r\n",
            b"3\r\nabcdef\r\n0\r\n\r\n",
            b"3;" + b"x" * 50_000 + b"\r\nabc\r\n0\r\n\r\n",
            b"3\r\nabc\r\n0\r\nA: b\r\n\r\n",
            b"1\r\na\r\n" * 5_000 + b"0\r\n\r\n",
            b"100000\r\n" + bytes(0x100000) + b"\r\n0\r\n\r\n",
        )
    )
    both = rng.choice(("", "Content-Length: 5\r\n"))
    request = f"POST {target.path} HTTP/1.1\r\nHost: a\r\n{both}Transfer-Encoding: chunked\r\n\r\n"
    return one("bad chunks", request.encode() + chunks, CLOSED_OR)


def pipelined(target: Target, rng: random.Random) -> Case:
    """Several requests at once, of which the first is refused."""
    first = rng.choice((broken_json, duplicate_keys, wrong_size))(target, rng)
    rest = b"".join(target.right(rng) for _ in range(rng.choice((1, 5, 20))))
    return Case(kind="pipelined", parts=(first.parts[0] + rest,), expected=first.expected)


def wrong_route(target: Target, rng: random.Random) -> Case:
    path = rng.choice(
        (
            "/",
            "//",
            "*",
            "/%ff%fe",
            "/v2/models/%00/infer",
            "/v2/models/../infer",
            "/v2/models/no/infer",
            f"/v2/models/{'x' * 3_000}/infer",
            f"{target.path}/",
            target.path.replace("infer", "versions/2/infer"),
            "http://other/v2",
        )
    )
    return one("wrong route", post(path, target.json()), frozenset({400, 404, 405, 0}))


def too_large(target: Target, rng: random.Random) -> Case:
    body = bytes(LIMITS["max_body"] + rng.choice((1, 1_000)))
    return one("too large", post(rng.choice((target.path, "/v1/classify")), body), frozenset({413, 0}))
