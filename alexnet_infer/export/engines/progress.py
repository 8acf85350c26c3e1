"""How far a build is: TensorRT's progress monitor, bars on a terminal, and Ctrl-C."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

OnProgress = Callable[[str, int, int], None]
"""Called with a phase of the build, the steps of it that are done, and all of them, when it begins, after each step and
when it ends. Phases lie within one another."""


@contextmanager
def build_bars() -> Iterator[OnProgress]:
    """Bars for the phases of a build, one below the other as they lie within one another, on stderr where that is a
    terminal; yields what `build_engine` takes."""
    if not sys.stderr.isatty():
        yield lambda phase, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, Any] = {}

        def show(phase: str, done: int, total: int) -> None:
            if done < total:
                if phase not in tasks:
                    tasks[phase] = progress.add_task(phase, total=total)
                progress.update(tasks[phase], completed=done)
            elif phase in tasks:
                progress.remove_task(tasks.pop(phase))

        yield show


@contextmanager
def stoppable() -> Iterator[list[int]]:
    """While it lasts, Ctrl-C only fills the list that is yielded; afterwards it is a KeyboardInterrupt, as ever.

    An exception in a callback of TensorRT's would end the process, and Python may raise one wherever it is.
    """
    stopped: list[int] = []
    try:
        before = signal.signal(signal.SIGINT, lambda number, frame: stopped.append(number))
    except ValueError:  # not in the main thread, where alone Python delivers it
        yield stopped
        return
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
    if stopped:
        raise KeyboardInterrupt


def monitor(trt: ModuleType, on_progress: OnProgress, stopped: list[int]) -> Any:
    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()
            self.error: Exception | None = None
            self.totals: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.totals[phase_name] = num_steps
            self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return not stopped and self.error is None

        def phase_finish(self, phase_name: str) -> None:
            self._tell(phase_name, self.totals.get(phase_name, 0))

        def _tell(self, phase: str, done: int) -> None:
            if self.error is None:
                try:
                    on_progress(phase, done, self.totals.get(phase, done))
                except Exception as error:
                    self.error = error

    return Monitor()
