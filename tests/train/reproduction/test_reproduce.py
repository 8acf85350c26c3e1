"""`python -m train reproduce` from end to end, at the scale "miniature", on a few images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

from alexnet_infer.artifact import load_artifact
from tests.train.program import assert_one_line
from train.reproduction import runner
from train.reproduction.experiments import read_plan
from train.reproduction.plan import Training
from train.reproduction.record import Records
from train.reproduction.settings import settings

NETS = ("no-lrn-0", "no-lrn-1", "paper-0", "paper-1")


@pytest.fixture
def reproduce(run, data, tmp_path, monkeypatch):
    """Return a function that runs the command at the scale "miniature" and returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        folders = ("--work", "work", "--results", "out/reproduction", "--device", "cpu")
        return run("reproduce", "--scale", "miniature", "--data", data, *folders, *arguments)

    return call


def record_files() -> list[Path]:
    return sorted(Path("out/reproduction").rglob("*.json"))


def test_a_row_is_run_from_images_to_page_and_nothing_is_run_twice(reproduce, monkeypatch):
    code, stdout, stderr = reproduce("--only", "lrn", "--jobs", 2)
    assert code == 0, stderr
    assert stdout == "out/REPRODUCTION.md: 4 results added\n"
    assert [path.stem for path in record_files()] == [*NETS]

    plan, records = read_plan(), Records(Path("out/reproduction"))
    for name in NETS:
        task = Training("miniature", name[:-2], int(name[-1]))
        result = records.read(task, settings(plan, task))
        artifact = load_artifact(Path("work/miniature") / name / "alexnet-64.safetensors")
        for error in artifact.manifest.provenance.errors:  # the trainer's own figures, counted on its own
            assert result.wrong(error.views).sum(0).tolist() == [error.top1, error.top5]
            assert error.images == result.images == 12 + 3, "three training images are held out"
        assert result.training.images == 9, "of 12 training images"
        assert (artifact.manifest.provenance.seed, result.parameters) == (
            task.seed,
            artifact.manifest.architecture.parameters,
        )
        assert ("norm1" in {o.name for o in artifact.manifest.architecture.operations}) == (task.run == "paper")
        assert len(result.curve.top1_error) == len(result.curve.training_error) == 1
        assert result.curve.steps_per_epoch == 2, "9 images in batches of 4"

    page = Path("out/REPRODUCTION.md").read_text()
    wrong = {
        name: records.read(t := Training("miniature", name[:-2], int(name[-1])), settings(plan, t)).wrong("ten")[:, 0]
        for name in NETS
    }
    gained = 100 * (np.mean([wrong["no-lrn-0"], wrong["no-lrn-1"]]) - np.mean([wrong["paper-0"], wrong["paper-1"]]))
    assert f"top-1 {gained:+.2f} (".replace("-", "\N{MINUS SIGN}").replace("top\N{MINUS SIGN}1", "top-1") in page
    assert "--normalization none" in page, "the command on ILSVRC"

    monkeypatch.setattr(runner.subprocess, "Popen", lambda *args, **options: pytest.fail("a net was run again"))
    code, stdout, stderr = reproduce("--only", "lrn")
    assert (code, stdout) == (0, "out/REPRODUCTION.md: 0 results added\n"), stderr
    assert Path("out/REPRODUCTION.md").read_text() == page

    code, stdout, _ = reproduce("--list", "--json")
    rows = {row["row"]: row for row in json.loads(stdout)}
    assert rows["lrn"] | {"verdict": None} == {
        "row": "lrn",
        "section": "3.3",
        "scale": "miniature",
        "nets": 4,
        "missing": [],
        "verdict": None,
        "hours": 0.0,
    }
    assert rows["pooling"]["missing"] == ["miniature/pool-2-0", "miniature/pool-2-1"]
    assert 0 < rows["pooling"]["hours"] < 1
    assert "five" not in rows, "needs five seeds"


def test_a_run_that_the_time_limit_stopped_continues(reproduce):
    code, stdout, stderr = reproduce("--only", "views", "--jobs", 1, "--max-hours", 1e-9)
    assert code == 0
    assert "0 results added, 2 left" in stdout
    assert "run the same command again to continue" in stderr
    assert record_files() == []
    code, stdout, _ = reproduce("--only", "views", "--jobs", 2)
    assert "2 results added" in stdout
    assert [path.stem for path in record_files()] == ["paper-0", "paper-1"]


def test_a_failed_run_is_one_line_and_the_others_go_on(reproduce):
    out = Path("work/miniature/paper-0")
    out.mkdir(parents=True)
    (out / "last.safetensors").write_bytes(b"damaged")
    code, stdout, stderr = reproduce("--only", "views", "--jobs", 1)
    assert code == 1
    assert "1 results added, 1 failed" in stdout
    (line,) = [line for line in stderr.splitlines() if line.startswith("miniature/paper-0 failed: ")]
    assert "last.safetensors" in line
    assert "output.txt" in line
    assert "Traceback" not in stderr
    assert [path.stem for path in record_files()] == ["paper-1"]


def test_a_damaged_result_is_one_line(reproduce):
    path = Path("out/reproduction/miniature/paper-0.json")
    path.parent.mkdir(parents=True)
    path.write_text('{"format": 1}')
    assert_one_line(reproduce("--list"), 3, "paper-0.json", "remove it")


def test_a_data_set_without_the_ten_classes_is_refused(reproduce):
    """Every twentieth of three classes is one."""
    parts = ("--data ", "the classes ::20 of it are 1; the scale four-layer needs ten")
    assert_one_line(reproduce("--scale", "four-layer", "--jobs", 1), 2, *parts)
    assert record_files() == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--only", "lnr"], ["--only lnr", "expected one of relu, relu-deep, lrn, pooling"]),
        (["--only", "five"], ["--only five", "not possible at the scale miniature"]),
        (["--only", "relu"], ["--only relu", "not possible at the scale miniature"]),
        (["--only", "six"], ["--only six", "not possible at the scale miniature"]),
        (["--jobs", "0"], ["--jobs 0: expected 1 to 64"]),
        (["--work", "toys/val/n00000000/000.png/work"], ["--work", "000.png is a file; expected a folder"]),
        (["--results", "toys/val/n00000000/000.png"], ["--results", "000.png is a file; expected a folder"]),
        (["--max-hours", "-1"], ["--max-hours -1"]),
    ],
)
def test_wrong_options_are_refused_at_once(reproduce, arguments, parts):
    assert_one_line(reproduce(*arguments), 2, *parts)
    assert not Path("work").exists()


def test_without_data_the_page_is_written_from_the_results(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_one_line(run("reproduce"), 2, "--data is missing", "--list and --page need none")
    code, stdout, _ = run("reproduce", "--page", "--results", "out/reproduction")
    assert (code, stdout) == (0, "out/REPRODUCTION.md\n")
    assert "not run yet" in Path("out/REPRODUCTION.md").read_text()
