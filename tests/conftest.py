"""Shared fixtures."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest

from alexnet_infer import cli

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some tests import ONNX Runtime directly


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Tests neither write to the user's cache nor read from it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


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
def no_gpu() -> None:
    """Skip the test if this machine has a GPU for TensorRT."""
    from alexnet_infer.engines.library import this_gpu
    from alexnet_infer.errors import BackendError

    try:
        this_gpu()
    except BackendError:
        return
    pytest.skip("this machine has a GPU")
