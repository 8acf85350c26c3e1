"""The stages' processes: results kept from a stage that fails, crashes or hangs, and how time is shared."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import numpy as np
import torch

from benchmarks.gpu import runner
from benchmarks.gpu.context import Context
from benchmarks.gpu.runner import NETS, STAGES, Request, failed_checks, limit, run, run_stage

ROOT = Path(__file__).parents[2]
ALL = (*STAGES, NETS)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def has_ended(pid: str) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().split()[2] == "Z"  # a zombie until its new parent reaps it
    except (FileNotFoundError, ProcessLookupError):
        return True


def request(out: Path, *stages: str, seconds: float = 60) -> Request:
    return Request(device="cpu", data=None, out=out, seconds=seconds, stages=stages)


@pytest.fixture
def stages(monkeypatch) -> dict[str, str]:
    """Python programs that run instead of the stages, by name. Each can call `record(key, value)`."""
    programs: dict[str, str] = {}
    prelude = """
import json, os, pathlib, sys, time
settings, results = json.loads(sys.argv[1]), {}
def record(key, value):
    results[key] = value
    path = pathlib.Path(settings["scratch"], "results.json")
    path.with_suffix(".new").write_text(json.dumps(results))
    path.with_suffix(".new").replace(path)
"""
    monkeypatch.setattr(
        runner,
        "command",
        lambda name, settings: [sys.executable, "-c", prelude + programs[name], json.dumps(settings)],
    )
    monkeypatch.setattr(runner, "RESERVE", 1.0)
    return programs


@pytest.fixture
def context(tmp_path) -> Context:
    return Context(
        device=torch.device("cpu"),
        data=None,
        out=tmp_path,
        seconds=1,
        miniature=True,
        deadline=time.time() + 1,
        scratch=tmp_path,
    )


def test_a_stage_that_fails_does_not_stop_the_next_and_its_last_output_is_kept(stages, tmp_path):
    stages["machine"] = "record('a', 1)\nraise ValueError('no such thing')"
    stages["plugin"] = "record('b', 2)"
    assert not run(request(tmp_path, "machine", "plugin"))
    entries = json.loads((tmp_path / "results.json").read_bytes())["stages"]
    assert (entries["machine"]["status"], entries["machine"]["error"]) == ("failed", "ValueError: no such thing")
    assert entries["machine"]["stderr"][0].startswith("Traceback")
    assert entries["machine"]["results"] == {"a": 1}
    assert (entries["plugin"]["status"], entries["plugin"]["results"]) == ("done", {"b": 2})


def test_a_stage_that_crashes_is_named_by_its_signal(stages, tmp_path):
    stages["machine"] = "record('a', 1)\nos.kill(os.getpid(), 11)"
    entry = run_stage("machine", request(tmp_path), 30, lambda entry: None)
    assert (entry["error"], entry["results"]) == ("was killed by SIGSEGV", {"a": 1})


def test_a_stage_that_hangs_is_killed_with_its_children_and_its_results_are_kept(stages, tmp_path):
    stages["machine"] = f"""
record('a', 1)
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(child.pid))
time.sleep(60)
"""
    started = time.monotonic()
    entry = run_stage("machine", request(tmp_path), 3, lambda entry: None)
    assert time.monotonic() - started < 20
    assert (entry["error"], entry["results"]) == ("reached its time limit of 3 s", {"a": 1})
    wait_until(lambda: has_ended((tmp_path / "pid").read_text()))


def test_results_are_reported_while_a_stage_runs(stages, tmp_path):
    stages["machine"] = "record('a', 1)\ntime.sleep(3)\nrecord('b', 2)"
    seen: list[dict[str, Any]] = []
    entry = run_stage("machine", request(tmp_path), 30, seen.append)
    assert seen[0]["status"] == "running"
    assert seen[0]["results"] == {"a": 1}
    assert entry["results"] == {"a": 1, "b": 2}


def test_running_one_stage_again_replaces_only_its_results(stages, tmp_path):
    stages |= {"machine": "record('a', 1)", "plugin": "raise SystemExit(3)"}
    assert not run(request(tmp_path, "machine", "plugin"))
    stages |= {"machine": "raise SystemExit(4)", "plugin": "record('b', 2)"}
    assert run(request(tmp_path, "plugin"))
    entries = json.loads((tmp_path / "results.json").read_bytes())["stages"]
    assert {name: entry["results"] for name, entry in entries.items()} == {"machine": {"a": 1}, "plugin": {"b": 2}}
    assert entries["plugin"]["error"] is None


def test_a_failed_check_fails_the_command_but_not_its_stage(stages, tmp_path):
    stages["machine"] = "record('layers', {'x': [{'passed': True}, {'passed': False}]})"
    assert not run(request(tmp_path, "machine"))
    entry = json.loads((tmp_path / "results.json").read_bytes())["stages"]["machine"]
    assert entry["status"] == "done"
    assert failed_checks(entry["results"]) == ["layers.x[1] failed"]


def test_the_output_of_a_stage_with_a_failed_check_is_kept(stages, tmp_path):
    stages["machine"] = "record('a', {'passed': False})\nprint('why', file=sys.stderr)"
    assert run_stage("machine", request(tmp_path), 30, lambda entry: None)["stderr"] == ["why"]
    stages["machine"] = "record('a', {'passed': True})\nprint('why', file=sys.stderr)"
    assert run_stage("machine", request(tmp_path), 30, lambda entry: None)["stderr"] == []


def test_ending_the_command_ends_the_stage(tmp_path):
    text = f"""
