"""A server in a thread of this process, on a free port of the loopback interface."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from alexnet_infer.serve.app import create_app
from alexnet_infer.serve.limits import Limits
from alexnet_infer.serve.model import Model
from alexnet_infer.serve.run import bind, serve
from alexnet_infer.serve.server import Server


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds, which another thread brings about."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "20 seconds"
        time.sleep(0.001)


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of an error, which is checked to be one printable line and the only thing in the answer."""
        assert self.status >= 400, self
        assert self.headers["content-type"] == "application/json", self
        data = self.json
        assert data.keys() == {"error"}
        assert data["error"].isprintable()
        assert 0 < len(data["error"]) <= 600
        return data["error"]


@dataclass(frozen=True)
class Running:
    port: int
    server: Server

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __call__(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body or None, headers or {})
            response = connection.getresponse()
            return Reply(response.status, {key.lower(): value for key, value in response.getheaders()}, response.read())
        finally:
            connection.close()


@contextmanager
def running(*models: Model, **limits: Any) -> Iterator[Running]:
    """Serve `models` until the block ends, and then drain."""
    listener = bind("127.0.0.1", 0)
    app = create_app(models, Limits(**limits), workers=2)
    started = threading.Event()
    thread = threading.Thread(target=serve, args=(app, listener, started.set), daemon=True)
    thread.start()
    assert started.wait(30)
    try:
        yield Running(listener.getsockname()[1], app.state.server)
    finally:
        app.state.server.drain()
        thread.join(30)
        listener.close()
    assert not thread.is_alive()


@dataclass(frozen=True, kw_only=True)
class Held(Model):
    """A model whose net waits for a test's permission. `entered` counts its calls."""

    entered: threading.Semaphore
    allowed: threading.Event

    @classmethod
    def holding(cls, model: Model) -> Held:
        """The first call, at the start, is allowed. Call `allowed.clear()` to hold the next ones."""
        held = cls(name=model.name, net=model.net, entered=threading.Semaphore(0), allowed=threading.Event())
        held.allowed.set()
        return held

    def run(self, inputs: Any) -> np.ndarray:
        self.entered.release()
        assert self.allowed.wait(30)
        return super().run(inputs)


def random_squares(model: Model, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, model.side, model.side, 3), np.uint8)


def infer_request(squares: np.ndarray, **more: Any) -> bytes:
    """A request of the protocol with all values in JSON."""
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(squares.shape), "data": squares.ravel().tolist()}
    return json.dumps({"inputs": [tensor], **more}).encode()
