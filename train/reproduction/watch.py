"""Progress bars of runs in other processes, read from their logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from alexnet_infer.errors import UnreadableInputError, message_line
from alexnet_infer.progress import bars
from train.display import Display
from train.log import position, read_log


@contextmanager
def watching(display: Display) -> Iterator[Callable[[Mapping[str, tuple[Path, int]]], None]]:
    """Show a bar for each run.

    Yields a function to call, from time to time, with the folder and the number of epochs of each running one.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with bars(*columns, console=display.console) as progress:
        shown: dict[str, TaskID] = {}

        def show(running: Mapping[str, tuple[Path, int]]) -> None:
            if progress.disable:
                return
            for name in set(shown) - set(running):
                progress.remove_task(shown.pop(name))
            for name, (folder, epochs) in running.items():
                if name not in shown:
                    shown[name] = progress.add_task(message_line(name), total=epochs)
                progress.update(shown[name], completed=epochs_of(folder))

        yield show


def epochs_of(folder: Path) -> float:
    """Return how many epochs a run has logged."""
    try:
        records = read_log(folder)
    except UnreadableInputError:  # it has no log yet
        return 0.0
    starts = [record["steps_per_epoch"] for record in records if record["event"] == "start"]
    epoch, step = position(records[-1]) if records else (0, 0)
    return epoch + step / starts[-1] if starts else 0.0
