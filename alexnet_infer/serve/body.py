"""Read the bodies of requests, with limits on their size, on their time, and on the memory of all of them together."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from alexnet_infer.errors import shown
from alexnet_infer.serve.limits import BODIES, Limits, RequestError, busy

if TYPE_CHECKING:
    from starlette.requests import Request

ENCODINGS = {"gzip": 31, "deflate": 15}
"""Content-Encoding -> zlib's parameter for it. HTTP's deflate is zlib's format."""


class Bodies:
    """Reads the bodies of a server's requests."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Read a body, decompressed if it has a Content-Encoding. It counts as held until the context ends.

        Raises RequestError: 413 if it is too large, 408 if it doesn't arrive in time, 415 or 400 for an encoding
        that is unknown or damaged, 503 if the other bodies take too much memory. Raises ClientDisconnect if the client
        leaves.
        """
        held = 0

        def hold(count: int) -> None:
            nonlocal held
            most = BODIES * self._limits.max_body
            if self._held + count > most:
                raise busy(f"the bodies of all requests together have {most:,} bytes: try again later")
            self._held += count
            held += count

        try:
            body = await self._received(request, hold)
            encoding = request.headers.get("content-encoding", "").strip().lower()
            if encoding not in ("", "identity"):
                hold(self._limits.max_body)  # it may become so large
                body = await asyncio.to_thread(self._decompressed, body, encoding)
                hold(len(body) - self._limits.max_body)
            yield body
        finally:
            self._held -= held

    async def _received(self, request: Request, hold: Callable[[int], None]) -> bytes:
        declared = request.headers.get("content-length", "")
        self._check_size(int(declared) if declared.isdigit() and len(declared) < 20 else 0)
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._limits.timeout):
                async for chunk in request.stream():
                    size += len(chunk)
                    self._check_size(size)
                    hold(len(chunk))
                    chunks.append(chunk)
        except TimeoutError:
            seconds = f"{self._limits.timeout:g} s"
            raise RequestError(408, f"the body is not complete after {seconds}; send it faster", close=True) from None
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _check_size(self, size: int) -> None:
        if size > self._limits.max_body:
            raise RequestError(
                413, f"a body of {size:,} bytes or more: expected at most {self._limits.max_body:,} (--max-body)"
            )

    def _decompressed(self, body: bytes, encoding: str) -> bytes:
        if encoding not in ENCODINGS:
            raise RequestError(415, f"Content-Encoding {shown(encoding)}: expected gzip, deflate or none")
        decompressor = zlib.decompressobj(ENCODINGS[encoding])
        try:
            content = decompressor.decompress(body, self._limits.max_body + 1)
        except zlib.error as error:
            raise RequestError(400, f"the body is not {encoding} ({error})") from None
        self._check_size(len(content))
        if not decompressor.eof or decompressor.unused_data:
            raise RequestError(
                400, f"the body is not {encoding} (it {'ends early' if not decompressor.eof else 'goes on'})"
            )
        return content
