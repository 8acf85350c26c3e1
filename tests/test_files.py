"""A file is written completely or not at all, and a lock has one holder."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from alexnet_infer.errors import SpecError
from alexnet_infer.files import lock, open_regular, read_limited, write_atomically


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


# Locks.

HOLDER = """
import os, sys
from collections.abc import Iterator
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
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    ) as process:
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
