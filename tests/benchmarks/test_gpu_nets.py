"""The stage that trains nets: the data that it accepts, and that one failed net does not affect the others."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch

from benchmarks.gpu.context import Context
from benchmarks.gpu.nets import MINIATURE, NetsError, Runs, name
from tests.train.toys import image_folder
from train.packed import open_packed


def context(tmp_path: Path, data: Path) -> Context:
    for folder in ("scratch", "out"):
        (tmp_path / folder).mkdir(exist_ok=True)
    return Context(
        device=torch.device("cpu"),
        data=data,
        out=tmp_path / "out",
        seconds=60,
        miniature=True,
        deadline=time.time() + 60,
        scratch=tmp_path / "scratch",
    )


def test_a_set_with_an_unreadable_image_is_packed_and_a_packed_set_is_used_unchanged(tmp_path):
    data = image_folder(tmp_path / "set")
    next((data / "train").rglob("*.png")).write_bytes(b"no image")
    runs = Runs(context(tmp_path, data), MINIATURE)
    runs.prepare()
    assert open_packed(runs.packed).images("train") == 11
    assert runs.packed.name == "set", "the nets' records contain this name"
    again = Runs(context(tmp_path, runs.packed), MINIATURE)
    again.prepare()
    assert again.packed == runs.packed
    assert not again.context.results


def test_a_set_that_cannot_be_packed_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(NetsError, match="train prepare: exit code 3"):
        Runs(context(tmp_path, tmp_path / "empty"), MINIATURE).prepare()


def test_a_net_that_fails_is_a_failed_check_and_the_others_are_kept(tmp_path, monkeypatch):
    runs = Runs(context(tmp_path, tmp_path), MINIATURE)

    @contextmanager
    def started(self, label: str, epochs: int, *more: str):
        processes = []
        for seed, program in enumerate(("import sys; sys.exit('error: loss is nan')", "import time; time.sleep(0.5)")):
            out = tmp_path / f"{label}-{seed}"
            out.mkdir()
            (out / f"{name(seed)}.safetensors").write_bytes(b"net")
            (out / f"{name(seed)}.json").write_text('{"seed": 1}')
            (out / "log.jsonl").write_text("")
            with (out / "stderr").open("wb") as stderr:
                processes.append((out, subprocess.Popen([sys.executable, "-c", program], stderr=stderr)))
        yield processes

    monkeypatch.setattr(Runs, "started", started)
    assert runs.train(1) == [1]
    results = runs.context.results
    assert results[name(0)]["passed"] is False
    assert "loss is nan" in results[name(0)]["error"]
    assert results[name(1)] == {"seed": 1, "images_per_second": 0.0}
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{name(1)}.safetensors"]
