"""A server on the loopback interface, and no proxy between it and the tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from alexnet_infer.published import download
from tests.published.server import Server

CONTENT = bytes(range(256)) * 4096 + b"the end"
"""A little more than four chunks."""


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Use no proxy, and do not pause between attempts."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(download, "PAUSE", 0.0)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(CONTENT)
    yield server
    server.close()


@pytest.fixture
def other(request, tmp_path, monkeypatch) -> Callable[[object], None]:
    """Write another registry, to be read instead of that whose VARIABLE the test's module has imported."""

    def write(content: object) -> None:
        path = tmp_path / f"registry{len(list(tmp_path.iterdir()))}.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        monkeypatch.setenv(request.module.VARIABLE, str(path))

    return write
