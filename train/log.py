"""What a run leaves to be read later: `log.jsonl` in its folder, a record a line, and TensorBoard's events."""

from __future__ import annotations

import json
import math
import statistics
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from alexnet_infer.errors import BackendError, UnreadableInputError, UsageError, one_line, shown
from alexnet_infer.files import write_atomically

if TYPE_CHECKING:
    from train.checkpoint import RunState
    from train.step import StepReport

LOG_NAME = "log.jsonl"

_COUNTS = ("epoch", "step", "steps", "steps_per_epoch")
_FIGURES = ("loss", "lr", "images_per_second", "grad_norm", "grad_norm_max")
_FIELDS = {
    "start": ("epoch", "step", "steps_per_epoch"),
    "step": ("epoch", "step", "steps", *_FIGURES),
    "epoch": ("epoch", "top1_error", "top5_error", "seconds"),
    "end": ("epoch", "step"),
}


class RunLog:
    """Writes a run's log; `on_step` and `on_epoch` are what `Trainer.run` calls.

    Every record has an `event`:

    - start: where the run begins or goes on (`epoch`, `step`), `steps_per_epoch`, `time`, `config`, `software`.
    - step: a window of `steps` steps, of which the last is `step` (from 1) of the epoch after `epoch` completed ones.
      `loss` and `grad_norm` are means over it, `grad_norm_max` the largest, `images_per_second` all its images by all
      its time, `lr` that of the last step. Windows end at each multiple of `every`, at `flush` and with the epoch.
    - epoch: after `epoch` completed ones, `top1_error` and `top5_error` (0..1), `seconds` spent in training.
    - end: where the run stopped (`epoch`, `step`), `time`, `reason`.

    A figure that is no number (NaN, infinite, or not measured) is null. Whatever is written is whole lines, and on its
    way to the disk when the call returns. Before `start` and after `close` nothing is written.

    Call `flush` before each checkpoint: a run that goes on from there then has lost no step of its log.

    Raises UsageError when a log can't be written (after that nothing more is), and BackendError when `tensorboard`, a
    folder for the same figures as events, is given without the package.
    """

    def __init__(self, folder: Path, steps_per_epoch: int, *, every: int = 20, tensorboard: Path | None = None) -> None:
        if every < 1:
            raise UsageError(f"a log record every {every} steps: expected 1 or more")
        self.path, self.steps_per_epoch, self.every = folder / LOG_NAME, steps_per_epoch, every
        self._events = _Events(tensorboard) if tensorboard else None
        self._started = False
        self._window: list[StepReport] = []
        self._at = (0, 0)
        self._warm = False

    def start(self, at: tuple[int, int], config: dict[str, Any], software: dict[str, Any]) -> None:
        """Opens the log of a run that stands `at` (epochs completed, steps completed in the next one).

        What an earlier attempt logged beyond that is dropped, because those steps are run again. Raises
        UnreadableInputError when there is a log that can't be read.
        """
        self._at = at
        try:
            if self.path.exists():
                kept = b"".join(_line(record) for record in read_log(self.path) if position(record) <= at)
                if kept != self.path.read_bytes():
                    write_atomically(self.path, kept)
        except OSError as error:
            raise _unwritable(self.path, error, "--out") from None
        if self._events:
            try:
                self._events.open(after=self._global_step(*at))
            except OSError as error:
                raise self._events.unwritable(error) from None
        self._started = True
        epoch, step = at
        where = {"epoch": epoch, "step": step, "steps_per_epoch": self.steps_per_epoch}
        self._write({"event": "start", "time": _now(), **where, "config": config, "software": software})

    def on_step(self, report: StepReport) -> None:
        self._at = (report.epoch, report.step)
        self._window.append(report)
        if report.step % self.every == 0:
            self.flush()

    def on_epoch(self, state: RunState) -> None:
        self.flush()
        self._at = (state.epoch, 0)
        errors = {"top1_error": state.errors[-1], "top5_error": state.top5[-1]}
        self._write({"event": "epoch", "epoch": state.epoch, **errors, "seconds": state.seconds})
        self._draw("validation", errors)

    def flush(self) -> None:
        """Ends the window here, where it has any steps."""
        if not self._window:
            return
        window, self._window = self._window, []
        norms = [report.grad_norm for report in window]
        # The first step warms up and may compile: no measure of the others.
        timed = window if self._warm else window[1:]
        self._warm = True
        epoch, step = self._at
        figures = {
            "loss": _mean([report.loss for report in window]),
            "lr": window[-1].lr,
            "images_per_second": _mean_rate([report.images_per_second for report in timed]),
            "grad_norm": _mean(norms),
            "grad_norm_max": max(norms) if _mean(norms) is not None else None,
        }
        self._write({"event": "step", "epoch": epoch, "step": step, "steps": len(window), **figures})
        self._draw("train", {name: figures[name] for name in figures if name != "grad_norm_max"})

    def close(self, reason: str) -> None:
        """Ends the log: "finished", "interrupted", "time limit", "diverged" or what else the reason was."""
        self.flush()
        epoch, step = self._at
        self._write({"event": "end", "time": _now(), "epoch": epoch, "step": step, "reason": reason})
        if self._started and self._events:
            self._events.close()  # has nothing left to write
        self._started = False

    def _global_step(self, epoch: int, step: int) -> int:
        return epoch * self.steps_per_epoch + step

    def _write(self, record: dict[str, Any]) -> None:
        if not self._started:
            return
        try:
            with self.path.open("ab") as file:
                file.write(_line(record))
        except OSError as error:
            self._started = False  # half a line may stand there now: readers and the next `start` know to drop it
            raise _unwritable(self.path, error, "--out") from None

    def _draw(self, group: str, figures: dict[str, float | None]) -> None:
        if self._started and self._events:
            try:
                self._events.add(group, figures, self._global_step(*self._at))
            except OSError as error:
                events, self._events = self._events, None
                raise events.unwritable(error) from None


