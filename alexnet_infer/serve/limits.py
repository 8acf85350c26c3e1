"""What a server accepts, and how it refuses the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from alexnet_infer.decode import MAX_PIXELS
from alexnet_infer.errors import UsageError, message_line, shown

MAX_JSON_BYTES = 8_000_000
"""The most JSON of a request, in bytes: Python's parser stops all other requests for 0.1 to 0.2 s meanwhile. Enough for
10 squares of 256 pixels. Binary tensors have no such limit."""

BODIES = 8
"""The bodies of all requests together may take this many times the largest body."""

GRACE = 5
"""Seconds after the time limit of a body at which a connection is closed, so that the app can answer before."""


class RequestError(Exception):
    """A request that gets an error instead of an answer: an HTTP status, and one line with value, expectation and fix.

    `retry_after` is in seconds, for requests that may succeed later. After `close`, the connection can't be used again.
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None, close: bool = False) -> None:
        super().__init__(message_line(message))
        self.status, self.retry_after, self.close = status, retry_after, close


def busy(message: str, seconds: float = 0.0) -> RequestError:
    """Return the error of a request that the server can't take now, but may after `seconds`, of which 0 is unknown."""
    return RequestError(503, message, retry_after=max(1, math.ceil(seconds)))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a server. Raises UsageError, which names the option, for a value out of range."""

    max_batch: int | None = None
    """Images per call of a net. None: 8, or 64 if a net runs on a GPU, and at most `queue`."""
    max_delay_ms: float = 1.0
    """How long an image waits for others to join its batch, in milliseconds, while the net is idle."""
    queue: int = 256
    """Images that wait for a net. Also the photos that wait to be decoded, and the most images of a request."""
    max_body: int = 32_000_000
    """Bytes of a body, also after decompression."""
    max_pixels: int = MAX_PIXELS
    """Pixels of a photo."""
    timeout: float = 30.0
    """Seconds in which a request's body must arrive, and then in which the answer must be ready."""

    def __post_init__(self) -> None:
        ranges = {
            "max_batch": (1, 1024),
            "max_delay_ms": (0, 10_000),
            "queue": (1, 1_000_000),
            "max_body": (1_000, 2_000_000_000),
            "max_pixels": (1, MAX_PIXELS),
            "timeout": (0.1, 86_400),
        }
        for field in fields(self):
            value, (low, high) = getattr(self, field.name), ranges[field.name]
            if value is not None and not low <= value <= high:
                option = f"--{field.name.replace('_', '-')}"
                raise UsageError(f"{option} {shown(value)}: expected {low:,} to {high:,}")
        if self.max_batch is not None and self.queue < self.max_batch:
            raise UsageError(f"--queue {self.queue}: expected at least {self.max_batch}, the images of one batch")
