"""Runs the stages, each in a process of its own, and keeps what they report."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alexnet_infer.errors import UsageError, shown
from alexnet_infer.files import write_atomically
from benchmarks.gpu.context import PARTIAL

STAGES = {
    "machine": 20.0,
    "correctness": 80.0,
    "plugin": 20.0,
    "training": 90.0,
    "layers": 25.0,
    "inference": 30.0,
}
"""Those of fixed length, in the order in which they run, with the most seconds that each may take."""
TOGETHER = 180.0
"""Seconds of all of them. What one leaves is for those after it."""
NETS = "nets"
"""The last, which takes the time that is left."""

FORMAT = 1
RESULTS = "results.json"
ROOT = Path(__file__).parents[2]
RESERVE = 5.0
"""Seconds of the whole that no stage gets, for ending the last one and writing the report."""
POLL = 0.5
"""Seconds between looks at a stage."""
MEMORY, ROOM = Path("/dev/shm"), 2**33
"""A file system in memory, and the bytes that must be free there."""
LINES_KEPT = 40
"""Of what a stage wrote to its standard error, where it or a check in it failed."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be run."""

    device: str
    """As in "cuda:0" or "cpu"."""
    data: Path | None
    out: Path
    seconds: float
    """For all stages together."""
    stages: tuple[str, ...]


def run(request: Request) -> bool:
    """Runs the stages and writes results.json into `out` after each, and while it runs. Whether all of them, and all
    checks in them, passed. Raises UsageError when a results.json is there that this command did not write."""
    path = request.out / RESULTS
    results = read_results(path) if path.exists() else {"format": FORMAT, "stages": {}}
    end = time.time() + request.seconds - RESERVE
    passed = True
    for name in request.stages:

        def keep(entry: Mapping[str, Any], name: str = name) -> None:
            results["stages"][name] = entry
            write_atomically(path, json.dumps(results, indent=1).encode())

        seconds = limit(name, request.stages, request.seconds - RESERVE, end - time.time())
        print(f"{name}: up to {seconds:.0f} s", file=sys.stderr, flush=True)
        entry = run_stage(name, request, seconds, keep)
        keep(entry)
        failed = [entry["error"]] if entry["error"] else failed_checks(entry["results"])
        passed &= not failed
        print(f"{name}: {entry['seconds']:.1f} s, {'; '.join(failed) or 'passed'}", file=sys.stderr, flush=True)
    return passed


def limit(name: str, stages: Sequence[str], total: float, left: float) -> float:
    """Seconds that the stage `name` may take, of `total` for all `stages`, of which `left` are left.

    Those of fixed length have the times of `STAGES`, as long as half of their times is left for those after them, and
    `TOGETHER` for all. These times are shorter where the nets would be left with under half of the whole, and longer,
    in proportion, where there are no nets to train.
    """
    if name == NETS:
        return max(left, 0.0)
    fixed = [stage for stage in stages if stage != NETS]
    usual = TOGETHER * sum(STAGES[stage] for stage in fixed) / sum(STAGES.values())
    shared = min(usual, total / 2) if NETS in stages else total
    times = {stage: STAGES[stage] * shared / usual for stage in fixed}
    later = sum(times[stage] for stage in fixed[fixed.index(name) + 1 :])
    return max(min(times[name], shared - (total - left) - later / 2), 0.0)


def run_stage(
    name: str, request: Request, seconds: float, on_change: Callable[[Mapping[str, Any]], None]
) -> dict[str, Any]:
    """Runs one stage for at most `seconds` -> its entry in results.json, which is also given to `on_change`, with what
    there is so far, whenever the stage has reported something."""
    started = time.time()
    with TemporaryDirectory(dir=_scratch(), ignore_cleanup_errors=True) as folder:
        partial, log = Path(folder, PARTIAL), Path(folder, "stderr")
        settings = {
            "device": request.device,
            "data": request.data and str(request.data),
            "out": str(request.out),
            "seconds": seconds,
            "deadline": started + seconds,
            "scratch": folder,
        }

        def entry(status: str, error: str | None = None) -> dict[str, Any]:
            results = json.loads(partial.read_bytes()) if partial.exists() else {}
            took = round(time.time() - started, 2)
            lines = _last_lines(log) if error or failed_checks(results) else []
            return {
                "status": status,
                "error": error,
                "device": request.device,
                "seconds": took,
                "limit": round(seconds, 2),
                "results": results,
                "stderr": lines,
            }

        with log.open("wb") as output:
            process = subprocess.Popen(
                command(name, settings),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            for _ in _changes(process, partial, started + seconds):
                on_change(entry("running", "has not ended"))  # which stands where this process is ended, too
            status = process.poll()
        finally:
            _end(process)
        if status == 0:
            return entry("done")
        return entry("failed", _cause(status, seconds, log))


def command(name: str, settings: Mapping[str, Any]) -> list[str]:
    """What runs a stage."""
    return [sys.executable, "-m", "benchmarks.gpu.stage", name, json.dumps(settings)]


def _scratch() -> Path | None:
    """Where the stages' folders are: in memory where there is room, else where temporary files are."""
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM else None


def _changes(process: subprocess.Popen[bytes], path: Path, deadline: float) -> Iterator[None]:
    """Yields whenever `path` was written, until the process or the time ends."""
    seen = None
    while process.poll() is None and (left := deadline - time.time()) > 0:
        with suppress(subprocess.TimeoutExpired):
            process.wait(min(POLL, left))
        now = path.stat().st_mtime_ns if path.exists() else None
        if now != seen:
            seen = now
            yield


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and all that it started. One that hangs in the driver can't be ended, and is left behind."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(RESERVE / 2)


def _cause(status: int | None, seconds: float, log: Path) -> str:
    if status is None:
        return f"reached its limit of {seconds:.0f} s"
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return next(reversed(_last_lines(log)), f"exit code {status}")


def _last_lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.rstrip() for line in lines if line.strip()][-LINES_KEPT:]


def failed_checks(results: Any, path: str = "") -> list[str]:
    """The places in a stage's results, as in "lrn.conv1", of checks that did not pass."""
    if isinstance(results, Mapping):
        own = [f"{path} failed"] if results.get("passed") is False else []
        return own + [f for key, value in results.items() for f in failed_checks(value, f"{path}.{key}".lstrip("."))]
    if isinstance(results, list):
        return [f for i, value in enumerate(results) for f in failed_checks(value, f"{path}[{i}]")]
    return []


def read_results(path: Path) -> dict[str, Any]:
    """results.json as it was written. Raises UsageError when this command did not write it."""
    try:
        results = json.loads(path.read_bytes())
        found = results["format"], type(results["stages"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(f"{path}: can't be read as results ({shown(str(error))}); remove it") from None
    if found != (FORMAT, dict):
        raise UsageError(f"{path}: format {shown(found[0])}, expected {FORMAT}; remove it")
    return results
