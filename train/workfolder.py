"""The folder in which a packed set comes to be: for one job and one process at a time, and empty when it is begun.

What may be half written lies in `.parts`, beside a record of the job that was begun there. Only a folder with such a
record, or an empty one, is written to; only a `.parts` with such a record is ever removed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alexnet_infer.errors import UsageError, shown
from alexnet_infer.files import lock, write_atomically
from train.packed import FORMAT, is_ours

PARTS = ".parts"
_RECORD, _LOCK = "job.json", "lock"


@contextmanager
def claimed(out: Path, settings: Mapping[str, Any], total: int) -> Iterator[None]:
    """The folder, made or found to be of a job with the same settings (name -> value, as JSON has them), for this
    process alone. `total` is what the finished set takes, in bytes.

    Raises UsageError when it holds something else or can't be made, another process is at work on it, or the disk is
    too full; OSError when it can't be read or written.
    """
    record = out / PARTS / _RECORD
    if not is_ours(record) and _holds_something(out):
        raise UsageError(f"--out {out}: is not empty; choose a new folder")
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: can't be made ({error.strerror}); choose another folder") from None
    file = lock(out / PARTS / _LOCK)
    if file is None:
        raise UsageError(f"--out {out}: another process is at work on it; wait for it")
    with file:
        if record.exists():
            _check_same(out, record, settings)
        _check_space(out, total)
        write_atomically(record, json.dumps({"format": FORMAT, **settings}).encode())
        yield


def clean_up(out: Path) -> None:
    """Removes `.parts` of a finished set, unless it isn't ours or another process is at work on it. The record goes
    last: until then the rest is known as ours, and the next run removes it."""
    parts = out / PARTS
    with suppress(OSError):
        if not is_ours(parts / _RECORD) or (file := lock(parts / _LOCK)) is None:
            return
        with file:
            for path in list(parts.iterdir()):
                if path.name not in (_RECORD, _LOCK):
                    path.unlink()
            (parts / _RECORD).unlink()
        (parts / _LOCK).unlink()  # after closing it, without which Windows removes no file
        parts.rmdir()


def _holds_something(out: Path) -> bool:
    """Besides hidden files, and what a run leaves that is killed before it has a record."""
    if out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
        return True
    parts = out / PARTS
    return parts.is_dir() and any(
        path.name != _LOCK and not path.match(f".{_RECORD}.*.tmp") for path in parts.iterdir()
    )


def _check_same(out: Path, record: Path, settings: Mapping[str, Any]) -> None:
    try:
        begun = json.loads(record.read_bytes())
        different = [
            f"{key} ({shown(begun[key])}, now {shown(settings[key])})"
            for key in settings
            if begun[key] != settings[key]
        ]
    except (ValueError, KeyError, TypeError):
        different = ["version of this program"]
    if different:
        raise UsageError(
            f"--out {out}: was begun with another {different[0]}; choose another folder, or remove this one"
        )


def _check_space(out: Path, total: int) -> None:
    needed = total - sum(path.stat().st_size for path in out.glob("*.bin"))
    free = shutil.disk_usage(out).free
    if needed > free:
        raise UsageError(
            f"--out {out}: the set needs {needed / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free; choose another "
            "disk or a smaller --image-size"
        )
