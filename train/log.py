"""The log of a run: `log.jsonl` in its folder, with one JSON record per line, and TensorBoard events."""

from __future__ import annotations

import io
import json
import math
import os
import statistics
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from alexnet_infer import strict_json
from alexnet_infer.errors import SpecError, UnreadableInputError, UsageError, one_line
from alexnet_infer.files import open_regular, open_to_append, write_atomically, writing
from alexnet_infer.packages import missing_package

if TYPE_CHECKING:
    from train.checkpoint import RunState
    from train.step import StepReport

LOG_NAME = "log.jsonl"

_MAX_LOG, _MAX_RECORDS, _MAX_LINE = 2**26, 2**18, 2**20
"""In bytes, lines and bytes. 90 epochs of ImageNet have 45,000 records of 200 bytes; a start has 3,000 bytes."""

_NO_LOG = "expected the log of a run; move it away"

_COUNT, _SIZE = (Annotated[int, strict_json.whole(least, 2**53)] for least in (0, 1))
_FIGURE = Annotated[float, strict_json.number(-1e300, 1e300)] | None
_POSITION = {"epoch": _COUNT, "step": _COUNT}
_STEP_FIGURES = ("loss", "top1_error", "lr", "images_per_second", "grad_norm", "grad_norm_max")
_FIELDS = {
    "start": {**_POSITION, "steps_per_epoch": _SIZE},
    "step": {**_POSITION, "steps": _SIZE, **dict.fromkeys(_STEP_FIGURES, _FIGURE)},
    "epoch": {"epoch": _COUNT, **dict.fromkeys(("top1_error", "top5_error", "seconds"), _FIGURE)},
    "end": _POSITION,
}
_LATER = {"step": "top1_error"}
"""Event -> the field that logs of earlier versions lack."""


