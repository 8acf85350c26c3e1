"""Shared fixtures."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

# Before NumPy and torch are imported, here and in programs that tests start. With two processes on two cores, further
# threads wait for each other, busily: the tests take up to five times the CPU time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from alexnet_infer import cli
from tests.one_thread import use_one_thread

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some tests import ONNX Runtime directly


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect the tests without Python's garbage collection: it finds nothing, in a third of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Tests neither write to the user's cache nor read from it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_thread_of_onnx_runtime():
    """Sessions in this process use one thread, for the same reason. Programs that tests start use all cores."""
    with pytest.MonkeyPatch.context() as patch:
        with suppress(ImportError):
            use_one_thread(patch.setattr)
        yield


@pytest.fixture(autouse=True)
def _same_folder():
    """A test leaves the current folder as it was: others name files relative to it."""
    here = Path.cwd()
    yield
    assert Path.cwd() == here


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Run the program in this process: run("info", "alexnet") -> (exit code, standard output, standard error)."""

    def run(*arguments: object, columns: int = 160) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "argv", ["alexnet-infer", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, err

    return run


@pytest.fixture
def nested() -> Iterator[Callable[..., str]]:
    """Make folders in each other: nested(folder, levels, name) -> the path of the innermost, which may be too long.

    They are removed after the test: pytest would do so recursively, and fail.
    """
    tops: list[tuple[Path, str]] = []

    def make(folder: str | Path, levels: int, name: str = "d") -> str:
        tops.append((Path(folder).absolute(), name))
        inside = os.open(folder, os.O_RDONLY)
        for _ in range(levels):
            os.mkdir(name, dir_fd=inside)
            outside, inside = inside, os.open(name, os.O_RDONLY, dir_fd=inside)
            os.close(outside)
        os.close(inside)
        return f"{folder}{f'/{name}' * levels}"

    yield make
    for top, name in tops:
        while (top / name).exists():
            (top / name).rename(top / "outer")
            if (top / "outer" / name).exists():
                (top / "outer" / name).rename(top / name)
            shutil.rmtree(top / "outer")


@pytest.fixture
def no_gpu() -> None:
    """Skip the test if this machine has a GPU for TensorRT."""
    from alexnet_infer.engines.library import this_gpu
    from alexnet_infer.errors import BackendError

    try:
        this_gpu()
    except BackendError:
        return
    pytest.skip("this machine has a GPU")
