"""A run's log: whole lines of JSON, the same whether or not the run was killed."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

import train.log
from alexnet_infer.errors import BackendError, UnreadableInputError, UsageError
from train.log import LOG_NAME, RunLog, read_log

ROOT = Path(__file__).parents[2]
STEPS, EPOCHS = 50, 3
"""With a record every 20 steps, an epoch has windows of 20, 20 and 10."""
FIGURES = ("loss", "top1_error", "lr", "grad_norm", "grad_norm_max")


def report(
    epoch: int,
    step: int,
    loss: float = 2.0,
    lr: float = 0.01,
    rate: float = 100.0,
    norm: float = 1.0,
    error: float = 0.5,
):
    """Return an object with the attributes of `train.step.StepReport`."""
    figures = {"loss": loss, "top1_error": error, "lr": lr, "images_per_second": rate, "grad_norm": norm}
    return SimpleNamespace(epoch=epoch, step=step, **figures)


def drawn(epoch: int, step: int):
    """Return a report whose figures depend only on epoch and step, like those of a resumed run."""
    rng = random.Random(1000 * epoch + step)
    figures = (rng.uniform(*ends) for ends in ((1, 7), (1e-4, 1e-1), (50, 90), (0, 5), (0, 1)))
    return report(epoch, step, *figures)


TRAINING = ("loss", "top1_error", "lr", "images_per_second", "grad_norm")
"""Figures of a window that TensorBoard shows."""


def state(epoch: int):
    """Return an object with the attributes of `train.checkpoint.RunState`."""
    errors = [1 / (1 + i) for i in range(epoch)]
    return SimpleNamespace(epoch=epoch, errors=errors, top5=[e / 2 for e in errors], seconds=12.5 * epoch)


def steps(log: RunLog, start: tuple[int, int], stop: tuple[int, int], checkpoints: set[tuple[int, int]] = frozenset()):
    """Log from `start` to `stop` as the trainer does: steps, epochs, and `flush` at checkpoints."""
    epoch, step = start
    while (epoch, step) < stop:
        step += 1
        log.on_step(drawn(epoch, step))
        if (epoch, step) in checkpoints:
            log.flush()
        if step == STEPS:
            epoch, step = epoch + 1, 0
            log.on_epoch(state(epoch))


def opened(folder: Path, at: tuple[int, int] = (0, 0), every: int = 20, **options) -> RunLog:
    log = RunLog(folder, STEPS, every=every, **options)
    log.start(at, {"seed": 0}, {"torch": "2"})
    return log


def written(folder: Path) -> list[dict]:
    """Return the records with all their fields, without `read_log`."""
    return [json.loads(line) for line in (folder / LOG_NAME).read_text().splitlines()]


def lasting(path: Path) -> list[dict]:
    """Return the records of steps and epochs without times. They must not depend on whether the run was killed."""
    records = [record for record in read_log(path) if record["event"] in ("step", "epoch")]
    return [{k: v for k, v in record.items() if k not in ("images_per_second", "seconds")} for record in records]


@pytest.fixture
def whole(tmp_path) -> list[dict]:
    """The records of an uninterrupted run."""
    (tmp_path / "whole").mkdir()
    log = opened(tmp_path / "whole")
    steps(log, (0, 0), (EPOCHS, 0))
    log.close("finished")
    return lasting(tmp_path / "whole")


# The contents of records.


def test_a_window_has_the_means_of_its_steps(tmp_path):
    log = opened(tmp_path, every=4)
    figures = [(6, 1, 5, 1.0), (5, 2, 100, 0.75), (4, 9, 50, 0.5), (1, 4, 100, 0.25)]
    for step, (loss, norm, rate, error) in enumerate(figures, 1):
        log.on_step(report(2, step, loss, 0.1 / step, rate, norm, error))
    _, record = read_log(tmp_path)
    assert record == {
        "event": "step",
        "epoch": 2,
        "step": 4,
        "steps": 4,
        "loss": 4.0,
        "top1_error": 0.625,
        "lr": 0.025,
        # Without the first step, which warms up: three batches of 100 images in 1 + 2 + 1 seconds.
        "images_per_second": pytest.approx(75),
        "grad_norm": 4.0,
        "grad_norm_max": 9,
    }


def test_windows_end_at_the_same_steps_of_each_epoch_and_have_every_step_once(whole):
    ends = [(r["epoch"], r["step"], r["steps"]) for r in whole if r["event"] == "step"]
    assert ends == [(e, *end) for e in range(EPOCHS) for end in ((20, 20), (40, 20), (50, 10))]
    mean = sum(r["loss"] * r["steps"] for r in whole if r["event"] == "step") / (EPOCHS * STEPS)
    losses = [drawn(e, s + 1).loss for e in range(EPOCHS) for s in range(STEPS)]
    assert mean == pytest.approx(sum(losses) / len(losses))


def test_the_training_error_of_a_log_that_does_not_have_it_is_null(tmp_path):
    """Earlier versions did not log it, and their runs can be resumed."""
    log = opened(tmp_path)
    steps(log, (0, 0), (1, 0))
    records = [{name: value for name, value in r.items() if name != "top1_error"} for r in written(tmp_path)[:-1]]
    (tmp_path / LOG_NAME).write_text("".join(json.dumps(record) + "\n" for record in records))
    assert [r["top1_error"] for r in read_log(tmp_path) if r["event"] == "step"] == [None] * 3
    steps(opened(tmp_path, (0, 40)), (0, 40), (1, 0))
    assert [r["top1_error"] is None for r in read_log(tmp_path) if r["event"] == "step"] == [True, True, False]


def test_an_epoch_has_the_latest_errors_after_its_last_window(tmp_path):
    log = opened(tmp_path)
    steps(log, (0, 0), (2, 0))
    *_, before, last = read_log(tmp_path)
    assert (before["event"], before["epoch"], before["step"]) == ("step", 1, STEPS)
    assert last == {"event": "epoch", "epoch": 2, "top1_error": 0.5, "top5_error": 0.25, "seconds": 25.0}


def test_start_and_end_have_position_time_and_settings(tmp_path):
    before = datetime.now(UTC).replace(microsecond=0)
    log = opened(tmp_path, at=(1, 7))
    steps(log, (1, 7), (1, 9))
    log.close("time limit")
    start, step, end = written(tmp_path)
    assert before <= datetime.fromisoformat(start.pop("time")) <= datetime.fromisoformat(end.pop("time"))
    place = {"epoch": 1, "step": 7, "steps_per_epoch": STEPS}
    assert start == {"event": "start", **place, "config": {"seed": 0}, "software": {"torch": "2"}}
    assert (step["step"], step["steps"]) == (9, 2)
    assert end == {"event": "end", "epoch": 1, "step": 9, "reason": "time limit"}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_figures_that_are_not_finite_are_null(tmp_path, bad):
    log = RunLog(tmp_path, STEPS, every=2)
    log.start((0, 0), {"recipe": {"lr": bad, "sizes": [1.5, bad]}}, {})
    for step, norm in ((1, bad), (2, 3.0), (3, 3.0), (4, bad), (5, 3.0), (6, 5.0)):
        log.on_step(report(0, step, norm=norm))
    start, *windows = written(tmp_path)
    assert start["config"] == {"recipe": {"lr": None, "sizes": [1.5, None]}}
    assert [(w["grad_norm"], w["grad_norm_max"]) for w in windows] == [(None, None), (None, None), (4.0, 5.0)]
    assert [w["loss"] for w in windows] == [2.0] * 3
    assert not any(word in (tmp_path / LOG_NAME).read_text() for word in ("NaN", "Infinity"))


def test_the_speed_of_a_window_with_only_the_first_step_is_null(tmp_path):
    log = opened(tmp_path, every=1)
    log.on_step(report(0, 1, rate=0.1))
    log.on_step(report(0, 2, rate=80.0))
    assert [r["images_per_second"] for r in read_log(tmp_path)[1:]] == [None, pytest.approx(80)]


def test_each_record_is_in_the_file_as_a_whole_line_when_the_call_returns(tmp_path):
    log = opened(tmp_path, every=1)
    for step in range(1, 4):
        log.on_step(drawn(0, step))
        *lines, rest = (tmp_path / LOG_NAME).read_bytes().split(b"\n")
        assert len(lines) == 1 + step
        assert rest == b""
        assert all(isinstance(json.loads(line), dict) for line in lines)


def test_nothing_is_written_before_the_start_or_after_the_end(tmp_path):
    log = RunLog(tmp_path, STEPS, every=1)
    log.close("failed")
    assert not (tmp_path / LOG_NAME).exists()
    log.start((0, 0), {}, {})
    log.close("finished")
    before = (tmp_path / LOG_NAME).read_bytes()
    log.on_step(drawn(0, 1))
    log.close("finished")
    assert (tmp_path / LOG_NAME).read_bytes() == before


def test_a_record_every_zero_steps_is_refused(tmp_path):
    with pytest.raises(UsageError, match="every 0 steps: expected 1 or more"):
        RunLog(tmp_path, STEPS, every=0)


# Killed runs.


@pytest.mark.parametrize("torn", [0, 1, 17, 1000])
@pytest.mark.parametrize(
    ("killed", "at"), [((1, 33), (1, 20)), ((2, 41), (1, 0)), ((1, 15), (1, 0)), ((0, 45), (0, 0))]
)
def test_a_run_resumed_after_a_torn_line_has_the_log_of_an_uninterrupted_one(tmp_path, whole, killed, at, torn):
    steps(opened(tmp_path), (0, 0), killed)
    path = tmp_path / LOG_NAME
    line = json.dumps({"event": "step", "epoch": 1, "note": "x" * 1000}).encode()
    path.write_bytes(path.read_bytes() + line[:torn])
    log = opened(tmp_path, at)
    assert lasting(tmp_path) == [r for r in whole if (r["epoch"], r.get("step", 0)) <= at]
    steps(log, at, (EPOCHS, 0))
    log.close("finished")
    assert lasting(tmp_path) == whole


def test_with_a_flush_a_run_resumed_within_a_window_has_the_same_log(tmp_path):
    checkpoints = {(0, 33), (1, 7), (1, 20), (2, 49)}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    steps(opened(tmp_path / "whole"), (0, 0), (EPOCHS, 0), checkpoints)
    at = (0, 0)
    for killed, last in (((0, 39), (0, 33)), ((1, 19), (1, 7)), ((1, 50), (1, 20))):
        steps(opened(tmp_path / "killed", at), at, killed, checkpoints)
        at = last
    steps(opened(tmp_path / "killed", at), at, (EPOCHS, 0), checkpoints)
    assert lasting(tmp_path / "killed") == lasting(tmp_path / "whole")
    assert (0, 33, 13) in [(r["epoch"], r.get("step"), r.get("steps")) for r in lasting(tmp_path / "killed")]


def test_a_resumed_run_keeps_earlier_starts_and_ends(tmp_path):
    log = opened(tmp_path)
    steps(log, (0, 0), (1, 20))
    log.close("interrupted")
    steps(opened(tmp_path, (1, 20)), (1, 20), (2, 10))
    opened(tmp_path, (1, 20))
    events = [(r["event"], r["epoch"], r["step"]) for r in read_log(tmp_path) if r["event"] in ("start", "end")]
    assert events == [("start", 0, 0), ("end", 1, 20), ("start", 1, 20), ("start", 1, 20)]


def test_a_process_killed_while_it_writes_leaves_whole_lines_and_at_most_one_torn(tmp_path):
    code = (
        "import sys; from types import SimpleNamespace as R; from pathlib import Path; from train.log import RunLog\n"
        "log = RunLog(Path(sys.argv[1]), 10**9, every=1); log.start((0, 0), {}, {}); step = 0\n"
        "while True:\n"
        "    step += 1; log.on_step(R(epoch=0, step=step, loss=1.0, top1_error=1.0, lr=1.0,"
        " images_per_second=1.0, grad_norm=1.0))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT) as process:
        path, deadline = tmp_path / LOG_NAME, time.monotonic() + 60
        while (not path.exists() or path.stat().st_size < 20_000) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    records = read_log(tmp_path)
    assert len(records) > 50
    assert [r["step"] for r in records] == list(range(len(records)))


def test_a_log_without_later_records_is_not_rewritten(tmp_path):
    steps(opened(tmp_path), (0, 0), (1, 0))
    before = (tmp_path / LOG_NAME).stat().st_ino
    opened(tmp_path, (1, 0))
    assert (tmp_path / LOG_NAME).stat().st_ino == before


# Logs that can't be written.


def test_a_full_disk_is_a_one_line_error_and_leaves_a_readable_log(tmp_path):
    resource = pytest.importorskip("resource")
    log = opened(tmp_path, every=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # larger writes fail, as on a full disk
    try:
        with pytest.raises(
            UsageError, match=r"log\.jsonl: can't be written \(File too large\); free some space"
        ) as caught:
            steps(log, (0, 0), (0, 50))
        log.close("failed")  # raises nothing
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(caught.value)
    assert (tmp_path / LOG_NAME).stat().st_size == 1000  # so the last line is torn
    written = [r["step"] for r in read_log(tmp_path)]
    assert len(written) > 2
    assert written == list(range(len(written)))
    steps(opened(tmp_path, (0, 2), every=1), (0, 2), (0, 5))
    assert [r["step"] for r in lasting(tmp_path)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("where", ["absent", "file/inside"])
def test_a_log_that_cannot_be_opened_is_a_one_line_error(tmp_path, where):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"log\.jsonl: can't be written \(.*\); change --out"):
        opened(tmp_path / where)


# Reading.


LINE = '{"event": "epoch", "epoch": 1, "top1_error": 0.5, "top5_error": 0.25, "seconds": 1}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "Expecting value"),
        (LINE[:-9], "line 3"),
        ("[1]", "expected an object with an event name"),
        ('{"epoch": 1}', "expected an object with an event name"),
        (LINE.replace("0.25", "NaN"), "NaN is not a JSON number"),
        (LINE.replace("0.25", "1e999"), "top5_error=inf: expected a number from -1e+300 to 1e+300 or null"),
        (LINE.replace("0.25", '"much\\n"'), r"top5_error='much\n': expected"),
        (LINE.replace("0.25", "1" * 400), "top5_error=1111"),
        (LINE.replace("0.25", "1" * 5000), "line 3"),
        (LINE.replace(', "seconds": 1', ""), "missing field: seconds"),
        (LINE.replace('"epoch": 1', '"epoch": true'), "epoch=True: expected a whole number from 0"),
        (LINE.replace('"epoch": 1', '"epoch": -1'), "epoch=-1: expected"),
        (
            '{"event": "start", "epoch": 0, "step": 0, "steps_per_epoch": 0}',
            "steps_per_epoch=0: expected a whole number from 1",
        ),
        ('{"event": "note", "epoch": "x"}', "epoch='x': expected"),
        ("[" * 100_000, "line 3"),
        ("\udcff", "line 3"),
    ],
    ids=lambda text: text[-30:],
)
def test_an_invalid_line_before_the_end_is_refused_with_its_number(tmp_path, line, message):
    path = tmp_path / LOG_NAME
    path.write_bytes(f"{LINE}\n{LINE}\n{line}\n{LINE}\n".encode(errors="surrogateescape"))
    for read in (read_log, opened):
        with pytest.raises(UnreadableInputError, match=r"log\.jsonl: line 3 is not a record of a run") as caught:
            read(tmp_path)
        assert message in str(caught.value)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500


def test_an_invalid_last_line_is_refused_if_it_is_complete(tmp_path):
    (tmp_path / LOG_NAME).write_text(f"{LINE}\n{LINE[:-9]}\n")
    with pytest.raises(UnreadableInputError, match="line 2 is not a record"):
        read_log(tmp_path)


def test_a_last_line_that_only_lacks_its_newline_is_kept(tmp_path):
    (tmp_path / LOG_NAME).write_text(f"{LINE}\n{LINE}")
    assert len(read_log(tmp_path)) == 2
    opened(tmp_path, (1, 0))
    assert [r["event"] for r in read_log(tmp_path)] == ["epoch", "epoch", "start"]


def test_unknown_events_are_returned(tmp_path):
    (tmp_path / LOG_NAME).write_text(f'{{"event": "note", "text": "hello"}}\n{LINE}\n')
    assert [r["event"] for r in read_log(tmp_path)] == ["note", "epoch"]


def test_a_resumed_run_keeps_lines_as_they_are(tmp_path):
    kept = f'{{"event":"note", "deep": {"[" * 900}{"]" * 900}}}\n{LINE}\n'
    (tmp_path / LOG_NAME).write_text(f"{kept}{LINE.replace('1', '2', 1)}\n")
    opened(tmp_path, (1, 0))
    assert (tmp_path / LOG_NAME).read_text().startswith(kept)
    assert len(read_log(tmp_path)) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
@pytest.mark.parametrize("kind", ["pipe", "device", "sparse"])
def test_only_a_regular_file_of_a_possible_size_is_read(tmp_path, kind):
    path = tmp_path / LOG_NAME
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_text(f"{LINE}\n")
        os.truncate(path, 2**43)
    for read in (read_log, opened):
        with pytest.raises(
            UnreadableInputError, match=r"log\.jsonl: (is not a regular file|has [\d,]+ bytes: expected)"
        ):
            read(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"event":"x"}\n' * 1001, r"has more than 1,000 lines; expected the log of a run; move it away"),
        (f'{LINE}\n{{"event":"x","a":[{"[]," * 400_000}[]]}}\n', r"line 2 .*has 1,200,0\d\d bytes: expected at most"),
    ],
    ids=["lines", "a line"],
)
def test_a_log_of_too_many_small_values_is_refused(tmp_path, monkeypatch, text, message):
    monkeypatch.setattr(train.log, "_MAX_RECORDS", 1000)
    (tmp_path / LOG_NAME).write_text(text)
    for read in (read_log, opened):
        with pytest.raises(UnreadableInputError, match=message):
            read(tmp_path)


def test_only_the_figures_of_a_record_are_kept(tmp_path):
    (tmp_path / LOG_NAME).write_text(f'{{"event": "x", "step": 3, "a": [1]}}\n{LINE[:-1]}, "b": 1}}\n')
    assert read_log(tmp_path) == [{"event": "x", "step": 3}, json.loads(LINE)]


def test_a_log_that_grows_while_it_is_read_is_read_as_it_was(tmp_path, monkeypatch):
    log = opened(tmp_path, every=1)
    log.on_step(drawn(0, 1))
    fstat, step = os.fstat, iter(range(2, 50))

    def grown(descriptor: int) -> os.stat_result:
        status = fstat(descriptor)
        for _ in range(40):
            log.on_step(drawn(0, next(step)))
        return status

    with monkeypatch.context() as patched:
        patched.setattr(train.log, "os", SimpleNamespace(fstat=grown))
        records = read_log(tmp_path)
    assert [record["step"] for record in records] == [0, 1]
    assert len(read_log(tmp_path)) == 42


def test_a_log_is_not_appended_to_through_a_link(tmp_path):
    other = tmp_path / "other"
    (tmp_path / LOG_NAME).symlink_to(other)
    with pytest.raises(UsageError, match=r"log\.jsonl: can't be written \(.*not a regular file\)"):
        opened(tmp_path)
    assert not other.exists()


def test_a_log_is_read_by_its_folder_or_its_path(tmp_path):
    (tmp_path / LOG_NAME).write_text(f"{LINE}\n")
    (tmp_path / LOG_NAME).rename(tmp_path / "old")
    assert read_log(tmp_path / "old") == [json.loads(LINE)]
    with pytest.raises(UnreadableInputError, match=r"has no log\.jsonl; expected a folder"):
        read_log(tmp_path)
    with pytest.raises(UnreadableInputError, match=r"absent: not found; expected a folder"):
        read_log(tmp_path / "absent")


def test_a_log_that_cannot_be_read_is_a_one_line_error(tmp_path):
    (tmp_path / LOG_NAME).mkdir()
    with pytest.raises(UnreadableInputError, match=r"log\.jsonl: can't be read \(Is a directory\)"):
        read_log(tmp_path)


# TensorBoard.


def read_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def expected_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the log's figures with the names and the precision of TensorBoard."""
    expected: dict[str, list[tuple[int, float]]] = {}
    for r in read_log(folder):
        names = {"step": TRAINING, "epoch": ("top1_error", "top5_error")}
        group = {"step": "train", "epoch": "validation"}.get(r["event"])
        for name in names.get(r["event"], ()):
            if r[name] is not None:
                step = r["epoch"] * STEPS + r.get("step", 0)
                expected.setdefault(f"{group}/{name}", []).append((step, pytest.approx(r[name], rel=1e-6)))
    return expected


