"""Progress of an engine build: TensorRT's progress monitor, bars on a terminal, and Ctrl-C."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from alexnet_infer.progress import bars

OnProgress = Callable[[str, int, int], None]
"""Called with (phase, steps done, total steps) when a phase of the build begins, after each of its steps, and when it
ends. Phases are nested."""


@contextmanager
def build_bars() -> Iterator[OnProgress]:
    """Show a bar for each phase of a build, nested phases below one another, if stderr is a terminal.

    Yields the callback for `build_engine`.
    """
    if not sys.stderr.isatty():
        yield lambda phase, done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with bars(*columns) as progress:
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
    """Delay Ctrl-C: inside the context it only adds to the yielded list, and at the end it raises KeyboardInterrupt.

    Python may raise KeyboardInterrupt anywhere, and an exception in one of TensorRT's callbacks would end the process.
    """
    stopped: list[int] = []
    try:
        before = signal.signal(signal.SIGINT, lambda number, frame: stopped.append(number))
    except ValueError:  # not in the main thread, the only one that receives signals
        yield stopped
        return
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
    if stopped:
        raise KeyboardInterrupt


def monitor(trt: ModuleType, on_progress: OnProgress, stopped: list[int]) -> Any:
    """Return TensorRT's progress monitor, which calls `on_progress` and stops the build once `stopped` has an entry.

    An exception in `on_progress` also stops the build, and is stored in the monitor's `error`.
    """

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
