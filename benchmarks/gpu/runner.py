"""Runs each stage in a separate process and stores its results."""

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
"""The stages of fixed length in the order in which they run, with the maximum seconds for each."""
TOGETHER = 180.0
"""Seconds for all of them together. Time that a stage does not use goes to the later stages."""
NETS = "nets"
"""The last stage, which takes the remaining time."""

FORMAT = 1
RESULTS = "results.json"
ROOT = Path(__file__).parents[2]
RESERVE = 5.0
"""Seconds that no stage gets, for ending the last one and writing the report."""
POLL = 0.5
"""Seconds between checks of a running stage."""
MEMORY, ROOM = Path("/dev/shm"), 2**33
"""A file system in memory, and the bytes that must be free there."""
LINES_KEPT = 40
"""Lines of output kept from a stage that failed, or in which a check failed."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to run."""

    device: str
    """A PyTorch device, such as "cuda:0" or "cpu"."""
    data: Path | None
    out: Path
    seconds: float
    """Time for all stages together."""
    stages: tuple[str, ...]


def run(request: Request) -> bool:
    """Run the stages, and write results.json to `out` while each runs and after it.

    Returns whether all stages and all their checks passed. Raises UsageError if `out` contains a results.json that this
    command did not write.
    """
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
    """Return the seconds that the stage `name` may take, if all `stages` have `total` and `left` seconds remain.

    A stage of fixed length gets its time in `STAGES`, but leaves half of their times to the stages after it; all of
    them together get `TOGETHER`. These times are reduced in proportion if the nets would get less than half of the
    total, and extended in proportion if no nets are trained.
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
    """Run one stage for at most `seconds` and return its entry in results.json.

    Whenever the stage reports something, `on_change` is called with the entry so far.
    """
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
            elapsed = round(time.time() - started, 2)
            lines = _last_lines(log) if error or failed_checks(results) else []
            return {
                "status": status,
                "error": error,
                "device": request.device,
                "seconds": elapsed,
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
                on_change(entry("running", "has not ended"))  # this entry remains if this process is killed
            status = process.poll()
        finally:
            _end(process)
        if status == 0:
            return entry("done")
        return entry("failed", _cause(status, seconds, log))


def command(name: str, settings: Mapping[str, Any]) -> list[str]:
    """Return the command line that runs a stage."""
    return [sys.executable, "-m", "benchmarks.gpu.stage", name, json.dumps(settings)]


def _scratch() -> Path | None:
    """Return the parent of the scratch folders: in memory if there is room, else None for the default."""
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM else None


def _changes(process: subprocess.Popen[bytes], path: Path, deadline: float) -> Iterator[None]:
    """Yield whenever `path` has been written, until the process ends or the time is up."""
    seen = None
    while process.poll() is None and (left := deadline - time.time()) > 0:
        with suppress(subprocess.TimeoutExpired):
            process.wait(min(POLL, left))
        now = path.stat().st_mtime_ns if path.exists() else None
        if now != seen:
            seen = now
            yield


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its children. A process that hangs in the driver can't be killed and is left running."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(RESERVE / 2)


def _cause(status: int | None, seconds: float, log: Path) -> str:
    if status is None:
        return f"reached its time limit of {seconds:.0f} s"
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return next(reversed(_last_lines(log)), f"exit code {status}")


def _last_lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.rstrip() for line in lines if line.strip()][-LINES_KEPT:]


def failed_checks(results: Any, path: str = "") -> list[str]:
    """Return the paths in a stage's results, such as "lrn.conv1", of checks that did not pass, each with "failed"."""
    if isinstance(results, Mapping):
        own = [f"{path} failed"] if results.get("passed") is False else []
        return own + [f for key, value in results.items() for f in failed_checks(value, f"{path}.{key}".lstrip("."))]
    if isinstance(results, list):
        return [f for i, value in enumerate(results) for f in failed_checks(value, f"{path}[{i}]")]
    return []


def read_results(path: Path) -> dict[str, Any]:
    """Read a results.json. Raises UsageError if this command did not write it."""
    try:
        results = json.loads(path.read_bytes())
        form = results["format"], type(results["stages"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(f"{path}: can't be read as results ({shown(str(error))}); remove the file") from None
    if form != (FORMAT, dict):
        raise UsageError(f"{path}: has format {shown(form[0])}: expected {FORMAT}; remove the file")
    return results
