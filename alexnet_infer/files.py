"""Atomic writes, lock files, and the locations of the package's own files."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

from alexnet_infer.errors import SpecError, UsageError

MAX_JSON_BYTES = 16_000_000
"""The largest JSON text that is read: a registry, a result, a model file's header. A per-pixel mean in a header takes
1.1 MB for images of 256 pixels."""

_NO_WAIT, _NO_LINK = getattr(os, "O_NONBLOCK", 0), getattr(os, "O_NOFOLLOW", 0)
"""Flags of `os.open`: don't wait for a pipe's other end; refuse a symbolic link. 0 on Windows, which has neither."""

_DAY = 86_400
"""In seconds."""


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


def safe_name(text: str, most: int, empty: str = "alexnet") -> str:
    """Return a name with at most `most` characters, all of which are allowed in a file's name and in a URL.

    `empty` is returned if no character remains.
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip(".-")[:most] or empty


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
    descriptor = _descriptor(path, os.O_RDONLY | _NO_WAIT | (0 if follow else _NO_LINK))
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


def _descriptor(path: Path | str, flags: int) -> int:
    try:
        return os.open(path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and Path(path).is_symlink():
            raise OSError(errno.ELOOP, f"{Path(path).name} is a symbolic link, not a regular file", str(path)) from None
        raise


def open_to_append(path: Path) -> BinaryIO:
    """Open a regular file for appending, or create it.

    Raises OSError if it can't be opened, or is a link, which may lead to a file of someone else, a pipe or a device.
    """
    return _writable(path, "ab", own=False)


def open_own(path: Path, mode: Literal["ab", "r+b"]) -> BinaryIO:
    """Open a file of this user, or of the owner of its folder, for writing. With "ab", it is created if necessary.

    What somebody else put in its place is not written to. Raises OSError for a link, for a file that has a second name
    or another owner, if it is not a regular file, and if it can't be opened.
    """
    return _writable(path, mode, own=True)


def _writable(path: Path, mode: Literal["ab", "r+b"], *, own: bool) -> BinaryIO:
    flags = os.O_RDWR | (os.O_APPEND | os.O_CREAT if mode == "ab" else 0)
    descriptor = _descriptor(path, flags | _NO_WAIT | _NO_LINK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, f"{path.name} is not a regular file", str(path))
        if own and status.st_nlink > 1:
            raise OSError(errno.EMLINK, f"{path.name} has a second name (a hard link)", str(path))
        # A container's root uses a user's cache, and some network disks show one owner for all files.
        if own and hasattr(os, "geteuid") and status.st_uid not in (os.geteuid(), path.parent.stat().st_uid):
            raise PermissionError(errno.EPERM, f"{path.name} belongs to another user", str(path))
        return os.fdopen(descriptor, mode)
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
        limit = min(most, max(size, 2**20))  # memory for as many bytes is taken at once
        try:
            content = file.read(limit + 1)
        except MemoryError:
            raise SpecError(f"has {size:,} bytes, for which this machine has not enough memory") from None
    if len(content) > limit:  # it has grown, or it is a file of /proc, which has no size
        raise SpecError(f"has more than {limit:,} bytes")
    return content


def write_atomically(path: Path, data: bytes | Iterable[bytes | memoryview]) -> None:
    """Write `data`, as one object or in parts, to a temporary file beside `path`, sync it and rename it to `path`.

    An existing file at `path` stays intact until the new file is complete. Temporary files of `path` that killed
    processes left are removed first. Raises OSError on failure, after removing the temporary file, and if `path` is a
    pipe or a device, such as /dev/null.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    remove_leftovers(path)
    with _temporary(path, lambda new: new.touch(exist_ok=False), lambda new: new.unlink(missing_ok=True)) as temporary:
        with temporary.open("rb+") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def copy_atomically(source: Path, target: Path) -> None:
    """Copy a regular file as `write_atomically` writes. Raises SpecError if it isn't one, and OSError on failure."""
    with open_regular(source) as file:
        write_atomically(target, iter(partial(file.read, 2**20), b""))


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`, to be filled and renamed. Its parents are created if necessary.

    It is removed if the block fails. Those that killed processes left are removed first.
    """
    remove_leftovers(path, folders=True)
    with _temporary(path, lambda new: new.mkdir(parents=True), _remove_folder) as temporary:
        yield temporary


def temporary_name(path: Path) -> Path:
    """Return a new name beside `path` for what is to be renamed to it. `remove_leftovers` recognises it."""
    return path.parent / f".{_stem(path)}.{os.urandom(4).hex()}.tmp"


def _stem(path: Path) -> str:
    """Return the name of `path`, or its begin if 14 more bytes could be too many for a name."""
    return path.name if len(os.fsencode(path.name)) <= 200 else path.name[:50]


@contextmanager
def _temporary(path: Path, make: Callable[[Path], None], remove: Callable[[Path], None]) -> Iterator[Path]:
    """Make a temporary file or folder of `path`. It is locked until the block ends, so that no process removes it.

    It is removed if the block fails.
    """
    temporary, descriptor = _made(path, make)
    try:
        yield temporary
    except BaseException:
        remove(temporary)
        raise
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _made(path: Path, make: Callable[[Path], None]) -> tuple[Path, int | None]:
    while True:
        temporary = temporary_name(path)
        make(temporary)
        if os.name == "nt":  # has no locks, and can't rename what is open
            return temporary, None
        with suppress(FileNotFoundError):
            descriptor = os.open(temporary, os.O_RDONLY)
            _locked(descriptor, wait=True)
            if temporary.exists():  # if not, another process took it for a leftover before it was locked
                return temporary, descriptor
            os.close(descriptor)


def remove_leftovers(path: Path, *, folders: bool = False) -> None:
    """Remove temporary files of `path`, or `folders`, that killed processes left.

    Those in use are locked. Where locks don't exist, one counts as left if it is a day old. Links and everything with
    another name stay.
    """
    ours = re.compile(rf"\.{re.escape(_stem(path))}\.[0-9a-f]{{8}}\.tmp")
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in entries if ours.fullmatch(entry.name)]
    except OSError:
        return
    for name in names:
        with suppress(OSError):
            _remove_if_left(path.parent / name, folder=folders)


def _remove_if_left(temporary: Path, folder: bool) -> None:
    is_kind, remove = (stat.S_ISDIR, _remove_folder) if folder else (stat.S_ISREG, Path.unlink)
    status = temporary.lstat()
    if not is_kind(status.st_mode):
        return
    descriptor = os.open(temporary, os.O_RDONLY | _NO_WAIT | _NO_LINK)
    try:
        if free := _locked(descriptor, wait=False):
            remove(temporary)
    finally:
        os.close(descriptor)
    if free is None and time.time() - status.st_mtime > _DAY:
        remove(temporary)


def _remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def writing(what: object, advice: str = "") -> Iterator[None]:
    """Raise UsageError "`what`: can't be written (reason); `advice`" for an OSError in the block."""
    try:
        yield
    except OSError as error:
        full = "free some space, or " if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""
        advice = f"; {full}{advice}" if advice else ""
        raise UsageError(f"{what}: can't be written ({error.strerror or error}){advice}") from None


def lock(path: Path, *, wait: bool = False, shared: bool = False) -> BinaryIO | None:
    """Lock the file at `path`. The lock is held until the returned file is closed or the process ends.

    Several may hold a `shared` lock at once, but not beside an exclusive one. If another process, or an open file of
    this process, holds the lock, returns None or, with `wait`, waits. Where locks don't exist (Windows, some network
    disks), the file is returned unlocked. Raises OSError as `open_to_append` does.
    """
    file = open_to_append(path)
    if _locked(file.fileno(), wait=wait, shared=shared) is False:
        file.close()
        return None
    return file


def share(file: BinaryIO) -> None:
    """Turn the lock on an open file, from `lock`, into a shared one, or none if another process took it meanwhile."""
    _locked(file.fileno(), wait=False, shared=True)


def _locked(descriptor: int, *, wait: bool, shared: bool = False) -> bool | None:
    """Lock an open file or folder. Returns False if another has the lock, and None if locks don't exist here."""
    try:
        import fcntl

        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True
