"""A headless Chromium for tests of pages, driven through its DevTools protocol over a pipe, without other packages.

The protocol: https://chromedevtools.github.io/devtools-protocol/. Messages are JSON, each followed by a zero byte.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome")
BINARY = next((path for name in _NAMES if (path := shutil.which(name))), None)
"""The browser's program, or None."""

_FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--remote-debugging-pipe",
    "about:blank",
]

_EXEC = (
    "import os, sys; read, write, *command = sys.argv[1:]; "
    "os.dup2(int(read), 3); os.dup2(int(write), 4); os.execvp(command[0], command)"
)
"""Chromium reads commands from file 3 and writes to file 4."""

KEYS = {"Tab": 9, "Enter": 13, "Space": 32, "ArrowDown": 40, "ArrowUp": 38}
_TEXTS = {"Enter": "\r", "Space": " "}


class Chromium:
    """A browser with one page. Close it, or use it in a `with` block.

    `console` holds the page's warnings, errors and exceptions, `requests` the URLs that it asked for.
    """

    def __init__(self, profile: Path, seconds: float = 60) -> None:
        assert BINARY is not None
        self.seconds = seconds
        self.console: list[str] = []
        self.requests: list[str] = []
        (read, self._to), (self._from, write) = os.pipe(), os.pipe()
        command = [sys.executable, "-c", _EXEC, str(read), str(write), BINARY, *_FLAGS, f"--user-data-dir={profile}"]
        silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, pass_fds=(read, write), **silent)
        os.close(read)
        os.close(write)
        self._number, self._rest, self._session = 0, b"", None
        page = next(t for t in self.send("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and its processes."""
        with suppress(AssertionError, OSError, subprocess.TimeoutExpired):
            self._session = None
            self.send("Browser.close")
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result. Raises AssertionError if it fails or takes too long."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + self.seconds
        while True:
            reply = self._receive(deadline)
            if reply is not None and reply.get("id") == self._number:
                assert "error" not in reply, (method, reply["error"])
                return reply["result"]

    def _receive(self, deadline: float) -> dict[str, Any] | None:
        """Return the next message, after noting it if it is an event."""
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"Chromium did not answer for {self.seconds} s"
            part = os.read(self._from, 2**20)
            assert part, "Chromium ended"
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        event = message.get("params", {})
        match message.get("method"):
            case "Runtime.consoleAPICalled" if event["type"] in ("warning", "error", "assert"):
                self.console.append(" ".join(str(a.get("value", a.get("description"))) for a in event["args"]))
            case "Runtime.exceptionThrown":
                details = event["exceptionDetails"]
                self.console.append(details.get("exception", {}).get("description", details["text"]))
            case "Log.entryAdded" if event["entry"]["level"] in ("warning", "error"):
                self.console.append(f"{event['entry']['text']} {event['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                self.requests.append(event["request"]["url"])
        return message

    def open(self, url: str) -> None:
        """Load a page. What earlier pages printed and asked for is forgotten."""
        self.console.clear()
        self.requests.clear()
        self.send("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """Return the JSON value of an expression on the page, awaited if it is a promise."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str) -> Any:
        """Wait until an expression on the page is true, and return its value. It may fail while the page loads."""
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline:
            answer = self.send("Runtime.evaluate", expression=condition, awaitPromise=True, returnByValue=True)
            if "exceptionDetails" not in answer and (value := answer["result"].get("value")):
                return value
            self.send("Runtime.evaluate", expression="new Promise(done => setTimeout(done, 20))", awaitPromise=True)
        raise AssertionError(f"never true: {condition}; the page printed {self.console}")

    def resize(self, width: int, height: int = 900, *, dark: bool = False, scale: float = 1) -> None:
        """Set the size of the window in CSS pixels, and the user's colour scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=scheme)

    def press(self, key: str) -> None:
        """Press and release a key of KEYS."""
        code = {"key": " " if key == "Space" else key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        text = {"text": _TEXTS[key]} if key in _TEXTS else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", **code, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **code)

    def choose_files(self, selector: str, *paths: Path) -> None:
        """Put files into an <input type=file>, as its dialog does."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Write a PNG of the page, `whole` or what the window shows."""
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))
