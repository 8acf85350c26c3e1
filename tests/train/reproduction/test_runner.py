"""The order of runs, their failures and interruptions, with stand-ins for the trainer and the measurement."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

from alexnet_infer.errors import StoppedError, UsageError
from tests.train.reproduction.made import VALIDATION, Folder, both, made, mask
from tests.train.toys import silent
from train.reproduction import runner
from train.reproduction.plan import Mean, Task, Training
from train.reproduction.record import Data, Result
from train.reproduction.request import Workplace
from train.reproduction.runner import Runner, UnfinishedError
from train.reproduction.signals import stopped_by_signals

HERE = Data(train={"images": 1000}, validation=VALIDATION)
PAPER, SIX, TUNED = (Training("quarter", run, 0) for run in ("paper", "six-first", "six-tuned"))

WAITS_FOR_SIGINT = """
import signal, sys, time
count = 0
def pressed(number, frame):
    global count
    count += 1
signal.signal(signal.SIGINT, pressed)
print("ready", flush=True)
while not count:
    signal.pause()
for _ in range(20):
    time.sleep(0.01)  # as if writing a checkpoint
print("interrupted", count, flush=True)
"""


class Scripted(Runner):
    """A runner that does `actions[task]` instead of training and measuring, by default nothing but a result."""

    def __init__(
        self, folder: Folder, work: Path, actions: dict[Task, Callable[[Runner], None]], jobs: int = 1
    ) -> None:
        where = Workplace(data=work / "data", work=work, device="cpu", jobs=jobs)
        super().__init__(folder.results, where, silent())
        self.actions, self.began = actions, []

    def _set(self, part):
        return part

    def _run(self, task: Task) -> Result:
        self.began.append(task)
        self.actions.get(task, lambda _: None)(self)
        return made(task, both(mask([1])))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Folder:
    monkeypatch.setattr(runner, "data_of", lambda packed: HERE)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)
    return Folder(tmp_path / "results")


def fails(error: Exception) -> Callable[[Runner], None]:
    def action(_: Runner) -> None:
        raise error

    return action


def recorded(folder: Folder) -> set[str]:
    return {path.stem for path in folder.path.rglob("*.json")}


def test_tasks_run_in_order_and_after_those_that_they_are_made_from(folder, tmp_path):
    job = Scripted(folder, tmp_path, {}, jobs=4)
    outcome = job.run([TUNED, SIX, PAPER])
    assert {*outcome.done} == {PAPER, SIX, TUNED}
    assert job.began.index(SIX) < job.began.index(TUNED)
    assert recorded(folder) == {"paper-0", "six-first-0", "six-tuned-0"}
    assert (outcome.stopped, outcome.failed) == ([], {})


@pytest.mark.parametrize("error", [UsageError("no disk"), ValueError("a\nbug"), OSError(28, "No space left")])
def test_a_failure_of_any_kind_is_one_line_and_only_what_is_made_from_it_fails_too(folder, tmp_path, error):
    job = Scripted(folder, tmp_path, {SIX: fails(error)})
    outcome = job.run([SIX, TUNED, PAPER])
    assert outcome.done == [PAPER]
    assert recorded(folder) == {"paper-0"}
    assert outcome.failed[TUNED] == "quarter/six-first-0 failed"
    assert "\n" not in outcome.failed[SIX]
    assert ("ValueError: " in outcome.failed[SIX]) == (type(error) is ValueError)


def test_a_result_that_can_not_be_written_is_a_failure_of_its_run(folder, tmp_path, monkeypatch):
    job = Scripted(folder, tmp_path, {})
    monkeypatch.setattr("train.reproduction.record.write_atomically", lambda *_: (_ for _ in ()).throw(OSError("full")))
    assert job.run([PAPER]).failed == {PAPER: "OSError: full"}


def test_what_is_made_from_a_stopped_run_is_left(folder, tmp_path):
    job = Scripted(folder, tmp_path, {SIX: fails(UnfinishedError("the time limit stopped it"))})
    outcome = job.run([SIX, TUNED, PAPER])
    assert outcome.stopped == [SIX, TUNED]
    assert outcome.done == [PAPER]


def test_after_the_time_limit_nothing_starts(folder, tmp_path):
    job = Scripted(folder, tmp_path, {})
    job.until = -math.inf
    assert job.run([PAPER, SIX]).stopped == [PAPER, SIX]
    assert job.began == []


def test_ctrl_c_gives_each_run_one_sigint_waits_for_its_end_and_keeps_results(folder, tmp_path, monkeypatch):
    outputs = {task: tmp_path / f"{task.run}.txt" for task in (PAPER, SIX)}

    def wait_for_sigint(task: Task) -> Callable[[Runner], None]:
        def action(job: Runner) -> None:
            job._process([sys.executable, "-c", WAITS_FOR_SIGINT], outputs[task])

        return action

    @contextmanager
    def pressed_when_ready(display: object) -> Iterator[Callable[[object], None]]:
        def watch(running: object) -> None:
            if done.done and all(path.is_file() and "\nready\n" in path.read_text() for path in outputs.values()):
                raise KeyboardInterrupt

        yield watch

    class Noting(Scripted):
        def _end(self, task, future, outcome) -> None:
            super()._end(task, future, outcome)
            done.done = outcome.done

    done = runner.Outcome()
    monkeypatch.setattr(runner, "watching", pressed_when_ready)
    quick = Training("quarter", "no-lrn", 0)
    job = Noting(folder, tmp_path, {task: wait_for_sigint(task) for task in outputs}, jobs=3)
    with pytest.raises(StoppedError, match="run the same command again to continue"):
        job.run([quick, *outputs])
    for path in outputs.values():
        assert path.read_text().splitlines()[-2:] == ["ready", "interrupted 1"]
    assert recorded(folder) == {"no-lrn-0"}


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_sigterm_and_sighup_stop_as_ctrl_c_does(folder, tmp_path, name):
    def send(_: Runner) -> None:
        os.kill(os.getpid(), getattr(signal, name))

    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # it may have been ignored, as under nohup
    try:
        with pytest.raises(StoppedError):
            Scripted(folder, tmp_path, {PAPER: send}).run([PAPER, SIX])
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert recorded(folder) <= {"paper-0"}


def test_a_second_signal_does_not_disturb_the_end(folder, tmp_path, monkeypatch):
    class Twice(Scripted):
        def _interrupt(self) -> None:
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(os.getpid(), number)
            super()._interrupt()

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(StoppedError):
        Twice(folder, tmp_path, {PAPER: lambda _: os.kill(os.getpid(), signal.SIGTERM)}).run([PAPER])
    assert signal.getsignal(signal.SIGINT) == handler
    assert recorded(folder) <= {"paper-0"}


def test_a_work_folder_that_is_in_use_is_refused(folder, tmp_path):
    def again(_: Runner) -> None:
        with pytest.raises(UsageError, match=r"--work .*: another `reproduce` is using it; wait"):
            Scripted(folder, tmp_path, {}).run([SIX])

    assert Scripted(folder, tmp_path, {PAPER: again}).run([PAPER]).done == [PAPER]


def test_no_run_starts_once_the_others_are_being_stopped(folder, tmp_path):
    job = Scripted(folder, tmp_path, {})
    job._interrupt()
    with pytest.raises(UnfinishedError):
        job._process([sys.executable, "-c", "print('started')"], tmp_path / "output.txt")
    assert "started\n" not in (tmp_path / "output.txt").read_text()


def test_the_last_line_of_a_failed_run_is_its_message(folder, tmp_path):
    job = Scripted(folder, tmp_path, {})
    code = "import sys; print('one'); print('error: two', file=sys.stderr); sys.exit(3)"
    assert job._process([sys.executable, "-c", code], tmp_path / "output.txt").endswith("error: two")
    assert job._process([sys.executable, "-c", ""], tmp_path / "output.txt") is None


def test_a_net_whose_file_is_gone_is_trained_again_before_what_starts_from_it(folder, tmp_path):
    folder.add(SIX, both(mask([1])))
    job = Scripted(folder, tmp_path, {})
    assert job.run([TUNED]).done == [SIX, TUNED]
    net = tmp_path / "quarter" / "six-first-1" / "alexnet-64.safetensors"
    net.parent.mkdir(parents=True)
    net.write_bytes(b"a net")
    start = Training("quarter", "six-first", 1)
    folder.add(start, both(mask([1])))
    assert Scripted(folder, tmp_path, {}).run([Training("quarter", "six-tuned", 1)]).done[0].run == "six-tuned"


@pytest.mark.parametrize("split", ["train", "validation"])
def test_another_data_set_than_that_of_the_results_is_refused_before_anything_runs(folder, tmp_path, split):
    other = {"train": HERE.train, "validation": HERE.validation} | {split: {"images": 40, "sha256": "0"}}
    folder.add(Training("quarter", "no-lrn", 1), both(mask([1])), data=Data(**other))
    job = Scripted(folder, tmp_path, {})
    with pytest.raises(UsageError, match=r"--data .*: .*no-lrn-1\.json is of other images; .* another --results"):
        job.run([PAPER])
    assert job.began == []
    assert job.run([SIX]).done == [SIX], "another part of the data"


def test_the_nets_of_a_mean_are_needed_only_if_they_are_trained(folder, tmp_path):
    job = Scripted(folder, tmp_path, {})
    assert job.run([Mean("bundled")]).done == [Mean("bundled")]
    assert job.began == [Mean("bundled")]


def test_runs_can_be_stopped_even_if_a_script_started_the_command_in_the_background():
    """A shell makes background commands of a script ignore SIGINT, and programs inherit that."""
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopped_by_signals():
            os.kill(os.getpid(), signal.SIGINT)  # is still ignored
            child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (child.stdout, child.returncode) == ("True\n", 0), child.stderr
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
