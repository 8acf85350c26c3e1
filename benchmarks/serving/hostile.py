"""Requests that a server must refuse, or survive: a deterministic stream of cases, for the load test and the tests.

Each case is what a client writes to a new connection, and what the server may answer. The bodies are meant for
`/v2/models/MODEL/infer` and `/v1/classify`, and the server must have the small limits of `LIMITS`.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import random
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.serving.client import post

LIMITS = {"max_body": 1_000_000, "max_pixels": 1_000_000, "timeout": 2.0}
"""The limits that the server must have: options of `alexnet-infer serve`, and fields of `Limits`."""

WAIT = 20.0
"""Seconds after which a connection counts as hanging. The server's own limits end it before."""

SILENCE = 0.05
"""Seconds after an answer in which answers to further requests of the same connection are waited for."""

HUGE = (2**31, 2**63, 2**64, 10**30, 10**308, -1, -(2**63), 0)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a client writes, part by part, with a pause of some seconds before each part but the first."""

    kind: str
    parts: tuple[bytes, ...]
    expected: frozenset[int] = frozenset({400})
    """Statuses that the first answer may have, beside 503. 0: the connection may be closed without an answer."""
    pause: float = 0.0
    leaves: bool = False
    """Whether the client closes the connection without waiting for an answer."""


Maker = Callable[["Target", random.Random], Case]


@dataclass(frozen=True)
class Target:
    """A model on a server: its name, and the side of its squares."""

    model: str
    side: int

    @property
    def path(self) -> str:
        return f"/v2/models/{self.model}/infer"

    def tensor(self, **more: Any) -> dict[str, Any]:
        return {"name": "images", "datatype": "UINT8", "shape": [1, self.side, self.side, 3], **more}

    @property
    def size(self) -> int:
        return 3 * self.side**2

    def json(self, **more: Any) -> bytes:
        """A right request in JSON, with other values in its tensor."""
        return json.dumps({"inputs": [self.tensor(**{"data": [7] * self.size, **more})]}).encode()

    def binary(self, rng: random.Random, **more: Any) -> tuple[bytes, bytes]:
        """The JSON and the tensor of a right request in binary, with other values in its tensor."""
        tensor = self.tensor(**{"parameters": {"binary_data_size": self.size}, **more})
        return json.dumps({"inputs": [tensor]}).encode(), rng.randbytes(self.size)

    def right(self, rng: random.Random) -> bytes:
        head, data = self.binary(rng)
        return post(self.path, head + data, Inference_Header_Content_Length=str(len(head)))


REFUSED = frozenset({400})
TOO_LARGE = frozenset({400, 413})
ANY = frozenset({200, 400, 408, 413, 415, 431})
"""For bytes that may happen to be right."""
CLOSED_OR = ANY | {0, 404, 405}
"""For bytes that may not be a request at all, so that the connection may be closed without an answer."""


def _case(kind: str, request: bytes, expected: frozenset[int] = REFUSED) -> Case:
    return Case(kind=kind, parts=(request,), expected=expected)


def broken_json(target: Target, rng: random.Random) -> Case:
    """A right request with bytes missing, doubled or changed."""
    body = bytearray(target.json())
    start = rng.randrange(80)
    match rng.randrange(4):
        case 0:
            del body[rng.randrange(len(body)) :]
        case 1:
            del body[start : start + rng.randrange(1, 9)]
        case 2:
            body[start:start] = rng.randbytes(rng.randrange(1, 9))
        case 3:
            body[start] ^= 1 << rng.randrange(8)
    return _case("broken JSON", post(target.path, bytes(body)), ANY)


def deep_nesting(target: Target, rng: random.Random) -> Case:
    depth = rng.choice((100, 1_000, 10_000, 100_000))
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
    ends = rng.choice((closing * depth, ""))
    inside = opening * depth + ("1" if opening != "[" and ends else "") + ends
    body = rng.choice(
        (inside, f'{{"inputs": {inside or "[]"}}}', f'{{"inputs": [{{"name": "images", "data": {inside}}}]}}')
    )
    return _case("deep nesting", post(target.path, body.encode()), TOO_LARGE)


def wrong_json(target: Target, rng: random.Random) -> Case:
    """JSON of the wrong form, with numbers and names that parsers disagree on."""
    bad = rng.choice((*HUGE, None, True, "", "x" * 5_000, [], {}, 1.5, -0.0, 1e308, "\ud800", "\x00", [[[]]]))
    key = rng.choice(("name", "datatype", "shape", "data", "parameters"))
    text = json.dumps({"inputs": [target.tensor(**{"data": [7] * target.size, key: bad})]})
    # An object without parameters is right.
    fine = key == "parameters" and bad in ({}, None) and not isinstance(bad, (bool, int, float))
    return _case("wrong JSON", post(target.path, text.encode()), ANY if fine else TOO_LARGE)


def odd_values(target: Target, rng: random.Random) -> Case:
    """A value of a tensor that is no whole number from 0 to 255."""
    data = ["7"] * target.size
    data[rng.randrange(target.size)] = rng.choice(
        (
            "NaN",
            "Infinity",
            "-Infinity",
            "1e999",
            "-1",
            "256",
            "1.5",
            "null",
            "true",
            '"7"',
            "[7]",
            "9" * 4_000,
            "07",
            "",
        )
    )
    text = json.dumps({"inputs": [target.tensor(data=0)]}).replace('"data": 0', f'"data": [{",".join(data)}]')
    return _case("odd values", post(target.path, text.encode()))


def duplicate_keys(target: Target, rng: random.Random) -> Case:
    key = rng.choice(("name", "shape", "datatype", "data"))
    text = target.json().decode().replace('{"name"', f'{{"{key}": {rng.choice(("0", "null", "[1]"))}, "name"', 1)
    return _case("duplicate keys", post(target.path, text.encode()))


def not_utf8(target: Target, rng: random.Random) -> Case:
    bad = rng.choice((b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\x80", b"\xef\xbb\xbf"))
    body = target.json()
    begin = rng.choice((0, body.index(b"images")))
    return _case("not UTF-8", post(target.path, body[:begin] + bad + body[begin:]))


def wrong_shape(target: Target, rng: random.Random) -> Case:
    """Shapes that are negative or huge, or whose product overflows to the right size."""
    side = target.side
    shape = rng.choice(
        (
            [rng.choice((*HUGE, 300, 10**6)), side, side, 3],
            [1, side, side, rng.choice((1, 4, -3, 2**32 + 3))],
            [-1, -side, side, 3],
            [2**32 + 1, side, side, 3],
            [1, side * side, 1, 3],
            [side, side, 3],
            [1] * rng.choice((0, 1, 5, 10_000)),
            [1, float(side), side, 3],
            ["1", side, side, 3],
        )
    )
    head, data = target.binary(rng, shape=shape)
    return _case(
        "wrong shape", post(target.path, head + data, Inference_Header_Content_Length=str(len(head))), TOO_LARGE
    )


def wrong_size(target: Target, rng: random.Random) -> Case:
    """`binary_data_size` and the bytes behind the JSON don't agree, or the header is longer than the body."""
    claimed = rng.choice((0, -1, target.size - 1, target.size + 1, 2**40, 10**30, 1.5, "12", None, True, [1]))
    head, data = target.binary(rng, parameters={"binary_data_size": claimed})
    data = data[: rng.choice((target.size, 0, 1, target.size - 1))] + bytes(rng.choice((0, 1, 10)))
    if claimed is None and not data:
        data = b"1"
    return _case("wrong size", post(target.path, head + data, Inference_Header_Content_Length=str(len(head))))


