"""What hostile requests are sent to, and what one of them is."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

from benchmarks.serving.client import post

LIMITS = {"max_body": 1_000_000, "max_pixels": 1_000_000, "timeout": 2.0}
"""The limits that the server must have: options of `alexnet-infer serve`, and fields of `Limits`."""


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


def one(kind: str, request: bytes, expected: frozenset[int] = REFUSED) -> Case:
    """Return a case that is written at once."""
    return Case(kind=kind, parts=(request,), expected=expected)
