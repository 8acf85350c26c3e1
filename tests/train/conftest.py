"""Fixtures of the trainer's tests: one thread, so that equal runs are bit-identical; toy data; the program."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path) -> Path:
    from tests.train.toys import image_folder

    return image_folder(tmp_path / "toys")


@pytest.fixture
def small_shards(monkeypatch) -> None:
    """Make `prepare` write two images of `tests.train.packing` per shard."""
    from tests.train.packing import TWO_IMAGES
    from train import prepare

    monkeypatch.setattr(prepare, "SHARD_BYTES", TWO_IMAGES)


@pytest.fixture
def run(monkeypatch, capsys):
    """Return a function that runs the program as `main` does and returns (exit code, stdout, stderr)."""

    from train import cli

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
