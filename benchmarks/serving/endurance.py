"""A server over a long time, through `kill -9` and SIGTERM under load, and under hostile requests."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet_infer.nets import load
from alexnet_infer.predict import Net
from alexnet_infer.progress import counting
from benchmarks.evaluation import photo
from benchmarks.serving.client import CONNECTION_LOST, Connection, Exchange, Outcome, closed_loop, post, run
from benchmarks.serving.hostile import attack
from benchmarks.serving.load import photo_exchanges, squares_of, tensor_exchanges
from benchmarks.serving.servers import served
from benchmarks.serving.target import LIMITS, Target
from tests.nets import random_artifact

MODEL = "tiny"
CONNECTIONS = 16

CHECK_EVERY = 500
"""Hostile cases between two right requests, whose answers are checked."""


@contextmanager
def tiny_net() -> Iterator[tuple[Net, str]]:
    """A net that takes a fraction of a millisecond, so that time is spent in the server; and what `serve` calls it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.safetensors"
        random_artifact().save(path)
        yield load(path, views="center", device="cpu"), f"{MODEL}={path}"


def _mixed(net: Net) -> list[Exchange]:
    """Mostly tensors, some photos, and one request in 50 that is refused."""
    tensors = tensor_exchanges(net, MODEL, squares_of(net, 46))
    photos = photo_exchanges(net, [photo(seed, 120, 90) for seed in range(3)])
    return [*tensors, *photos, Exchange(request=post(f"/v2/models/{MODEL}/infer", b"{}"))]