def lying_header_length(target: Target, rng: random.Random) -> Case:
    head, data = target.binary(rng)
    length = rng.choice((0, 1, -1, len(head) - 1, len(head) + 1, 2**63, 10**30, "", "x", "0x10", "1e2", "+5", "\u0663"))
    text = str(length).encode("utf-8").decode("latin-1")
    request = post(target.path, head + data, Inference_Header_Content_Length="LENGTH")
    return _case("lying header length", request.replace(b"LENGTH", text.encode("latin-1"), 1))


def lying_content_length(target: Target, rng: random.Random) -> Case:
    """A Content-Length that is too short, so that the rest is taken for a request, or that is no number."""
    head, data = target.binary(rng)
    length = rng.choice((0, 1, len(head), -1, 10**9, 2**64, 10**30, "x", "1e3", "0x5", "5, 6", ""))
    request = (
        f"POST {target.path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n"
        f"Inference-Header-Content-Length: {len(head)}\r\n\r\n"
    )
    return _case("lying Content-Length", request.encode() + head + data, CLOSED_OR)


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


def compressed_bomb(target: Target, rng: random.Random) -> Case:
    """A body that is small until it is decompressed."""
    size = rng.choice((2, 50)) * 10**6
    kind = rng.choice(("gzip", "deflate"))
    body = gzip.compress(bytes(size), 1, mtime=0) if kind == "gzip" else zlib.compress(bytes(size), 1)
    if rng.random() < 0.2 and size < 10**7:
        body = (
            gzip.compress(body, mtime=0) if kind == "gzip" else zlib.compress(body)
        )  # refused as JSON, or still too large
        return _case("compressed bomb", post(target.path, body, Content_Encoding=kind), TOO_LARGE)
    path = rng.choice((target.path, "/v1/classify"))
    return _case("compressed bomb", post(path, body, Content_Encoding=kind), frozenset({413}))


