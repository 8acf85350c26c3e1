"""Progress bars with the time left, on stderr if it is a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


@contextmanager
def counting(title: str, total: int, unit: str = "images") -> Iterator[Callable[[int], None]]:
    """Show a bar for `total` images or other units. Yields a function to call with the number just completed."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}, {task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with bars(*columns) as progress:
        task = progress.add_task(title, total=total, unit=unit, rate="-/s")

        def advance(count: int) -> None:
            progress.advance(task, count)
            state = progress.tasks[0]
            if state.speed and state.elapsed > 1:  # a first batch completes all at once
                progress.update(task, rate=f"{state.speed:.0f}/s")

        yield advance


@contextmanager
def fetching(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar for `total` bytes. Yields a function to call with the number just received.

    The number is negative if received bytes are discarded.
    """
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with bars(*columns) as progress:
        task = progress.add_task(title, total=total)
        yield lambda count: progress.advance(task, count)


def bars(*columns: ProgressColumn) -> Progress:
    """Return bars on stderr that disappear when done.

    While bars are shown, rich prints what the program writes to stdout above them, and so to stderr. It may do so only
    if both are the same terminal: a file or a pipe would stay empty.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True, soft_wrap=True)  # the terminal wraps long lines of output: no newline is added
    return Progress(*columns, console=console, transient=True, redirect_stdout=_on_one_terminal())


def _on_one_terminal() -> bool:
    """Whether stdout and stderr are the same terminal. stdout may be closed; stderr must be a terminal."""
    if sys.stdout is None or not sys.stdout.isatty():
        return False
    return os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
