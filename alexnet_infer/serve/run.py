"""The server's process: its socket, its connections, its signals and its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NoReturn

from alexnet_infer.errors import BackendError, UsageError, shown
from alexnet_infer.output import tell
from alexnet_infer.program import INTERRUPTED
from alexnet_infer.serve.connection import connection_class
from alexnet_infer.serve.limits import GRACE

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

    from alexnet_infer.serve.app import Server

BACKLOG = 2048
"""Connections that the system holds until the server accepts them."""

KEEP_ALIVE = 75
"""Seconds that a connection stays open after an answer, without another request."""


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens at this address. With port 0 the system chooses a free one.

    Clients that connect before `serve` is called wait. Two sockets could be bound to one address before either listens.

    Raises UsageError for an unknown host, and BackendError if the address is in use or can't be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        cause = getattr(error, "strerror", None) or error
        raise UsageError(f"--host {shown(host)}: not an address of this machine ({cause})") from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise BackendError(
            f"--host {host} --port {port}: can't listen there ({error.strerror}); choose another port, or 0 for a free "
            "one"
        ) from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the address of a bound socket, as in "http://127.0.0.1:8000"."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_local(listener: socket.socket) -> bool:
    """Whether only programs on this machine can connect to a bound socket."""
    return ip_address(listener.getsockname()[0]).is_loopback


def serve(app: Starlette, listener: socket.socket, on_started: Callable[[], None]) -> int:
    """Run the app until SIGTERM or SIGINT, and answer what was accepted by then. Returns the exit code, 0 or 130.

    A second signal ends the process at once, with the exit code 143 or 130. `on_started` is called when requests are
    answered.
    """
    process = _process(_config(app), app.state.server, on_started)
    process.run(sockets=[listener])
    return INTERRUPTED[0] if process.signals[:1] == [signal.SIGINT] else 0


def _config(app: Starlette) -> uvicorn.Config:
    import uvicorn

    return uvicorn.Config(
        app,
        http=connection_class(),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        backlog=BACKLOG,
        timeout_graceful_shutdown=GRACE,
    )


def _process(config: uvicorn.Config, server: Server, on_started: Callable[[], None]) -> Any:
    import uvicorn

    class Process(uvicorn.Server):
        """A server that drains: while it answers what it accepted, it is live, not ready, and takes no new work."""

        def __init__(self) -> None:
            super().__init__(config)
            self.signals: list[int] = []
            self._drained_by = float("inf")

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            on_started()

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            if threading.current_thread() is not threading.main_thread():  # the only one that gets signals
                yield
                return
            handled = [number for number in (signal.SIGINT, signal.SIGTERM) if _is_handled(number)]
            before = {number: signal.signal(number, self.handle_exit) for number in handled}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

        def handle_exit(self, number: int, frame: Any) -> None:
            self.signals.append(number)
            if len(self.signals) > 1:
                _end(number)
            server.drain()
            self._drained_by = time.monotonic() + server.limits.timeout + GRACE

        async def on_tick(self, counter: int) -> bool:
            drained = server.draining and not server.open_requests
            return await super().on_tick(counter) or drained or time.monotonic() > self._drained_by

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """Close the connections, those of slow clients before uvicorn would print an error for each."""
            asyncio.get_running_loop().call_later(GRACE / 2, self._abort)
            await super().shutdown(sockets)

        def _abort(self) -> None:
            for connection in list(self.server_state.connections):
                connection.abort()

    return Process()


def _end(number: int) -> NoReturn:
    """End the process in a signal's handler. All that was printed is flushed already."""
    if number == signal.SIGINT:
        tell(INTERRUPTED[1])
    os._exit(128 + number)


def _is_handled(number: int) -> bool:
    """Whether a signal has an effect on this process. Shells let programs in the background ignore Ctrl-C."""
    return signal.getsignal(number) is not signal.SIG_IGN


def log_in_lines() -> None:
    """Print what libraries log as errors in printable lines on stderr, and nothing else of what they log."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            for line in self.format(record).splitlines():
                tell(line)

    logging.basicConfig(level=logging.ERROR, handlers=[Lines()])
    logging.getLogger("alexnet_infer").setLevel(logging.ERROR)  # damaged EXIF blocks, of which a client may send many
