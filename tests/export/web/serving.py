"""A web server for a folder, on the loopback interface."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *arguments, headers: dict[str, str], **options) -> None:
        self.added = headers
        super().__init__(*arguments, **options)

    def end_headers(self) -> None:
        for name, value in self.added.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


class FolderServer:
    """Serves a folder at `url`, which ends with a slash, as `python3 -m http.server` does. Close it at the end."""

    def __init__(self, folder: Path, headers: dict[str, str] | None = None) -> None:
        handler = partial(_Handler, directory=str(folder), headers={"Cache-Control": "no-store", **(headers or {})})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
