"""Progress bars with the time left, on stderr if it is a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from alexnet_infer.errors import message_line
from alexnet_infer.output import console as plain_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, TaskID


@contextmanager
def counting(title: str, total: int, unit: str = "images") -> Iterator[Callable[[float], None]]:
    """Show a bar for `total` images or other units. Yields a function to call with the number just completed.

    It may be a part of one.
    """
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.progress import MofNCompleteColumn, TextColumn

    columns = (MofNCompleteColumn(), TextColumn("{task.fields[unit]}, {task.fields[rate]}", markup=False))
    with _bar(title, total, *columns, unit=unit, rate="-/s") as (progress, task):

        def advance(count: float) -> None:
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
    from rich.progress import DownloadColumn, TransferSpeedColumn

    with _bar(title, total, DownloadColumn(), TransferSpeedColumn()) as (progress, task):
        yield lambda count: progress.advance(task, count)


@contextmanager
def _bar(title: str, total: int, *columns: ProgressColumn, **fields: str) -> Iterator[tuple[Progress, TaskID]]:
    """Show one bar with `columns` between the bar itself and the time left."""
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *columns, TimeRemainingColumn())
    with bars(*columns) as progress:
        yield progress, progress.add_task(message_line(title), total=total, **fields)


def bars(*columns: ProgressColumn, console: Console | None = None) -> Progress:
    """Return bars on `console`, by default stderr, that disappear when done. They are shown only on a terminal.

    While bars are shown, rich prints what the program writes to stdout above them, and so to stderr. It may do so only
    if both are the same terminal: a file or a pipe would stay empty.
    """
    from rich.progress import Progress

    console = console or plain_console(stderr=True, soft_wrap=True)
    options = {"transient": True, "disable": not console.is_terminal, "redirect_stdout": _on_one_terminal()}
    return Progress(*columns, console=console, **options)


def _on_one_terminal() -> bool:
    """Whether stdout and stderr are the same terminal. stdout may be closed; stderr must be a terminal."""
    if sys.stdout is None or not sys.stdout.isatty():
        return False
    return os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
