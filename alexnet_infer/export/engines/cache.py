"""Engines that this user has built: each is built once, and known again.

An engine is code, so one is only run that this cache has a record of. The folder is the user's own: one where others
can write vouches for nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from alexnet_infer.errors import BackendError, ModelFileError, one_line
from alexnet_infer.export.engines.files import (
    Built,
    EngineDescription,
    read_description,
    read_engine,
    save_engine,
)
from alexnet_infer.files import lock, user_cache, write_atomically

POLL_SECONDS = 0.2


def folder() -> Path:
    """Where this user's engines lie."""
    return user_cache() / "engines"


def key(facts: Mapping[str, Any]) -> str:
    """A file name for all that an engine depends on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def cached(name: str, build: Callable[[], Built], on_wait: Callable[[], None] = lambda: None) -> Built:
    """The engine that is kept as `name`; `build` makes it where there is none, or a damaged one.

    Of several processes that ask at once, one builds; the others call `on_wait` once, wait, and take what it made, or
    build when it failed. Raises BackendError when the folder can't be written, or by others too, and what `build`
    raises.
    """
    _check_private()
    place = folder() / f"{name}.engine"
    if found := _find(place):
        return found
    with _writing():
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        held = _only_builder(place.with_suffix(".lock"), on_wait)
    with held:
        if found := _find(place):
            return found
        built = build()
        with _writing():
            save_engine(place, built)
        return built


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BackendError(
            f"{error.filename or folder()}: {error.strerror or one_line(error)}: engines are kept in {folder()}; "
            "make room there, or set XDG_CACHE_HOME to another folder"
        ) from None


def _check_private() -> None:
    """Raises BackendError when others could have put engines into the folder. None yet is none of theirs."""
    with suppress(OSError):
        status = folder().stat()
        if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
            raise BackendError(
                f"{folder()}: others can write there, and an engine is code that runs as you: delete the folder, "
                "or set XDG_CACHE_HOME to one of your own"
            )


def _find(place: Path) -> Built | None:
    with suppress(ModelFileError):
        return read_engine(place)
    return None


def _only_builder(place: Path, on_wait: Callable[[], None]) -> IO[str]:
    """The lock file at `place`, held. The system frees it when its holder dies, so waiting always ends."""
    held = lock(place)
    if held is None:
        on_wait()
    while held is None:
        time.sleep(POLL_SECONDS)
        held = lock(place)
    return held


def is_ours(description: EngineDescription) -> bool:
    """Whether this user's cache has built the plan, and said just this of it: whoever runs a plan goes by what is said.

    Raises BackendError when others can write to the cache.
    """
    _check_private()
    for place in folder().glob("*.engine.json"):
        with suppress(ModelFileError):
            if read_description(place.with_suffix("")).to_json() == description.to_json():
                return True
    return False


def read_timings(name: str) -> bytes:
    """How long TensorRT's kernels took in earlier builds, in its own format; empty when nothing is known."""
    with suppress(OSError):
        return (folder() / f"{name}.timings").read_bytes()
    return b""


def write_timings(name: str, content: bytes) -> None:
    """Keeps timings for the next build. Of two builds that end together, one's are kept: they are a saving, no more."""
    with suppress(OSError):
        write_atomically(folder() / f"{name}.timings", content)


def read_kernels(name: str) -> bytes:
    """The kernels that TensorRT-RTX compiled in earlier processes, in its own format. Empty where there are none, and
    where other users can write to the folder, since they are code."""
    with suppress(OSError, BackendError):
        _check_private()
        return (folder() / f"{name}.kernels").read_bytes()
    return b""


def write_kernels(name: str, content: bytes) -> None:
    """Keeps compiled kernels for the next process, where that is possible."""
    with suppress(OSError, BackendError):
        _check_private()
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(folder() / f"{name}.kernels", content)
