"""The cache of engines that this user has built. Each engine is built once.

An engine is code, so only engines that this cache has a record of are run. The folder must belong to the user: its
records are worthless if other users can write to it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alexnet_infer.engines.files import Built, EngineDescription, read_description, read_engine, save_engine
from alexnet_infer.errors import BackendError, ModelFileError, SpecError, cause_of
from alexnet_infer.files import lock, read_limited, user_cache, write_atomically

MAX_STORED_BYTES = 1_000_000_000
"""The largest file that speeds up the next build or start: timings and compiled kernels, which have megabytes."""


def folder() -> Path:
    """Return the folder of this user's engines."""
    return user_cache() / "engines"


def key(facts: Mapping[str, Any]) -> str:
    """Return the name of an engine in the cache: a hash of `facts`, the inputs that determine it."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def cached(name: str, build: Callable[[], Built], on_wait: Callable[[], None] = lambda: None) -> Built:
    """Return the cached engine `name`. If it is missing or damaged, `build` makes it.

    If several processes ask for it at once, one of them builds. The others call `on_wait` once, wait, and return its
    engine, or build their own if it failed. Raises BackendError if the folder can't be written or other users can write
    to it, and the errors of `build`.
    """
    _check_private()
    path = folder() / f"{name}.engine"
    if cached_engine := _read(path):
        return cached_engine
    with _writing():
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        if (held := lock(path.with_suffix(".lock"))) is None:
            on_wait()
            # The system releases a lock when its holder dies, so waiting always ends.
            held = lock(path.with_suffix(".lock"), wait=True)
    with held:
        if cached_engine := _read(path):
            return cached_engine
        built = build()
        with _writing():
            save_engine(path, built)
        return built


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BackendError(
            f"{error.filename or folder()}: {cause_of(error)}: engines are stored in {folder()}; "
            "free some space there, or set XDG_CACHE_HOME to another folder"
        ) from None


def _check_private() -> None:
    """Raise BackendError if other users can write to the cache folder. A missing folder is fine."""
    with suppress(OSError):
        status = folder().stat()
        if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
            raise BackendError(
                f"{folder()}: other users can write to it, and an engine is code that runs as you: delete the folder, "
                "or set XDG_CACHE_HOME to a folder of your own"
            )


def _read(path: Path) -> Built | None:
    with suppress(ModelFileError):
        return read_engine(path)
    return None


def is_ours(description: EngineDescription) -> bool:
    """Return whether this user's cache has a record of an engine with exactly this description.

    The plan's SHA-256 alone is not enough, because code that runs a plan relies on its description. Raises BackendError
    if other users can write to the cache.
    """
    _check_private()
    for path in folder().glob("*.engine.json"):
        with suppress(ModelFileError):
            if read_description(path.with_suffix("")).to_json() == description.to_json():
                return True
    return False


def read_timings(name: str) -> bytes:
    """Return how long TensorRT's kernels took in earlier builds, in its own format. Empty if nothing is stored."""
    with suppress(OSError, SpecError):
        return read_limited(folder() / f"{name}.timings", MAX_STORED_BYTES)
    return b""


def write_timings(name: str, content: bytes) -> None:
    """Store timings for the next build, if possible. If two builds end at once, only one set of timings is kept."""
    with suppress(OSError):
        write_atomically(folder() / f"{name}.timings", content)


def read_kernels(name: str) -> bytes:
    """Return the kernels that TensorRT-RTX compiled in earlier processes, in its own format.

    Empty if there are none, or if other users can write to the folder, because kernels are code.
    """
    with suppress(OSError, SpecError, BackendError):
        _check_private()
        return read_limited(folder() / f"{name}.kernels", MAX_STORED_BYTES)
    return b""


def write_kernels(name: str, content: bytes) -> None:
    """Store compiled kernels for the next process, if possible."""
    with suppress(OSError, BackendError):
        _check_private()
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(folder() / f"{name}.kernels", content)
