"""A file is written completely or not at all, and a lock has one holder."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from alexnet_infer.errors import SpecError
from alexnet_infer.files import (
    copy_atomically,
    lock,
    open_regular,
    open_to_append,
    read_limited,
    remove_leftovers,
    temporary_folder,
    temporary_name,
    write_atomically,
)


@pytest.fixture
def target(tmp_path) -> Path:
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"old")
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_has_the_data_and_nothing_else_is_left(tmp_path):
    write_atomically(tmp_path / "new", b"\x00data")
    assert (tmp_path / "new").read_bytes() == b"\x00data"
    assert names(tmp_path) == ["new"]


def test_an_old_file_is_replaced(target):
    write_atomically(target, b"new")
    assert target.read_bytes() == b"new"
    assert names(target.parent) == [target.name]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permission bits")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o027])
def test_the_file_has_the_permissions_that_any_new_file_has(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "new", b"data")
    finally:
        assert os.umask(before) == umask  # writing does not change the mask of the process
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_no_other(target, monkeypatch, step, failure):
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[step], fail)
    with pytest.raises(type(failure)):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert names(target.parent) == [target.name]


def test_the_data_is_on_the_disk_before_the_name_changes(target, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append((os.fstat(handle).st_size, target.read_bytes())))
    write_atomically(target, b"newer")
    assert seen == [(5, b"old")]


def test_a_full_disk_leaves_the_old_file_and_no_other(target):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # the system refuses to write more, as a full disk does
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomically(target, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert target.read_bytes() == b"old"
    assert names(target.parent) == [target.name]


def test_a_folder_is_not_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path / "folder", b"data")
    assert names(tmp_path) == ["folder"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
@pytest.mark.parametrize("kind", ["pipe", "link to a device"])
def test_a_pipe_or_device_is_not_replaced(tmp_path, kind):
    path = tmp_path / "path"
    path.symlink_to("/dev/null") if "device" in kind else os.mkfifo(path)
    with pytest.raises(OSError, match="not a regular file"):
        write_atomically(path, b"data")
    assert path.exists()
    assert not path.is_file()
    assert names(tmp_path) == ["path"]


def test_a_path_without_a_name_is_an_os_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (Path(), Path("..")):
        with pytest.raises(OSError, match=r"busy|directory|Invalid"):
            write_atomically(path, b"data")
    assert names(tmp_path) == []


def test_a_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "absent" / "new", b"data")


def test_a_reader_sees_a_complete_file_of_one_writer(target):
    contents = [bytes([letter]) * 200_000 for letter in range(4)]
    target.write_bytes(contents[0])
    stop = threading.Event()

    def write(content: bytes) -> None:
        while not stop.is_set():
            write_atomically(target, content)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    try:
        seen = {target.read_bytes() for _ in range(100)}
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert seen <= set(contents)
    assert names(target.parent) == [target.name]


# What killed processes leave.

WRITER = """
import sys
from pathlib import Path
from alexnet_infer.files import temporary_folder, write_atomically

def parts():
    yield b"half"
    print("writing", flush=True)
    sys.stdin.read()
    yield b" of it"

target = Path(sys.argv[1])
with temporary_folder(target) as folder:
    write_atomically(folder / "inside", b"")
    write_atomically(target, parts())
    folder.rename(target.with_name("folder"))