class _Events:
    """The same figures for TensorBoard, at the number of steps since the run's start; those that are null are left
    out. The methods raise OSError."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise BackendError(
                '--tensorboard needs the tensorboard package: pip install "alexnet-infer[tensorboard]"'
            ) from None
        self.folder, self._make, self._writer = folder, SummaryWriter, None

    def open(self, after: int) -> None:
        """Events that an earlier attempt left beyond step `after` are hidden."""
        self._writer = self._make(self.folder, purge_step=after + 1)

    def add(self, group: str, figures: dict[str, float | None], step: int) -> None:
        for name, value in figures.items():
            if value is not None and math.isfinite(value):
                self._writer.add_scalar(f"{group}/{name}", value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def unwritable(self, error: OSError) -> UsageError:
        return _unwritable(self.folder, error, "--tensorboard")


def read_log(run: Path) -> list[dict[str, Any]]:
    """The records of a run, given its folder or its log, in the order they were written.

    The last line may be torn, as a killed process leaves it; it is left out. Raises UnreadableInputError when there is
    no log or any other line is not a record that `RunLog` writes, naming its number (from 1). Events of other names
    are passed on unchecked.
    """
    path = run / LOG_NAME if run.is_dir() else run
    try:
        *lines, last = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        what = f"has no {LOG_NAME}" if run.is_dir() else "not found"
        raise UnreadableInputError(f"{run}: {what}; expected a folder that python -m train has written") from None
    except OSError as error:
        raise UnreadableInputError(f"{path}: can't be read ({error.strerror or error})") from None
    with suppress(ValueError, RecursionError):
        lines += [last] if _parsed(last) else []
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(_checked(_parsed(line)))
        except (ValueError, RecursionError) as error:
            raise UnreadableInputError(
                f"{path}: line {number} is no record of a run ({one_line(error)}); remove that line"
            ) from None
    return records


def position(record: dict[str, Any]) -> tuple[int, int]:
    """(epochs completed, steps completed in the next one) when `record` was written; records are in this order."""
    return record.get("epoch", 0), record.get("step", 0)


def _parsed(line: bytes) -> Any:
    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    return json.loads(line.decode("utf-8"), parse_constant=refuse)


def _checked(record: Any) -> dict[str, Any]:
    """`record`, when its event has the fields that it should have. Raises ValueError for others."""
    if not isinstance(record, dict) or not isinstance(record.get("event"), str):
        raise ValueError("expected an object with the name of an event")
    for name in _FIELDS.get(record["event"], [name for name in ("epoch", "step") if name in record]):
        value, least = record.get(name), int(name in ("steps", "steps_per_epoch"))
        if name in _COUNTS:
            fine = type(value) is int and least <= value < 2**53
        else:
            fine = name in record and (value is None or (type(value) in (int, float) and abs(value) < 1e300))
        if not fine:
            raise ValueError(f"{name} is {shown(value)}")
    return record


def _line(record: dict[str, Any]) -> bytes:
    return (json.dumps(_without_nan(record), allow_nan=False) + "\n").encode()


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if all(map(math.isfinite, values)) else None


def _mean_rate(rates: list[float]) -> float | None:
    """Of equal batches at these rates: all images by all time."""
    if not rates or not all(0 < rate < math.inf for rate in rates):
        return None
    return statistics.harmonic_mean(rates)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _unwritable(path: Path, error: OSError, option: str) -> UsageError:
    return UsageError(f"{path}: can't be written ({error.strerror or error}); free some space, or change {option}")
