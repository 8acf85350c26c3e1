"""Signals that stop a command once, so that it can end its runs and keep their results."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


@contextmanager
def stopped_by_signals() -> Iterator[Callable[[], None]]:
    """Inside the block, SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does.

    Yields a function after whose call these signals and Ctrl-C are ignored, until the end of the block. Signals that
    are ignored already, such as SIGHUP under nohup, stay so. But programs that are started inside the block do not
    ignore SIGINT, with which they are stopped, even if a script has started this one in the background, where the
    shell ignores it. Does nothing in other threads than the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before: dict[int, Any] = {}

    def handle(number: int, handler: Any) -> None:
        if signal.getsignal(number) != signal.SIG_IGN:
            before.setdefault(number, signal.getsignal(number))
            signal.signal(number, handler)

    def ignore() -> None:
        for number in numbers:
            handle(number, signal.SIG_IGN)

    numbers = [signal.SIGINT, *(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))]
    try:
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda number, frame: None)  # not inherited
        for number in numbers[1:]:
            handle(number, _press)
        yield ignore
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _press(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