"""


def python(code: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=Path(__file__).parents[1], **streams)


@pytest.fixture
def writer(target) -> Iterator[subprocess.Popen]:
    """Another process in the middle of writing `target` and a folder beside it, until its standard input ends."""
    pytest.importorskip("fcntl", reason="needs file locks")
    with python(WRITER, target) as process:
        assert process.stdout.readline() == "writing\n"
        assert len(names(target.parent)) == 3
        yield process
        process.kill()


def test_what_a_killed_process_was_writing_is_removed_by_the_next_one(target, writer):
    writer.kill()
    writer.wait()
    assert len(names(target.parent)) == 3
    write_atomically(target, b"new")
    with temporary_folder(target) as folder:
        folder.rename(target.with_name("folder"))
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["folder", target.name]


def test_two_processes_write_one_file_at_once(target, writer):
    write_atomically(target, b"new")
    with temporary_folder(target) as folder:
        assert len(names(target.parent)) == 4
    folder.rmdir()
    assert target.read_bytes() == b"new"
    writer.stdin.close()
    assert writer.wait() == 0
    assert target.read_bytes() == b"half of it"
    assert names(target.parent) == ["folder", target.name]


def test_many_writers_of_one_file_never_remove_each_others(target):
    def write(number: int) -> None:
        for _ in range(50):
            write_atomically(target, bytes([number]) * 100)

    with ThreadPoolExecutor(4) as pool:
        [*pool.map(write, range(4))]  # would raise FileNotFoundError
    assert names(target.parent) == [target.name]


def test_nothing_but_temporary_files_of_the_same_target_is_removed(target):
    folder = target.parent
    kept = [
        ".foo.tmp",
        f".{target.name}.tmp",
        f".{target.name}.0123456.tmp",
        f".{target.name}.0123ABCD.tmp",
        f"{target.name}.01234567.tmp",
        f".{target.name}.01234567.tmp.bak",
        f".x.{target.name}.01234567.tmp",
        ".netXsafetensors.01234567.tmp",
    ]
    for name in kept:
        (folder / name).write_bytes(b"mine")
    (folder / f".{target.name}.00000001.tmp").mkdir()
    (folder / f".{target.name}.00000001.tmp" / "file").write_bytes(b"mine")
    (folder / f".{target.name}.00000002.tmp").symlink_to(".foo.tmp")
    os.mkfifo(folder / f".{target.name}.00000003.tmp")
    (folder / f".{target.name}.00000004.tmp").write_bytes(b"left")
    before = set(names(folder))
    write_atomically(target, b"new")
    assert before - set(names(folder)) == {f".{target.name}.00000004.tmp"}
    remove_leftovers(target, folders=True)
    assert before - set(names(folder)) == {f".{target.name}.00000001.tmp", f".{target.name}.00000004.tmp"}
    assert (folder / ".foo.tmp").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["x" * 255, "\u732b" * 85, "\U0001f408" * 63, "x" * 201, "x" * 200])
def test_a_name_may_be_as_long_as_the_system_allows(tmp_path, name):
    path = tmp_path / name
    left = temporary_name(path)
    left.write_bytes(b"left")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == [name]


def test_without_locks_what_is_a_day_old_counts_as_left(target, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    new, old = (target.with_name(f".{target.name}.0000000{i}.tmp") for i in range(2))
    for path, hours in ((new, 23), (old, 25)):
        path.write_bytes(b"half")
        os.utime(path, (0, time.time() - 3600 * hours))
    write_atomically(target, b"new")
    assert names(target.parent) == [new.name, target.name]


def test_a_folder_that_could_not_be_filled_is_removed(target):
    def fill() -> None:
        with temporary_folder(target.parent / "new" / "folder") as folder:
            (folder / "file").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert names(target.parent / "new") == []


def test_a_copy_is_complete_and_only_of_a_regular_file(target, tmp_path):
    target.write_bytes(os.urandom(3_000_000))
    copy_atomically(target, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == target.read_bytes()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SpecError, match="not a regular file"):
        copy_atomically(tmp_path / "pipe", target)


# Locks.

HOLDER = """
import sys
from pathlib import Path
from alexnet_infer.files import lock
held = lock(Path(sys.argv[1]))
print("held" if held else "refused", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path) -> Iterator[subprocess.Popen]:
    """Another process that holds a lock, until its standard input ends or it is killed."""
    pytest.importorskip("fcntl")
    with python(HOLDER, tmp_path / "lock") as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_a_lock_is_held_until_its_process_ends(tmp_path, other, end):
    assert lock(tmp_path / "lock") is None
    if end == "exit":
        other.stdin.close()
    else:
        other.kill()
    other.wait()
    held = lock(tmp_path / "lock")
    assert held is not None
    held.close()


