"""The servers under test, each a process of its own on the loopback interface."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START = 60.0
"""Seconds that a server has to start."""


@dataclass(frozen=True)
class Served:
    """A server's process and port."""

    process: subprocess.Popen
    port: int
    errors: Path | None = None
    """What it has written to stderr."""

    def printed(self) -> list[str]:
        """Return the lines that it has written to stderr."""
        return self.errors.read_text(errors="replace").splitlines()

    def memory(self, key: str = "VmRSS") -> float:
        """Return the process's resident memory in MB, now or (VmHWM) at its peak."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) * 1024 / 1e6

    def children(self) -> list[int]:
        """Return the processes that it has started."""
        pid = self.process.pid
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        return [int(child) for task in tasks for child in task.read_text().split()]

    def signalled(self, number: int) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(START)


@contextmanager
def served(*arguments: object, port: int = 0) -> Iterator[Served]:
    """Run `alexnet-infer serve ARGUMENTS` until the block ends. With port 0 the system chooses a free one."""
    command = [sys.executable, "-m", "alexnet_infer", "serve", *map(str, arguments), "--port", str(port)]
    with tempfile.NamedTemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        with _ended(process):
            line = process.stdout.readline()
            found = re.match(r"http://127\.0\.0\.1:(\d+) ", line)
            if not found:
                raise SystemExit(f"{' '.join(command)}\n{Path(errors.name).read_text()}")
            yield Served(process, int(found[1]), Path(errors.name))


@contextmanager
def plain_handler(model: Path) -> Iterator[Served]:
    """Run the peer with an exported file until the block ends."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "benchmarks.serving.peer:app", "--port", str(port)]
    process = subprocess.Popen([*command, "--log-level", "warning"], env={**os.environ, "MODEL": str(model)})
    with _ended(process):
        _wait_for(process, port)
        yield Served(process, port)


def _wait_for(process: subprocess.Popen, port: int) -> None:
    end = time.monotonic() + START
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit("the plain handler did not start (pip install fastapi)") from None
            time.sleep(0.05)


@contextmanager
def _ended(process: subprocess.Popen) -> Iterator[None]:
    try:
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(START)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()
