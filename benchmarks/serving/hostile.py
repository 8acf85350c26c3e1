"""Requests that a server must refuse, or survive: a deterministic stream of cases, and the judge of the answers.

Each case is what a client writes to a new connection, and what the server may answer. The server must have the small
limits of `target.LIMITS`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from benchmarks.serving import hostile_bodies as bodies
from benchmarks.serving import hostile_http as http
from benchmarks.serving.target import Case, Target

WAIT = 20.0
"""Seconds after which a connection counts as hanging. The server's own limits end it before."""

SILENCE = 0.05
"""Seconds after an answer in which answers to further requests of the same connection are waited for."""

Maker = Callable[[Target, random.Random], Case]


MAKERS: tuple[Maker, ...] = (
    bodies.broken_json,
    bodies.deep_nesting,
    bodies.wrong_json,
    bodies.odd_values,
    bodies.duplicate_keys,
    bodies.not_utf8,
    bodies.wrong_shape,
    bodies.wrong_size,
    bodies.lying_header_length,
    http.lying_content_length,
    http.truncated,
    bodies.compressed_bomb,
    bodies.bad_compression,
    bodies.image_bomb,
    bodies.broken_photo,
    bodies.no_photo,
    http.garbage,
    http.bad_chunks,
    http.pipelined,
    http.wrong_route,
    http.too_large,
)
"""In turn; `slow` comes once in `SLOW_EVERY` cases, since it takes seconds."""

SLOW_EVERY = 100


def cases(target: Target, count: int, seed: int = 0) -> Iterator[Case]:
    """Yield `count` cases, the same ones for the same seed."""
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        maker = http.slow if number % SLOW_EVERY == SLOW_EVERY - 1 else MAKERS[number % len(MAKERS)]
        yield maker(target, rng)


@dataclass
class Report:
    """What a server did with the cases."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By kind, and status of the first answer; 0 if the connection was closed without one."""
    faults: list[str] = field(default_factory=list)
    """Unexpected statuses, 5xx other than 503, answers that are no HTTP, and connections that hang."""

    def add(self, case: Case, answers: bytes | None, number: int) -> None:
        """Judge the answers of a case; None: there was no end of them in time."""
        if answers is None:
            self.faults.append(f"case {number}, {case.kind}: the connection hangs")
            return
        statuses = [int(line[9:12]) for line in _status_lines(answers)]
        first = statuses[0] if statuses else 0
        self.statuses[case.kind, first] += 1
        if answers and not answers.startswith(b"HTTP/1.1 "):
            self.faults.append(f"case {number}, {case.kind}: no HTTP: {answers[:80]!r}")
        elif wrong := [status for status in statuses if status >= 500 and status != 503]:
            self.faults.append(f"case {number}, {case.kind}: status {wrong[0]}: {answers[:300]!r}")
        elif first not in case.expected | {503}:
            self.faults.append(
                f"case {number}, {case.kind}: {first} instead of {sorted(case.expected)}: {answers[-200:]!r}"
            )


def _status_lines(answers: bytes) -> list[bytes]:
    return [b"HTTP/1.1 " + part for part in answers.split(b"HTTP/1.1 ")[1:] if part[:3].isdigit()]


async def attack(
    port: int, target: Target, count: int, *, seed: int = 0, at_once: int = 8, on_case: Callable[[], None]
) -> Report:
    """Send all cases, each on a connection of its own, some at once."""
    report, stream = Report(), enumerate(cases(target, count, seed))

    async def client() -> None:
        for number, case in stream:
            try:
                async with asyncio.timeout(WAIT):
                    answers = await _answers(port, case)
            except TimeoutError:
                answers = None
            report.add(case, answers, number)
            on_case()

    await asyncio.gather(*(client() for _ in range(at_once)))
    return report


async def _answers(port: int, case: Case) -> bytes:
    """Send a case and return all that comes back until the server closes, or (after an answer) is silent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    answers = bytearray()
    try:
        with suppress(ConnectionError):  # the server may close early
            for number, part in enumerate(case.parts):
                await asyncio.sleep(case.pause if number else 0)
                if writer.is_closing():  # uvloop's would raise RuntimeError
                    break
                writer.write(part)
                await writer.drain()
        if case.leaves:
            return b""
        with suppress(ConnectionError, TimeoutError):
            while data := await (
                asyncio.wait_for(reader.read(2**16), SILENCE) if _complete(answers) else reader.read(2**16)
            ):
                answers += data
        return bytes(answers)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def _complete(answers: bytearray) -> bool:
    """Whether the first answer is here. More may follow for other requests of the connection."""
    head = answers.find(b"\r\n\r\n")
    length = bytes(answers[:head]).lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return head >= 0 and len(answers) >= head + 4 + int(length or 0)
