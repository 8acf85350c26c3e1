"""Atomic writes, lock files, and the locations of the package's own files."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from alexnet_infer.errors import SpecError, UsageError

MAX_JSON_BYTES = 16_000_000
"""The largest JSON text that is read: a registry, a result, a model file's header. A per-pixel mean in a header takes
1.1 MB for images of 256 pixels."""


def user_cache() -> Path:
    """Return this user's cache folder for alexnet-infer, for files that can be made again."""
    from platformdirs import user_cache_path

    return user_cache_path("alexnet-infer", appauthor=False)


def along(name: str) -> Path:
    """Return the path of a bundled file: in `models/` of the installed package or, failing that, of the checkout.

    If neither has the file, the path in the installed package is returned.
    """
    here = Path(__file__).parent
    paths = [folder / "models" / name for folder in (here, here.parent)]
    return next((path for path in paths if path.is_file()), paths[0])


def safe_name(text: str, most: int) -> str:
    """Return a net's name with at most `most` characters, all of which are allowed in a file's name and in a URL."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip(".-")[:most] or "alexnet"


def is_file(path: Path) -> bool:
    """Return whether `path` is a file. False if the system can't tell: a name too long, a folder without permission."""
    try:
        return path.is_file()
    except OSError:
        return False


def size_of(path: Path) -> int:
    """Return the size of a model file in bytes, before it is opened.

    Raises SpecError unless it is a regular file: reading a pipe could wait forever. Raises OSError if it is missing.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise SpecError("is not a regular file: expected a model file")
    return status.st_size


def open_regular(path: Path | str, *, follow: bool = True) -> BinaryIO:
    """Open a regular file for reading, which a pipe or a device is not: reading one could wait forever.

    Without `follow`, `path` itself may not be a symbolic link. Raises SpecError if it is not a regular file, and
    OSError if it can't be opened.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)  # without O_NONBLOCK, opening a pipe waits for its writer
    if not follow:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise SpecError("is not a regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_limited(path: Path | str, most: int) -> bytes:
    """Return the content of a regular file of at most `most` bytes. Its size is looked at before it is read.

    Raises SpecError if it is larger or not a regular file, and OSError if it can't be read.
    """
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise SpecError(f"has {size:,} bytes: expected at most {most:,}")
        try:
            content = file.read(size + 1)
            if len(content) > size:  # it has grown, or it is a file of /proc, which has no size
                content += file.read(most - size)
        except MemoryError:
            raise SpecError(f"has {size:,} bytes, for which this machine has not enough memory") from None
    if len(content) > most:
        raise SpecError(f"has more than {most:,} bytes")
    return content


def write_atomically(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write `data`, as one object or in parts, to a temporary file beside `path`, sync it and rename it to `path`.

    An existing file at `path` stays intact until the new file is complete. Raises OSError on failure, after removing
    the temporary file.
    """
    with replacing(path) as temporary, temporary.open("xb") as file:
        file.writelines([data] if isinstance(data, bytes) else data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """`write_atomically` for libraries that write files themselves: yield the path of the temporary file to write."""
    temporary = path.parent / f".{path.name}.{os.urandom(4).hex()}.tmp"
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def writing(what: object, advice: str = "") -> Iterator[None]:
    """Raise UsageError "`what`: can't be written (reason); `advice`" for an OSError in the block."""
    try:
        yield
    except OSError as error:
        full = "free some space, or " if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""
        advice = f"; {full}{advice}" if advice else ""
        raise UsageError(f"{what}: can't be written ({error.strerror or error}){advice}") from None


def lock(path: Path, *, wait: bool = False) -> IO[str] | None:
    """Lock the file at `path`. The lock is held until the returned file is closed or the process ends.

    If another process, or an open file of this process, holds the lock, returns None or, with `wait`, waits. Where
    locks don't exist (Windows, some network disks), the file is returned unlocked. Raises OSError if the file can't be
    opened.
    """
    file = path.open("a")
    with suppress(ImportError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            return None
        except OSError:
            pass
    return file
