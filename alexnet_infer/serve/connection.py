"""A connection to the server: uvicorn's, with limits on what a client may send, how slowly, and how slowly it reads."""

from __future__ import annotations

from typing import Any

from alexnet_infer.errors import cause_of, shown
from alexnet_infer.serve import protocol
from alexnet_infer.serve.limits import GRACE, RequestError

MAX_HEAD = 65_536
"""Bytes of a request's address and headers, and of a body's trailers."""

PIPELINED = 100
"""Requests of a connection that wait for the answer of the one before."""


def connection_class() -> type:
    """Return uvicorn's class for connections, with limits."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    return type("Connection", (Limited, HttpToolsProtocol), {})


class Limited:
    """The limits, before uvicorn's HttpToolsProtocol in the order of base classes.

    The app is `alexnet_infer.serve.app.create_app`'s, whose limits and metrics are used. uvicorn itself waits forever
    for the first request, for the rest of a request, and for a client to read its answer, and sets no limit to headers
    and pipelined requests.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        server = self.config.app.state.server
        self._metrics, self._timeout = server.metrics, server.limits.timeout
        self._running: Any = None
        """The cycle that the app answers, or answered last. `cycle` is the one whose request is read."""
        self._arrival: Any = None
        """The timer until a request begins, then until its headers, and then until its body is complete."""
        self._unread: Any = None
        """The timer until the client has read what was sent."""
        self._head = 0
        """Bytes of the names and values of the request's headers, and of its address."""
        self._raw = 0
        """Bytes received since the request began or the latest part of its body, in whole pieces of the stream."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # `pause_writing` is called for any byte that isn't sent at once
        self._wait(self._timeout)

    def connection_lost(self, error: Exception | None) -> None:
        self._forget_answer()
        super().connection_lost(error)
        for timer in (self._arrival, self._unread):
            if timer is not None:
                timer.cancel()

    def eof_received(self) -> None:
        self._forget_answer()
        super().eof_received()

    def data_received(self, data: bytes) -> None:
        if self.timeout_keep_alive_task is not None:  # the client was idle
            self._unset_keepalive_if_required()
            self._wait(self._timeout)
        self._raw += len(data)
        try:
            while data:
                data = self._feed(data)
            self._check_head(self._raw)
        except RequestError as refused:
            self._refuse(refused)

    def _feed(self, data: bytes) -> bytes:
        """Parse received bytes. Returns bytes to parse next. Raises RequestError."""
        from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade

        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            return self._without_upgrade() + data[upgrade.args[0] :] if self._should_upgrade() else b""
        except HttpParserError as error:
            if isinstance(error.__context__, RequestError):  # a callback raised it
                raise error.__context__ from None
            if isinstance(error, HttpParserCallbackError):  # only the one for complete headers raises other errors
                raise RequestError(400, f"address {shown(self.url.decode('latin-1'))}: expected a path") from None
            raise RequestError(400, f"not a valid HTTP request: {cause_of(error)}") from None
        return b""

    def _should_upgrade(self) -> bool:
        """Whether uvicorn ignores this request, which asks for another protocol, so that it can be read again."""
        return self.parser.get_method() != b"CONNECT"

    def _without_upgrade(self) -> bytes:
        """Return the head of the request without Upgrade, for a new parser. The old one takes the body for the other
        protocol. RFC 9110, 7.8: a server may ignore Upgrade.
        """
        from httptools import HttpRequestParser

        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        headers = b"".join(b"%s: %s\r\n" % (name, value) for name, value in self.headers if name != b"upgrade")
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        return b"%s %s HTTP/%s\r\n%s\r\n" % (method, self.url, version, headers)

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= PIPELINED:
            raise RequestError(400, f"more than {PIPELINED} requests wait on this connection: wait for answers")
        super().on_message_begin()
        self._head = self._raw = 0
        self._wait(self._timeout)

    def on_url(self, url: bytes) -> None:
        self._head += len(url)
        self._check_head(self._head)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head += len(name) + len(value) + len(b": \r\n")
        self._check_head(self._head)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if not self.pipeline:
            self._running = self.cycle
        self._wait(self._timeout + GRACE)

    def on_body(self, body: bytes) -> None:
        self._raw = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._arrival.cancel()

    def on_response_complete(self) -> None:
        if self.pipeline:
            self._running = self.pipeline[-1][0]
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self._timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread.cancel()

    def abort(self) -> None:
        """Close the connection at once, without an answer."""
        self._forget_answer()
        self.transport.abort()

    def _wait(self, seconds: float) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
        self._arrival = self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        if self.scope is not None and "path" not in self.scope:
            self._refuse(RequestError(408, f"the headers are not complete after {self._timeout:g} s; send them faster"))
        else:  # no request has begun, or the app has refused this one
            self._forget_answer()
            self.transport.close()

    def _check_head(self, size: int) -> None:
        if size > MAX_HEAD:
            raise RequestError(431, f"headers of more than {MAX_HEAD:,} bytes: expected fewer")

    def _refuse(self, error: RequestError) -> None:
        """Answer a request that the app doesn't see, and close the connection."""
        from uvicorn.protocols.http.httptools_impl import STATUS_LINE

        begun = self._running is not None and self._running.response_started and not self._running.response_complete
        self._forget_answer()
        if not begun:  # otherwise this would be read as a part of that answer
            body = protocol.encoded({"error": str(error)})
            headers = [
                *self.server_state.default_headers,
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                (b"connection", b"close"),
            ]
            lines = b"".join(b"%s: %s\r\n" % header for header in headers)
            self.transport.write(STATUS_LINE[error.status] + lines + b"\r\n" + body)
        self.transport.close()
        self._metrics.request("none", error.status, 0.0)

    def _forget_answer(self) -> None:
        """Tell the app that nobody waits: with uvloop, an answer on a closed connection would be an error.

        uvicorn doesn't start the requests that are pipelined behind it.
        """
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