def test_a_lock_that_is_waited_for_is_free_once_its_holder_is_killed(tmp_path, other):
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lock, tmp_path / "lock", wait=True)
        with pytest.raises(TimeoutError):
            waiting.result(0.1)
        other.kill()
        waiting.result(30).close()


def test_a_lock_excludes_its_own_process_until_it_is_closed(tmp_path):
    pytest.importorskip("fcntl")
    held, other_lock = lock(tmp_path / "lock"), lock(tmp_path / "another")
    assert lock(tmp_path / "lock") is None
    held.close()
    other_lock.close()
    with lock(tmp_path / "lock") as again:
        assert again is not None


@pytest.mark.parametrize("reason", [OSError(errno.ENOLCK, "No locks available"), OSError(errno.ENOSYS, "no such call")])
def test_without_lock_support_files_are_returned_without_a_lock(tmp_path, monkeypatch, reason):
    fcntl = pytest.importorskip("fcntl")

    def fail(*_: object) -> None:
        raise reason

    monkeypatch.setattr(fcntl, "flock", fail)
    with lock(tmp_path / "lock") as first, lock(tmp_path / "lock") as second:
        assert first is not None
        assert second is not None


def test_without_fcntl_files_are_returned_without_a_lock(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with lock(tmp_path / "lock") as first, lock(tmp_path / "lock") as second:
        assert first is not None
        assert second is not None


def test_a_lock_file_that_cannot_be_opened_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        lock(tmp_path / "absent" / "lock")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
@pytest.mark.parametrize("kind", ["pipe", "pipe with a reader", "link", "link to nothing", "folder", "device"])
def test_only_a_regular_file_is_locked_or_appended_to_and_no_link_is_followed(tmp_path, kind):
    path, other, reader = tmp_path / "file", tmp_path / "other", None
    if kind.startswith("pipe"):
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if "reader" in kind else None
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/null")
    else:
        other.write_bytes(b"") if kind == "link" else None
        path.symlink_to(other)
    for function in (open_to_append, lock):
        with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
            function(path)
    assert other.exists() == (kind == "link")
    if reader is not None:
        os.close(reader)


def test_a_file_is_appended_to(tmp_path):
    for line in (b"a", b"b"):
        with open_to_append(tmp_path / "log") as file:
            file.write(line)
    assert (tmp_path / "log").read_bytes() == b"ab"


def test_a_file_is_read_up_to_its_limit(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    assert read_limited(path, 100) == bytes(100)
    with pytest.raises(SpecError, match="has 100 bytes: expected at most 99"):
        read_limited(path, 99)


def test_a_high_limit_takes_no_memory(tmp_path):
    (tmp_path / "file").write_bytes(b"data")
    tracemalloc.start()
    assert read_limited(tmp_path / "file", 2**40) == b"data"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_a_sparse_file_is_refused_by_its_size(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(SpecError, match="expected at most 1,000"):
        read_limited(tmp_path / "file", 1000)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs /proc")
def test_a_file_that_tells_no_size_is_limited_too():
    with pytest.raises(SpecError, match="has more than 10 bytes"):
        read_limited(Path("/proc/cpuinfo"), 10)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SpecError, match="not a regular file"):
        read_limited(tmp_path / "pipe", 10)


def test_a_folder_and_a_missing_file_are_errors_of_the_system(tmp_path):
    with pytest.raises(IsADirectoryError):
        read_limited(tmp_path, 10)
    with pytest.raises(FileNotFoundError):
        read_limited(tmp_path / "missing", 10)


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_a_link_is_followed_only_if_wanted(tmp_path):
    (tmp_path / "file").write_bytes(b"data")
    (tmp_path / "link").symlink_to("file")
    assert read_limited(tmp_path / "link", 10) == b"data"
    with pytest.raises(OSError, match=r"symbolic link|Too many levels"):
        open_regular(tmp_path / "link", follow=False)
