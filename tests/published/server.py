"""An HTTP server on the loopback interface that can be told to misbehave."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Serves `content` at any path.

    `script` is a list of functions that answer the next requests, given the request's handler. Then `serve` answers.
    `requests` lists the path and the Range header of each request.
    """

    def __init__(self, content: bytes) -> None:
        self.content, self.etag = content, '"1"'
        self.script: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.requests: list[tuple[str, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.requests.append((self.path, self.headers.get("Range")))
                with suppress(BrokenPipeError, ConnectionResetError):
                    (server.script.pop(0) if server.script else server.serve)(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/net.bin"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    # Answers.

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        """Send the complete file, or the range that was requested."""
        header = request.headers.get("Range")
        begin = int(header.removeprefix("bytes=").removesuffix("-")) if header else 0
        if header and request.headers.get("If-Range") not in (None, self.etag):
            begin = 0
        if begin and begin >= len(self.content):
            self.answer(request, b"", 416)
        elif begin:
            ranged = f"bytes {begin}-{len(self.content) - 1}/{len(self.content)}"
            self.answer(request, self.content[begin:], 206, **{"Content-Range": ranged})
        else:
            self.answer(request, self.content)

    def answer(
        self, request: BaseHTTPRequestHandler, body: bytes, status: int = 200, length: int | None = -1, **headers: str
    ) -> None:
        """Send an answer. `length` is the value of Content-Length: -1 for the true length, None to omit it."""
        request.send_response(status)
        if length is None:
            request.send_header("Connection", "close")
            request.close_connection = True
        else:
            request.send_header("Content-Length", str(len(body) if length == -1 else length))
        for name, value in {"ETag": self.etag, "Content-Type": "application/octet-stream", **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    def drops(self, after: int) -> Callable[[BaseHTTPRequestHandler], None]:
        """Declare the complete length, and close the connection after `after` bytes of the requested part."""

        def act(request: BaseHTTPRequestHandler) -> None:
            header = request.headers.get("Range")
            begin = int(header.removeprefix("bytes=").removesuffix("-")) if header else 0
            headers = {}
            if begin:
                headers["Content-Range"] = f"bytes {begin}-{len(self.content) - 1}/{len(self.content)}"
            part = self.content[begin : begin + after]
            self.answer(request, part, 206 if begin else 200, len(self.content) - begin, **headers)
            request.close_connection = True

        return act

    def cuts(self, part: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
        """Send `part` as the beginning of a complete file, whatever was requested, and close the connection."""

        def act(request: BaseHTTPRequestHandler) -> None:
            self.answer(request, part, length=len(self.content))
            request.close_connection = True

        return act

    def says(self, body: bytes, status: int = 200, length: int | None = -1, **headers: str) -> Callable:
        """Send this answer, whatever was requested."""
        return lambda request: self.answer(
            request, body, status, length, **{k.replace("_", "-"): v for k, v in headers.items()}
        )

    def hangs(self, seconds: float) -> Callable[[BaseHTTPRequestHandler], None]:
        """Send half of the file, and then nothing for `seconds`."""

        def act(request: BaseHTTPRequestHandler) -> None:
            self.drops(len(self.content) // 2)(request)
            request.wfile.flush()
            time.sleep(seconds)

        return act
