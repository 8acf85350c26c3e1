"""The folder in which a packed set is created. It belongs to one job, and to one process at a time.

Incomplete files are in its subfolder `.parts`, together with a record of the job. Nothing is written to a folder with
other files unless it has such a record; hidden files do not count. `.parts` is removed only if it has such a record.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alexnet_infer import strict_json
from alexnet_infer.errors import SpecError, UsageError, shown
from alexnet_infer.files import lock, read_limited, write_atomically
from train.packed import FORMAT, MAX_MANIFEST, has_format

PARTS = ".parts"
_RECORD, _LOCK = "job.json", "lock"


@contextmanager
def claimed(out: Path, settings: Mapping[str, Any], total: int) -> Iterator[None]:
    """Create the folder, or reopen that of a job with the same settings, and lock it against other processes.

    `settings`: the job's settings as JSON values, by name. `total`: size of the finished set in bytes.

    Raises UsageError if the folder contains something else or can't be created, if another process is using it, or if
    the disk has too little space; OSError if it can't be read or written.
    """
    record = out / PARTS / _RECORD
    if not has_format(record) and _holds_something(out):
        raise UsageError(f"--out {out}: the folder is not empty; choose a new folder")
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: can't be created ({error.strerror}); choose another folder") from None
    file = lock(out / PARTS / _LOCK)
    if file is None:
        raise UsageError(f"--out {out}: another process is using it; wait for it to end")
    with file:
        if record.exists():
            _check_same(out, record, settings)
        _check_space(out, total)
        write_atomically(record, json.dumps({"format": FORMAT, **settings}).encode())
        yield


def clean_up(out: Path) -> None:
    """Remove `.parts` of a finished set, unless it has no record of a job or another process is using it.

    The record is removed last: if this is interrupted, the next run can still remove the rest.
    """
    parts = out / PARTS
    with suppress(OSError):
        if not has_format(parts / _RECORD) or (file := lock(parts / _LOCK)) is None:
            return
        with file:
            for path in list(parts.iterdir()):
                if path.name not in (_RECORD, _LOCK):
                    path.unlink()
            (parts / _RECORD).unlink()
        (parts / _LOCK).unlink()  # Windows can't remove an open file
        parts.rmdir()


def _holds_something(out: Path) -> bool:
    """Whether the folder has files that are not hidden, or `.parts` has more than the lock and temporary records."""
    if out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
        return True
    parts = out / PARTS
    return parts.is_dir() and any(
        path.name != _LOCK and not path.match(f".{_RECORD}.*.tmp") for path in parts.iterdir()
    )


def _check_same(out: Path, record: Path, settings: Mapping[str, Any]) -> None:
    try:
        recorded = strict_json.parse(read_limited(record, MAX_MANIFEST), "record")
        different = [
            f"{key} ({shown(recorded[key])}, now {shown(settings[key])})"
            for key in settings
            if recorded[key] != settings[key]
        ]
    except (SpecError, KeyError, TypeError):
        different = ["version of alexnet-infer"]
    if different:
        raise UsageError(
            f"--out {out}: was started with a different {different[0]}; choose another folder, or remove this one"
        )


def _check_space(out: Path, total: int) -> None:
    needed = total - sum(path.stat().st_size for path in out.glob("*.bin"))
    free = shutil.disk_usage(out).free
    if needed > free:
        raise UsageError(
            f"--out {out}: the set needs {needed / 1e9:.1f} GB more, but only {free / 1e9:.1f} GB are free; choose "
            "another disk or a smaller --image-size"
        )
