"""Progress of a run on stderr: live bars on a terminal, one line per epoch elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from statistics import fmean
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

from alexnet_infer.errors import message_line
from alexnet_infer.output import console as plain_console
from alexnet_infer.output import styled
from alexnet_infer.progress import bars

if TYPE_CHECKING:  # prepare uses this module without torch
    from rich.console import Console

    from train.checkpoint import RunState
    from train.step import StepReport


class Smoothed:
    """A mean in which the weight of a value falls by a factor of e every `steps` values.

    The mean of equal values is their value, from the first one on.
    """

    def __init__(self, steps: int) -> None:
        self.decay, self.total, self.weight = 1 - 1 / steps, 0.0, 0.0

    def add(self, value: float) -> None:
        self.total, self.weight = self.decay * self.total + value, self.decay * self.weight + 1

    @property
    def value(self) -> float:
        return self.total / self.weight if self.weight else 0.0


class TrainingView:
    """Describes a run's progress. `on_step` and `on_epoch` are callbacks for `Trainer.run`.

    `show` is called after each step with the progress as text and the number of steps done, `line` after each epoch
    with one line of text.
    """

    def __init__(
        self,
        epochs: int,
        steps_per_epoch: int,
        show: Callable[[str, int], None],
        line: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        self.show, self.line, self.clock = show, line, clock
        self.loss, self.rate = Smoothed(50), Smoothed(50)
        self.errors: list[float] = []
        """Training errors of the steps of the current epoch, as far as this process ran them."""
        # Seconds between steps, including validation and checkpoints, which a mean over many steps evens out.
        self.seconds = Smoothed(1000)
        self.last_time: float | None = None
        self.lr = 0.0

    def on_step(self, report: StepReport) -> None:
        now = self.clock()
        if self.last_time is not None:  # the first step is slower: it compiles and warms up
            self.seconds.add(now - self.last_time)
            self.rate.add(report.images_per_second)
        self.last_time, self.lr = now, report.lr
        self.loss.add(report.loss)
        self.errors.append(report.top1_error)
        done = report.epoch * self.steps_per_epoch + report.step
        self.show(f"epoch {report.epoch + 1}/{self.epochs}  {self._figures(done)}", done)

    def on_epoch(self, state: RunState) -> None:
        figures = self._figures(state.epoch * self.steps_per_epoch)
        training = f"  training error {fmean(self.errors):.2%}" if self.errors else ""
        self.errors = []
        self.line(f"epoch {state.epoch}/{self.epochs}  validation error {state.errors[-1]:.2%}{training}  {figures}")

    def _figures(self, done: int) -> str:
        left = timedelta(seconds=round((self.epochs * self.steps_per_epoch - done) * self.seconds.value))
        rate = f"{self.rate.value:.0f}" if self.rate.weight else "-"
        return f"loss {self.loss.value:.3f}  lr {self.lr:.2g}  {rate} images/s  {left} left"


class Display:
    """Shows bars and lines on a console, by default on stderr. With 80 columns or more, no text is cut off."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or plain_console(stderr=True)

    def note(self, text: str) -> None:
        """Print text as one printable line."""
        self.console.print(styled(text), soft_wrap=True)

    @contextmanager
    def counting(self, description: str, total: int, unit: str = "images") -> Iterator[Callable[[int], None]]:
        """Show a bar for `total` images or other units. Yields a function to call with the number just done."""
        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        started = time.monotonic()
        with bars(*columns, console=self.console) as progress:
            task = progress.add_task(message_line(description), total=total)
            yield lambda count: progress.advance(task, count)
        self.note(f"{description}: {total} {unit} in {time.monotonic() - started:.0f} s")

    @contextmanager
    def training(self, epochs: int, steps_per_epoch: int, done: int) -> Iterator[TrainingView]:
        """Show a bar for a run of which `done` steps are done."""
        # Column() wraps long text instead of cutting it.
        text = TextColumn("{task.description}", markup=False, table_column=Column())
        columns = (BarColumn(bar_width=10), TaskProgressColumn(), text)
        with bars(*columns, console=self.console) as progress:
            task = progress.add_task("starting", total=epochs * steps_per_epoch, completed=done)

            def show(text: str, steps: int) -> None:
                progress.update(task, description=text, completed=steps)

            yield TrainingView(epochs, steps_per_epoch, show, self.note)
