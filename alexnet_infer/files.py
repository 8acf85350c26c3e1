"""Writing files so that no reader ever sees half of one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


def user_cache() -> Path:
    """The folder in which this user's programs keep what can be computed again."""
    from platformdirs import user_cache_path

    return user_cache_path("alexnet-infer", appauthor=False)


def along(name: str) -> Path:
    """Where a file lies that comes along with the program: in `models/` of the installed package, or of a checkout. The
    first of these where it is in neither."""
    here = Path(__file__).parent
    places = [folder / "models" / name for folder in (here, here.parent)]
    return next((place for place in places if place.is_file()), places[0])


def is_file(path: Path) -> bool:
    """Whether a file is at `path`; no, too, where the system won't say: a name too long, a folder closed to us."""
    try:
        return path.is_file()
    except OSError:
        return False


def write_atomically(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Writes `data`, whole or in parts, to a temporary file beside `path`, syncs it and renames it over `path`.

    Whatever stood at `path` stays whole until the new file is complete. Raises OSError when that fails; the temporary
    file is then removed.
    """
    with replacing(path) as temporary, temporary.open("xb") as file:
        file.writelines([data] if isinstance(data, bytes) else data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """`write_atomically` for libraries that write files themselves: yields the name of the temporary file to write."""
    temporary = path.parent / f".{path.name}.{os.urandom(4).hex()}.tmp"
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def lock(path: Path) -> IO[str] | None:
    """Makes this process the only one that holds the lock file at `path`, until the file that is returned is closed or
    the process ends. None when another holds it. Where locks don't exist (Windows, some network disks), none is made.

    Raises OSError when the file can't be opened.
    """
    file = path.open("a")
    with suppress(ImportError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError:
            pass
    return file
