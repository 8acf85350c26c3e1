"""A small HTTP/1.1 client for load tests, and two ways to put load on a server.

It shares the machine's cores with the server, so it does little more than write bytes and look for the end of the
answer. `closed_loop` keeps a number of connections busy, which finds the highest throughput. `open_loop` sends requests
at times that don't depend on the answers, as many independent clients do, and counts latency from the time at which a
request was due. So a server that stops for a second is charged with all requests of this second.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

CONNECTION_LOST = 0
"""Stands for the status of a request whose connection ended before its answer."""

MOST_CONNECTIONS = 200
"""Connections of `open_loop`. When all are busy, requests wait for one, and the wait counts as latency."""

PATIENCE = 30.0
"""Seconds after which an answer is no longer waited for."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A request as the bytes that are sent, and a function that says what is wrong with the body of its answer."""

    request: bytes
    complaint: Callable[[bytes], str] = lambda body: ""


@dataclass
class Outcome:
    """What became of the requests of a run."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    """From the first request to the last answer."""
    latencies: list[float] = field(default_factory=list)
    """Of the answers with status 200, in seconds."""
    complaints: list[str] = field(default_factory=list)
    """Of answers with status 200 that were wrong."""

    @property
    def rate(self) -> float:
        """Answers with status 200 per second."""
        return self.statuses[200] / self.seconds

    @property
    def failed(self) -> int:
        return self.statuses.total() - self.statuses[200]

    def count(self, status: int, latency: float, complaint: str) -> None:
        self.statuses[status] += 1
        if status == 200:
            self.latencies.append(latency)
        if complaint:
            self.complaints.append(complaint)

    def percentile(self, percent: float) -> float:
        """Latency in milliseconds."""
        return float(np.percentile(self.latencies, percent)) * 1e3 if self.latencies else float("nan")


def post(path: str, body: bytes, **headers: str) -> bytes:
    """Return the bytes of a request. Underscores in the names of headers become hyphens."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Connection(asyncio.Protocol):
    """A keep-alive connection with one request at a time. It reads answers that have a Content-Length."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._end = 0
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None
        self.lost = False

    @classmethod
    async def to(cls, port: int) -> Connection:
        """Connect. Raises OSError."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._end:
            head = self._received.find(b"\r\n\r\n")
            if head < 0:
                return
            fields = bytes(self._received[:head]).lower()
            length = fields.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
            self._begin, self._end = head + 4, head + 4 + int(length or 0)
        if len(self._received) >= self._end and self._answer is not None:
            answer, self._answer = self._answer, None
            status, body = int(self._received[9:12]), bytes(self._received[self._begin : self._end])
            del self._received[: self._end]
            self._end = 0
            if not answer.done():
                answer.set_result((status, body))

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((CONNECTION_LOST, b""))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request. Returns the status and the body of its answer."""
        if self.lost:
            return CONNECTION_LOST, b""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        self._transport.close()


def run(work: Awaitable[Outcome]) -> Outcome:
    """Run a load on an event loop of its own, uvloop's if it is installed."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        new_event_loop = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work)


async def closed_loop(
    port: int,
    exchanges: Sequence[Exchange],
    *,
    connections: int,
    seconds: float = float("inf"),
    requests: int | None = None,
    on_answer: Callable[[], None] = lambda: None,
) -> Outcome:
    """Keep `connections` busy with `exchanges` in turn, for some seconds or until there are so many `requests`.

    A connection that ends is not replaced, so that the run ends when the server does.
    """
    outcome, turn = Outcome(), itertools.count()
    began = time.perf_counter()

    async def client() -> None:
        connection = await Connection.to(port)
        while not connection.lost and time.perf_counter() - began < seconds:
            number = next(turn)
            if requests is not None and number >= requests:
                break
            exchange = exchanges[number % len(exchanges)]
            sent = time.perf_counter()
            status, body = await connection.ask(exchange.request)
            outcome.count(status, time.perf_counter() - sent, exchange.complaint(body) if status == 200 else "")
            on_answer()
        connection.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    outcome.seconds = time.perf_counter() - began
    return outcome


async def open_loop(port: int, exchanges: Sequence[Exchange], *, rate: float, seconds: float, seed: int = 0) -> Outcome:
    """Send `exchanges` in turn at times of a Poisson process with `rate` requests per second.

    Latency includes the error of the event loop's timer, up to 1 ms. Answers that don't arrive in time count as
    CONNECTION_LOST.
    """
    outcome, free = Outcome(), deque[Connection]()
    rng = np.random.default_rng(seed)
    due = np.cumsum(rng.exponential(1 / rate, int(rate * seconds)))
    slots = asyncio.Semaphore(MOST_CONNECTIONS)
    began = time.perf_counter()

    async def request(exchange: Exchange, at: float) -> None:
        async with slots:
            connection = free.pop() if free else await Connection.to(port)
            status, body = await connection.ask(exchange.request)
            if connection.lost:
                connection.close()
            else:
                free.append(connection)
        latency = time.perf_counter() - began - at
        outcome.count(status, latency, exchange.complaint(body) if status == 200 else "")

    tasks = []
    for number, at in enumerate(due.tolist()):
        if (wait := at - (time.perf_counter() - began)) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.ensure_future(request(exchanges[number % len(exchanges)], at)))
    _, late = await asyncio.wait(tasks, timeout=PATIENCE)
    for task in late:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    outcome.statuses[CONNECTION_LOST] += len(late)
    outcome.seconds = time.perf_counter() - began
    for connection in free:
        connection.close()
    return outcome