def memory(requests: int) -> dict[str, Any]:
    """Return the server's memory in MB after a tenth of the requests and after all of them."""
    with tiny_net() as (net, name), served(name, "--views", "center", "--device", "cpu") as server:
        exchanges, marks, done = _mixed(net), {}, 0
        wanted = [requests // 10, requests // 2, requests]
        with counting("requests", requests) as advance:

            def on_answer() -> None:
                nonlocal done
                done += 1
                advance(1)
                if done in wanted:
                    marks[done] = server.memory()

            outcome = run(
                closed_loop(server.port, exchanges, connections=CONNECTIONS, requests=requests, on_answer=on_answer)
            )
        return {
            "mb_after_requests": marks,
            "growth_mb": marks[requests] - marks[requests // 10],
            "peak_mb": server.memory("VmHWM"),
            "requests_per_second": outcome.statuses.total() / outcome.seconds,
            "statuses": dict(outcome.statuses),
            "wrong": len(outcome.complaints),
        }


@dataclass
class Clients:
    """Clients that keep a server busy from another thread, and note what was in flight when a signal was sent."""

    port: int
    exchanges: Sequence[Exchange]
    before: Counter[int] = field(default_factory=Counter)
    """Statuses of requests that were sent before the signal and not answered yet."""
    after: Counter[int] = field(default_factory=Counter)
    """Statuses of requests that were sent after it."""
    answered: int = 0
    wrong: int = 0
    signalled: float = float("inf")
    ended: float = 0.0

    def run(self) -> None:
        run(self._all())

    async def _all(self) -> Outcome:
        await asyncio.gather(*(self._client(number) for number in range(CONNECTIONS)))
        self.ended = time.perf_counter()
        return Outcome()

    async def _client(self, number: int) -> None:
        connection = await Connection.to(self.port)
        while not connection.lost:
            exchange = self.exchanges[number % len(self.exchanges)]
            sent, number = time.perf_counter(), number + CONNECTIONS
            status, body = await connection.ask(exchange.request)
            if status == 200:
                self.wrong += bool(exchange.complaint(body))
            if sent > self.signalled:
                self.after[status] += 1
            elif time.perf_counter() > self.signalled:
                self.before[status] += 1
            else:
                self.answered += 1


def _signal_under_load(server: Any, exchanges: Sequence[Exchange], number: int) -> tuple[Clients, int]:
    """Send a signal to a server that is busy. Returns what its clients saw, and the exit code."""
    clients = Clients(server.port, exchanges)
    thread = threading.Thread(target=clients.run)
    thread.start()
    while clients.answered < 2_000 and thread.is_alive():
        time.sleep(0.01)
    clients.signalled = time.perf_counter()
    code = server.signalled(number)
    thread.join()
    return clients, code


def killed() -> dict[str, Any]:
    """`kill -9` under load, and a new server on the same port."""
    with tiny_net() as (net, name):
        options = (name, "--views", "center", "--device", "cpu")
        exchanges = tensor_exchanges(net, MODEL, squares_of(net))
        with served(*options) as server:
            children = server.children()
            clients, code = _signal_under_load(server, exchanges, signal.SIGKILL)
        began = time.perf_counter()
        with served(*options, port=server.port) as again:
            started = time.perf_counter()
            first = run(closed_loop(again.port, exchanges, connections=1, requests=1))
            answered = time.perf_counter()
            more = run(closed_loop(again.port, exchanges, connections=CONNECTIONS, requests=500))
        return {
            "exit_code": code,
            "answered_before": clients.answered,
            "in_flight": dict(clients.before),
            "after": dict(clients.after),
            "clients_end_ms": (clients.ended - clients.signalled) * 1e3,
            "child_processes": len(children),
            "restart_s": started - began,
            "first_answer_ms": (answered - started) * 1e3,
            "after_restart": dict(first.statuses + more.statuses),
            "wrong": clients.wrong + len(first.complaints) + len(more.complaints),
        }


def terminated() -> dict[str, Any]:
    """SIGTERM under load: what was accepted is answered, and the server ends with 0."""
    with tiny_net() as (net, name), served(name, "--views", "center", "--device", "cpu") as server:
        exchanges = tensor_exchanges(net, MODEL, squares_of(net))
        clients, code = _signal_under_load(server, exchanges, signal.SIGTERM)
        return {
            "exit_code": code,
            "answered_before": clients.answered,
            "in_flight": dict(clients.before),
            "in_flight_lost": clients.before[CONNECTION_LOST],
            "after": dict(clients.after),
            "seconds_to_end": clients.ended - clients.signalled,
            "wrong": clients.wrong,
        }


def hostile(count: int, seed: int) -> dict[str, Any]:
    """Send hostile requests, and right ones among them."""
    limits = [f"--{key.replace('_', '-')}={value}" for key, value in LIMITS.items()]
    with tiny_net() as (net, name), served(name, "--views", "center", "--device", "cpu", *limits) as server:
        target = Target(MODEL, net.rescaling.size)
        rights = tensor_exchanges(net, MODEL, squares_of(net))
        checks, before = Outcome(), server.memory()
        faults: list[str] = []
        statuses: Counter[tuple[str, int]] = Counter()
        with counting("cases", count) as advance:
            for begin in range(0, count, CHECK_EVERY):
                own = min(CHECK_EVERY, count - begin)
                report = run(attack(server.port, target, own, seed=seed + begin, at_once=8, on_case=lambda: advance(1)))
                faults += report.faults
                statuses += report.statuses
                outcome = run(closed_loop(server.port, rights, connections=4, requests=20))
                checks.statuses += outcome.statuses
                checks.complaints += outcome.complaints
        return {
            "cases": statuses.total(),
            "statuses": dict(sum((Counter({status: n}) for (_, status), n in statuses.items()), Counter())),
            "by_kind": {kind: {s: n for (k, s), n in sorted(statuses.items()) if k == kind} for kind, _ in statuses},
            "faults": [*faults, *(f"printed: {line}" for line in server.printed()[:20])],
            "right_requests": dict(checks.statuses),
            "wrong": len(checks.complaints),
            "mb_before_after": [before, server.memory()],
            "peak_mb": server.memory("VmHWM"),
            "alive": server.process.poll() is None,
            "exit_code": server.signalled(signal.SIGTERM),
        }
