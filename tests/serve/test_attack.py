"""The load test of `benchmarks.serving`: a server under its hostile requests, the judge of the answers, its client."""

from __future__ import annotations

import random
import socket
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.serving.client import Exchange, closed_loop, open_loop, post, run
from benchmarks.serving.hostile import MAKERS, Report, attack, cases
from benchmarks.serving.target import LIMITS, Case, Target
from tests.serve.running import Held, eventually, running

for package in ("starlette", "uvicorn", "prometheus_client", "jinja2", "onnxruntime"):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'alexnet-infer[cpu,serve]'")

COUNT = 4 * len(MAKERS)
"""Four of each kind, and none of the slow ones, which take seconds."""


def test_hostile_requests_are_refused_and_right_ones_are_still_answered(models):
    model = models["tiny-0"]
    target = Target(model.name, model.side)
    right = [
        Exchange(request=target.right(random.Random(0))),
        Exchange(request=post(target.path, target.json())),
    ]
    with running(model, **LIMITS) as client:
        before = run(closed_loop(client.port, right, connections=2, requests=4))
        report = run(attack(client.port, target, COUNT, on_case=lambda: None))
        after = run(closed_loop(client.port, right, connections=2, requests=4))
    assert report.faults == []
    assert report.statuses.total() == COUNT
    assert before.statuses == after.statuses == {200: 4}


def test_an_open_loop_sends_whether_or_not_answers_come(models):
    model = Held.holding(models["tiny-0"])
    exchange = Exchange(request=Target(model.name, model.side).right(random.Random(0)))
    with running(model, queue=64) as client, ThreadPoolExecutor(1) as other:
        model.allowed.clear()
        load = other.submit(lambda: run(open_loop(client.port, [exchange], rate=400, seconds=0.1)))
        eventually(lambda: client.server.open_requests == 40)
        model.allowed.set()
        outcome = load.result()
    assert outcome.statuses[200] == outcome.statuses.total() == len(outcome.latencies) == 40


@pytest.mark.parametrize("end", ["garbage", "reset"])
def test_a_connection_that_ends_with_several_requests_open_prints_nothing(models, caplog, end):
    pytest.importorskip("uvloop", reason="needs uvloop, whose connections can't be written to after their end")
    model = Held.holding(models["tiny-0"])
    target = Target(model.name, model.side)
    with running(model) as client:
        model.allowed.clear()
        with socket.create_connection(("127.0.0.1", client.port), timeout=30) as connection:
            connection.sendall(target.right(random.Random(0)) + target.right(random.Random(1)))
            eventually(lambda: client.server.open_requests == 1)
            if end == "garbage":
                connection.sendall(b"\x00\x01\r\n\r\n")
                assert connection.makefile("rb").read().startswith(b"HTTP/1.1 400 ")  # until the server closes it
            else:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        eventually(lambda: client.server.open_requests == 0)
        model.allowed.set()
        assert client("GET", "/v2").status == 200
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_cases_are_the_same_for_the_same_seed_and_of_every_kind():
    target = Target("net", 9)
    first, again, other = ([*cases(target, 105, seed)] for seed in (0, 0, 1))
    assert first == again != other
    assert len({case.kind for case in first}) == len(MAKERS) + 1


@pytest.mark.parametrize(
    ("answers", "fault"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", None),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", None),
        (b"HTTP/1.1 400 Bad Request\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", None),
        (b"HTTP/1.1 400 Bad Request\r\n\r\nHTTP/1.1 500 Internal Server Error\r\n\r\n", "status 500"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "200 instead of [400]"),
        (b"", "0 instead of [400]"),
        (b"Traceback", "no HTTP"),
        (None, "hangs"),
    ],
)
def test_the_judge_notices_wrong_answers(answers, fault):
    report = Report()
    report.add(Case(kind="any", parts=(b"x",)), answers, 1)
    if fault is None:
        assert report.faults == []
    else:
        (found,) = report.faults
        assert fault in found