def bad_compression(target: Target, rng: random.Random) -> Case:
    """Compressed data that is damaged, followed by something, or of another kind than it says."""
    packed = gzip.compress(target.json(), mtime=0)
    body = rng.choice((packed[: rng.randrange(1, len(packed))], packed + b"x", rng.randbytes(200), packed[10:], b""))
    kind = rng.choice(("gzip", "deflate", "br", "gzip, gzip", "x" * 500, "zstd", "identity, gzip"))
    return _case("bad compression", post(target.path, body, Content_Encoding=kind), frozenset({400, 415}))


def _png(width: int, height: int) -> bytes:
    """A PNG that claims these dimensions, and has no more than a few kB of zeros for them."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def image_bomb(target: Target, rng: random.Random) -> Case:
    """A photo with far more pixels than bytes."""
    sides = rng.choice(
        ((30_000, 30_000), (2**31 - 1, 1), (1, 2**31 - 1), (2**31 - 1, 2**31 - 1), (5_000, 5_000), (0, 5))
    )
    return _case("image bomb", post("/v1/classify", _png(*sides)))


def broken_photo(target: Target, rng: random.Random) -> Case:
    """A photo that is damaged. Decoders may still accept it."""
    stream = io.BytesIO()
    colours = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(colours).save(stream, rng.choice(("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")))
    data = bytearray(stream.getvalue())
    for _ in range(rng.choice((1, 3, 20))):
        data[rng.randrange(min(len(data), rng.choice((40, 10_000))))] = rng.randrange(256)
    if rng.random() < 0.3:
        del data[rng.randrange(len(data)) :]
    return _case("broken photo", post("/v1/classify", bytes(data)), ANY)


def no_photo(target: Target, rng: random.Random) -> Case:
    data = rng.choice(
        (b"", rng.randbytes(1_000), b"\xff\xd8\xff" + rng.randbytes(500), b"<svg/>", b"%PDF-1.7", b"\x00" * 999)
    )
    path = rng.choice(("/v1/classify", "/v1/classify?top=0", "/v1/classify?top=99999999999999", "/v1/classify?top=%00"))
    return _case("no photo", post(path, data))


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
    return _case("garbage", data, CLOSED_OR)


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
    return _case("bad chunks", request.encode() + chunks, CLOSED_OR)


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
    return _case("wrong route", post(path, target.json()), frozenset({400, 404, 405, 0}))


def too_large(target: Target, rng: random.Random) -> Case:
    body = bytes(LIMITS["max_body"] + rng.choice((1, 1_000)))
    return _case("too large", post(rng.choice((target.path, "/v1/classify")), body), frozenset({413, 0}))


MAKERS: tuple[Maker, ...] = (
    broken_json,
    deep_nesting,
    wrong_json,
    odd_values,
    duplicate_keys,
    not_utf8,
    wrong_shape,
    wrong_size,
    lying_header_length,
    lying_content_length,
    truncated,
    compressed_bomb,
    bad_compression,
    image_bomb,
    broken_photo,
    no_photo,
    garbage,
    bad_chunks,
    pipelined,
    wrong_route,
    too_large,
)
"""In turn; `slow` comes once in `SLOW_EVERY` cases, since it takes seconds."""

SLOW_EVERY = 100


def cases(target: Target, count: int, seed: int = 0) -> Iterator[Case]:
    """Yield `count` cases, the same ones for the same seed."""
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        maker = slow if number % SLOW_EVERY == SLOW_EVERY - 1 else MAKERS[number % len(MAKERS)]
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
                writer.write(part)
                await writer.drain()
        if case.leaves:
            return b""
        with suppress(ConnectionError, TimeoutError):
            while data := await (
                asyncio.wait_for(reader.read(2**16), 0.05) if _complete(answers) else reader.read(2**16)
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