class RunLog:
    """Writes the log of a run. `on_step` and `on_epoch` are callbacks for `Trainer.run`.

    Every record has an `event`:

    - start: the position at which the run starts or resumes (`epoch`, `step`), `steps_per_epoch`, `time`, `config`,
      `software`.
    - step: a window of `steps` steps. The last of them is step `step` (from 1) of the epoch after `epoch` completed
      epochs. `loss`, `top1_error` (0..1) and `grad_norm` are means over the window, on the images as the net is trained
      on them. `grad_norm_max` is the largest norm, and `lr` is that of the last step. `images_per_second` is the number
      of images divided by the time, without the first step that this object logs. A window ends at each multiple of
      `every`, at `flush` and at the end of an epoch.
    - epoch: after `epoch` completed epochs: `top1_error` and `top5_error` (0..1), `seconds` spent in training.
    - end: the position at which the run stopped (`epoch`, `step`), `time`, `reason`.

    A figure that is not finite or not measured is null. Each call writes whole lines and passes them to the operating
    system before it returns. Nothing is written before `start` or after `close`.

    Call `flush` before each checkpoint, so that no step is missing from the log of a run that resumes from it.

    `tensorboard`: folder for the same figures as TensorBoard events; None to write no events.

    Raises UsageError if the log can't be written, after which nothing more is written, and BackendError if
    `tensorboard` is given but its package is not installed.
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
        """Open the log of a run that is `at` (epochs completed, steps completed in the next one).

        Removes the records of later steps, which the run repeats. Raises UnreadableInputError if there is a log that
        can't be read.
        """
        self._at = at
        with _writing(self.path, "--out"):
            if self.path.exists():
                content = _content(self.path)
                kept = b"".join(line for line, record in _records(self.path, content) if position(record) <= at)
                if kept != content:
                    write_atomically(self.path, kept)
        if self._events:
            self._events.open(after=self._global_step(*at))
        self._started = True
        epoch, step = at
        counts = {"epoch": epoch, "step": step, "steps_per_epoch": self.steps_per_epoch}
        self._write({"event": "start", "time": _now(), **counts, "config": config, "software": software})

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
        """End the current window; does nothing if it has no steps."""
        if not self._window:
            return
        window, self._window = self._window, []
        norms = [report.grad_norm for report in window]
        # The first step is slower: it warms up and may compile.
        timed = window if self._warm else window[1:]
        self._warm = True
        epoch, step = self._at
        figures = {
            "loss": _mean([report.loss for report in window]),
            "top1_error": _mean([report.top1_error for report in window]),
            "lr": window[-1].lr,
            "images_per_second": _mean_rate([report.images_per_second for report in timed]),
            "grad_norm": _mean(norms),
            "grad_norm_max": max(norms) if _mean(norms) is not None else None,
        }
        self._write({"event": "step", "epoch": epoch, "step": step, "steps": len(window), **figures})
        self._draw("train", {name: figures[name] for name in figures if name != "grad_norm_max"})

    def close(self, reason: str) -> None:
        """End the log. `reason`: "finished", "interrupted", "time limit", "diverged" or "failed"."""
        self.flush()
        epoch, step = self._at
        self._write({"event": "end", "time": _now(), "epoch": epoch, "step": step, "reason": reason})
        if self._started and self._events:
            self._events.close()  # writes nothing more
        self._started = False

    def _global_step(self, epoch: int, step: int) -> int:
        return epoch * self.steps_per_epoch + step

    def _write(self, record: dict[str, Any]) -> None:
        if not self._started:
            return
        try:
            with _writing(self.path, "--out"), open_to_append(self.path) as file:
                file.write(_line(record))
        except UsageError:
            self._started = False  # may leave half a line, which readers and the next `start` drop
            raise

    def _draw(self, group: str, figures: dict[str, float | None]) -> None:
        if self._started and self._events:
            try:
                self._events.add(group, figures, self._global_step(*self._at))
            except UsageError:
                self._events = None
                raise


class _Events:
    """The figures of the log as TensorBoard events. Figures that would be null are left out.

    An event's step is the number of steps since the start of the run. `open` and `add` raise UsageError if they can't
    be written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing_package(error, "--tensorboard") from None
        self.folder, self._make, self._writer = folder, SummaryWriter, None

    def open(self, after: int) -> None:
        """Open the events; hides those of steps later than `after`, which an earlier attempt left."""
        with _writing(self.folder, "--out, or leave out --tensorboard"):
            self._writer = self._make(self.folder, purge_step=after + 1)

    def add(self, group: str, figures: dict[str, float | None], step: int) -> None:
        with _writing(self.folder, "--out, or leave out --tensorboard"):
            for name, value in figures.items():
                if value is not None and math.isfinite(value):
                    self._writer.add_scalar(f"{group}/{name}", value, step)
            self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the records of a run in the order in which they were written. `run` is its folder or its log.

    A record has `event` and the figures of its event, without times and settings. Those of events with other names have
    only `epoch` and `step`, if they are there.

    A running training may append to the log: the records are those at the time of the call. An incomplete last line,
    which a killed process can leave, is skipped. Raises UnreadableInputError if there is no log, or if another line is
    not a record that `RunLog` writes; the message has its number (from 1).
    """
    path = run / LOG_NAME if run.is_dir() else run
    try:
        return [record for _, record in _records(path, _content(path))]
    except FileNotFoundError:
        problem = f"has no {LOG_NAME}" if run.is_dir() else "not found"
        raise UnreadableInputError(f"{run}: {problem}; expected a folder that python -m train has written") from None


def _content(path: Path) -> bytes:
    """Return a log as it is now. Raises FileNotFoundError, and UnreadableInputError if it can't be read."""
    try:
        with open_regular(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > _MAX_LOG:
                raise SpecError(f"has {size:,} bytes: expected at most {_MAX_LOG:,}")
            return file.read(size)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableInputError(f"{path}: can't be read ({error.strerror or error})") from None
    except SpecError as error:
        raise UnreadableInputError(f"{path}: {error}; {_NO_LOG}") from None


def _records(path: Path, content: bytes) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield the records of the log at `path` as `read_log` returns them, each with its line, which ends in a newline.

    The content is read line by line, as a million small lines would take much more memory than it.
    """
    for number, line in enumerate(io.BytesIO(content), 1):
        if number > _MAX_RECORDS:
            raise UnreadableInputError(f"{path}: has more than {_MAX_RECORDS:,} lines; {_NO_LOG}")
        try:
            if len(line) > _MAX_LINE:
                raise SpecError(f"has {len(line):,} bytes: expected at most {_MAX_LINE:,}")
            record = _checked(strict_json.parse(line, "record"))
        except SpecError as error:
            if not line.endswith(b"\n"):
                return
            raise UnreadableInputError(
                f"{path}: line {number} is not a record of a run ({one_line(error)}); remove that line"
            ) from None
        yield line.removesuffix(b"\n") + b"\n", record


def position(record: dict[str, Any]) -> tuple[int, int]:
    """Return (epochs completed, steps completed in the next one) at `record`. Records in a log are in this order."""
    return record.get("epoch", 0), record.get("step", 0)


def _checked(record: Any) -> dict[str, Any]:
    """Return the fields that are checked. Raises SpecError if one of them is missing or out of range."""
    if not isinstance(record, dict) or not isinstance(record.get("event"), str):
        raise SpecError("expected an object with an event name")
    kinds = _FIELDS.get(record["event"]) or {name: _COUNT for name in _POSITION if name in record}
    if later := _LATER.get(record["event"]):
        record.setdefault(later, None)
    for name, kind in kinds.items():
        if name not in record:
            raise SpecError(f"missing field: {name}")
        strict_json.check_value(record[name], kind, name)
    return {name: record[name] for name in ("event", *kinds)}


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
    """Return the rate of equal batches that had these rates: the number of images divided by the time."""
    if not rates or not all(0 < rate < math.inf for rate in rates):
        return None
    return statistics.harmonic_mean(rates)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _writing(path: Path, option: str) -> AbstractContextManager[None]:
    return writing(path, f"change {option}")
