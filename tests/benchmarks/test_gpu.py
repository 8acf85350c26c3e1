"""The command `python -m benchmarks.gpu`: the requests that it refuses, and its miniature on a CPU."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

from benchmarks.gpu import __main__
from benchmarks.gpu.runner import NETS, STAGES, failed_checks
from tests.train.toys import image_folder

ROOT = Path(__file__).parents[2]
ALL = (*STAGES, NETS)

PATIENT = """
from benchmarks.gpu import runner
runner.STAGES = {name: 10 * seconds for name, seconds in runner.STAGES.items()}
runner.TOGETHER *= 10
"""
"""Code that extends the stages' time limits, so that a busy machine can run the miniature."""


def command(*arguments: object, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command as in a checkout, where the package does not have to be installed."""
    code = f"{before}\nimport runpy, sys\nsys.argv[0] = 'gpu'\nrunpy.run_module('benchmarks.gpu', run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def run(monkeypatch, capsys):
    """Return a function that runs the command in this process and returns (exit code, standard output and error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gpu", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            __main__.main()
        out, err = capsys.readouterr()
        return end.value.code, out, err

    before = signal.getsignal(signal.SIGTERM)  # which the command changes
    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def miniature(tmp_path_factory) -> tuple[subprocess.CompletedProcess[str], Path]:
    folder = tmp_path_factory.mktemp("miniature")
    data = image_folder(folder / "data", 24)
    arguments = ["--device", "cpu", "--minutes", 200, "--data", data, "--out", folder / "out"]
    return command(*arguments, before=PATIENT), folder / "out"


def test_the_miniature_runs_every_stage_and_all_checks_pass(miniature):
    done, out = miniature
    stages = json.loads((out / "results.json").read_bytes())["stages"]
    assert [*stages] == [*ALL]
    assert {name: entry["error"] for name, entry in stages.items()} == dict.fromkeys(ALL)
    assert [failure for name, entry in stages.items() for failure in failed_checks(entry["results"], name)] == []
    assert (done.returncode, done.stdout) == (0, "")
    assert [line.partition(":")[0] for line in done.stderr.splitlines()[:-1]] == [n for name in ALL for n in [name] * 2]


def test_the_miniature_writes_at_most_eight_files(miniature):
    _, out = miniature
    names = {path.name for path in out.iterdir()}
    assert {"results.json", "report.md"} <= names
    assert len(names) <= 8


def test_the_miniatures_report_verifies_no_claim_about_a_gpu(miniature):
    _, out = miniature
    text = (out / "report.md").read_text()
    assert "miniature on a CPU" in text
    assert "| not run" in text
    assert "| verified |" not in text


def test_parts_that_need_a_gpu_are_skipped_in_the_miniature(miniature):
    _, out = miniature
    results = {
        name: entry["results"] for name, entry in json.loads((out / "results.json").read_bytes())["stages"].items()
    }
    skipped = "skipped: needs a GPU"
    assert results["machine"]["ceilings"]["tf32"] == results["machine"]["ceilings"]["upload"] == skipped
    assert results["plugin"] == {"kernel": skipped, "engine": skipped}
    assert results["inference"]["torch"]["tf32"] == results["inference"]["tensorrt"] == skipped


def test_a_missing_gpu_is_refused_in_one_line(tmp_path):
    done = command("--device", "cuda", "--out", tmp_path)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith("--device cuda: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_command_starts_without_optional_packages(tmp_path):
    """With PyTorch alone, every stage can be imported, and a missing package is reported in the results."""
    missing = ("platformdirs", "onnxruntime", "tensorrt", "tensorrt_rtx", "openvino", "typer", "rich")
    block = f"import sys; sys.modules.update(dict.fromkeys({missing}))"
    done = command("--help", before=block)
    assert done.returncode == 0, done.stderr
    stages = ", ".join(f"benchmarks.gpu.{name}" for name in ALL)
    done = subprocess.run(
        [sys.executable, "-c", f"{block}\nimport {stages}\nprint(benchmarks.gpu.machine.versions()['onnxruntime'])"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("missing: "), done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--stages", "machine,trainin"], 2, "--stages trainin: expected some of .*did you mean training"),
        (["--minutes", "0"], 2, "--minutes 0: expected a number from 0.2"),
        (["--data", "/nowhere"], 3, "--data /nowhere: no such file or folder"),
    ],
)
def test_a_wrong_request_is_a_one_line_error(run, arguments, code, message, tmp_path):
    got, _, err = run("--device", "cpu", "--out", tmp_path, *arguments)
    assert (got, err.count("\n")) == (code, 1)
    assert re.search(message, err)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2, "stages": {}}', '{"format": 1, "stages": []}'])
def test_a_foreign_results_file_is_refused_and_kept(run, content, tmp_path):
    (tmp_path / "results.json").write_text(content)
    code, _, err = run("--device", "cpu", "--out", tmp_path, "--stages", "machine")
    assert (code, err.count("\n")) == (2, 1)
    assert (tmp_path / "results.json").read_text() == content