def test_events_have_the_figures_of_the_log_even_in_a_resumed_run(tmp_path):
    pytest.importorskip("tensorboard")
    killed = opened(tmp_path, tensorboard=tmp_path / "events")
    steps(killed, (0, 0), (1, 45))
    assert read_events(tmp_path / "events") == expected_events(tmp_path)
    assert len(read_events(tmp_path / "events")["train/loss"]) == 5
    (first,) = (tmp_path / "events").iterdir()
    first.rename(first.with_name(first.name.replace("tfevents.", "tfevents.0")))  # an earlier run's file sorts first
    log = opened(tmp_path, (1, 20), tensorboard=tmp_path / "events")
    steps(log, (1, 20), (EPOCHS, 0))
    log.close("finished")
    assert read_events(tmp_path / "events") == expected_events(tmp_path)
    assert set(expected_events(tmp_path)) == {
        *(f"train/{name}" for name in TRAINING),
        *(f"validation/{name}" for name in ("top1_error", "top5_error")),
    }
    assert [step for step, _ in read_events(tmp_path / "events")["validation/top1_error"]] == [50, 100, 150]


def test_a_figure_that_is_not_finite_has_no_event(tmp_path):
    pytest.importorskip("tensorboard")
    log = opened(tmp_path, every=1, tensorboard=tmp_path / "events")
    for step, norm in enumerate((1.0, math.nan, 2.0), 1):
        log.on_step(report(0, step, norm=norm))
    events = read_events(tmp_path / "events")
    assert events["train/grad_norm"] == [(1, 1.0), (3, 2.0)]
    assert [step for step, _ in events["train/loss"]] == [1, 2, 3]


def test_an_events_folder_that_cannot_be_made_is_a_one_line_error(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"inside: can't be written \(.*\); change --out, or leave out --tensorboard"):
        opened(tmp_path, tensorboard=tmp_path / "file" / "inside")


def test_without_tensorboard_the_message_has_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(BackendError, match=r'--tensorboard needs .*: pip install "alexnet-infer\[tensorboard\]"'):
        RunLog(tmp_path, STEPS, tensorboard=tmp_path / "events")
    opened(tmp_path)  # without events, the package is not needed


def test_log_and_plot_start_without_torch_matplotlib_and_tensorboard():
    code = "import sys, train.log, train.plot; print({'torch', 'matplotlib', 'tensorboard'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
