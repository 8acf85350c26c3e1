"""The server's process: its socket, its connections, its signals and its end."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from alexnet_infer.errors import BackendError, UsageError, shown
from alexnet_infer.output import tell
from alexnet_infer.program import INTERRUPTED

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

    from alexnet_infer.serve.app import Server

LOOPBACK = ("127.0.0.1", "::1", "localhost")

KEEP_ALIVE = 75
"""Seconds that a connection without a request stays open."""

GRACE = 5
"""Seconds after the time limit of a body at which a connection is closed, so that the app can answer before."""


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that has this address, and doesn't listen yet. With port 0 the system chooses a free one.

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


def serve(app: Starlette, listener: socket.socket, on_started: Callable[[], None]) -> int:
    """Run the app until SIGTERM or SIGINT, and answer what was accepted by then. Returns the exit code, 0 or 130.

    A second signal ends it at once. `on_started` is called when requests are answered.
    """
    process = _process(_config(app), app.state.server, on_started)
    process.run(sockets=[listener])
    return INTERRUPTED[0] if process.signals[:1] == [signal.SIGINT] else 0


def _config(app: Starlette) -> uvicorn.Config:
    import uvicorn

    timeout = app.state.server.limits.timeout
    return uvicorn.Config(
        app,
        http=_connection(timeout + GRACE),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
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
                self.should_exit = self.force_exit = True
                return
            server.drain()
            self._drained_by = time.monotonic() + server.limits.timeout + GRACE

        async def on_tick(self, counter: int) -> bool:
            drained = server.draining and not server.open_requests
            return await super().on_tick(counter) or drained or time.monotonic() > self._drained_by

    return Process()


def _is_handled(number: int) -> bool:
    """Whether a signal has an effect on this process. Shells let programs in the background ignore Ctrl-C."""
    return signal.getsignal(number) is not signal.SIG_IGN


def _connection(timeout: float) -> type:
    """Return uvicorn's class for connections, with a limit to the seconds that a request may take to arrive.

    uvicorn itself waits forever for the first request and for the rest of one, so that slow senders could use up all
    connections.
    """
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class Connection(HttpToolsProtocol):
        _timer: Any = None
        _open: Sequence[Any] = ()

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._wait()

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self._timer.cancel()

        def connection_lost(self, error: Exception | None) -> None:
            self._forget_answers()
            super().connection_lost(error)
            self._timer.cancel()

        def _wait(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_later(timeout, self._give_up)

        def _give_up(self) -> None:
            self._forget_answers()
            self.transport.close()

        def eof_received(self) -> None:
            self._forget_answers()
            super().eof_received()

        def send_400_response(self, message: str) -> None:
            self._forget_answers()
            super().send_400_response(message)

        def on_headers_complete(self) -> None:
            super().on_headers_complete()
            self._open = [cycle for cycle in (*self._open, self.cycle) if not cycle.response_complete]

        def _forget_answers(self) -> None:
            """Tell the app that nobody waits: with uvloop, an answer on a closed connection would be an error."""
            for cycle in self._open:
                cycle.disconnected = True
                cycle.message_event.set()

    return Connection


def log_in_lines() -> None:
    """Print what libraries log as errors in printable lines on stderr, and nothing else of what they log."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            for line in self.format(record).splitlines():
                tell(line)

    logging.basicConfig(level=logging.ERROR, handlers=[Lines()])
    logging.getLogger("alexnet_infer").setLevel(logging.ERROR)  # damaged EXIF blocks, of which a client may send many