from benchmarks.gpu import __main__, runner
code = "import os, pathlib, time; pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid())); time.sleep(60)"
runner.command = lambda name, settings: [sys.executable, "-c", code]
sys.argv[1:] = ["--device", "cpu", "--stages", "machine", "--out", {str(tmp_path)!r}]
__main__.main()
"""
    process = subprocess.Popen([sys.executable, "-c", f"import sys\n{text}"], cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    wait_until(lambda: has_ended((tmp_path / "pid").read_text()))


def test_a_stage_that_hangs_prints_its_traceback(tmp_path):
    """The real stage process prints its stacks shortly before its time limit."""
    text = """
import json, sys, time, types
from benchmarks.gpu import stage
def wait_for_nothing(context):
    time.sleep(60)
sys.modules["benchmarks.gpu.hang"] = types.SimpleNamespace(run=wait_for_nothing)
settings = dict(device="cpu", data=None, out="", seconds=2, deadline=time.time() + 2, scratch="")
sys.argv = ["stage", "hang", json.dumps(settings)]
stage.main()
"""
    log = tmp_path / "stderr"
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-c", text], cwd=ROOT, stderr=output)
    try:
        wait_until(lambda: "wait_for_nothing" in log.read_text())
    finally:
        process.kill()
        process.wait()


def limits(stages: tuple[str, ...], total: float, used: float = 1.0) -> dict[str, float]:
    """The time limits of stages that each use the share `used` of their limit."""
    result, left = {}, total
    for name in stages:
        result[name] = limit(name, stages, total, left)
        left -= used * result[name]
    return result


def test_stages_of_fixed_length_fit_into_three_minutes_and_the_nets_get_the_rest():
    full = limits(ALL, 600)
    assert sum(full[name] for name in STAGES) == pytest.approx(180)
    assert full[NETS] == pytest.approx(420)
    assert all(full[name] >= STAGES[name] / 2 for name in STAGES), "the first stages leave time for the last"
    half = limits(ALL, 600, used=0.5)
    assert [half[name] for name in STAGES] == pytest.approx([*STAGES.values()]), "unused time goes to later stages"
    assert half[NETS] == pytest.approx(600 - sum(STAGES.values()) / 2)


def test_the_nets_get_half_of_a_short_time():
    assert limits(ALL, 200)[NETS] == pytest.approx(100)


def test_without_nets_the_stages_share_all_the_time():
    assert limit("training", ("training",), 120, 120) == pytest.approx(120)
    two = ("machine", "training")
    assert sum(limits(two, 140).values()) == pytest.approx(140)
    assert limit("training", two, 140, 30) == pytest.approx(30), "no more than the remaining time"
    assert limit("training", two, 140, -1) == 0


def test_results_are_converted_to_json_values(context, tmp_path):
    context.record("a", {1: np.float32(0.5), "b": (torch.tensor(2.0), None, True, np.inf)})
    context.check("c", np.bool_(False), error=float("nan"))
    results = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert results == {"a": {"1": 0.5, "b": [2.0, None, True, "inf"]}, "c": {"passed": False, "error": "nan"}}
    assert 0 < context.left <= 1


def test_a_part_that_raises_is_a_failed_check_and_the_stage_continues(context, capsys):
    with context.attempt("a"):
        raise ValueError("line\nand line")
    with context.attempt("b"):
        context.record("b", 1)
    assert context.results == {"a": {"passed": False, "error": "ValueError: line and line"}, "b": 1}
    assert "Traceback" in capsys.readouterr().err
