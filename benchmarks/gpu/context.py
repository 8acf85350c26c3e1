"""What a stage is given, and how it reports."""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_infer.errors import one_line
from alexnet_infer.files import write_atomically

if TYPE_CHECKING:
    import torch

PARTIAL = "results.json"
"""In the scratch folder: what the stage has reported, which the command merges into its own results.json."""
NEEDS_GPU = "skipped: needs a GPU"
"""The result of what makes no sense on a CPU."""


class SkippedError(Exception):
    """A part of a stage says nothing here; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """A stage is a module of this package with `def run(context: Context) -> None`, called in a process of its own.

    It reports with `record` and `check`. What it has reported when it raises, crashes or reaches its time limit is
    kept.
    """

    device: torch.device
    """The GPU, or the CPU for the miniature."""
    data: Path | None
    """A labelled image set, in any form that the trainer takes; None when the command was given none."""
    out: Path
    """The folder of results, where nets are written; it exists."""
    seconds: float
    """The stage's time limit: the process is killed that long after its start. `left` says what remains of it."""
    miniature: bool
    """Whether all sizes are to be tiny: two CPU cores have a minute for all stages together."""
    deadline: float
    """The end of `seconds`, by `time.time()`."""
    scratch: Path
    """A folder for this stage's files, in memory where there is room; removed when the stage has ended, however it
    ends."""
    results: dict[str, Any] = field(default_factory=dict)
    """What was recorded so far."""

    @property
    def left(self) -> float:
        """Seconds until the time limit."""
        return self.deadline - time.time()

    def record(self, key: str, value: Any) -> None:
        """Adds one result and writes all of them. `value` is what JSON knows; NumPy's and torch's scalars become
        floats. A key that is recorded again is replaced."""
        self.results[key] = _json(value)
        write_atomically(self.scratch / PARTIAL, json.dumps(self.results, indent=1).encode())

    def check(self, key: str, passed: bool, **figures: Any) -> None:
        """Records a check: `{"passed": ..., **figures}`. One that has not passed makes the command's exit code 1.

        Results may also hold such objects themselves, at any depth.
        """
        self.record(key, {"passed": bool(passed), **figures})

    @contextmanager
    def attempt(self, key: str) -> Iterator[None]:
        """For a part of a stage beside which others stand: an exception inside becomes a check `key` that failed, with
        the exception as its `error`, and the stage goes on. SkippedError becomes the result `key`, "skipped: why"."""
        try:
            yield
        except SkippedError as reason:
            self.record(key, f"skipped: {reason}")
        except Exception as error:
            traceback.print_exc()
            self.check(key, False, error=f"{type(error).__name__}: {one_line(error)}")


def _json(value: Any) -> Any:
    """`value` as JSON has it. It has no numbers for infinity and "not a number": they become text."""
    match value:
        case None | bool() | str() | int():
            return value
        case dict():
            return {str(key): _json(item) for key, item in value.items()}
        case list() | tuple():
            return [_json(item) for item in value]
        case _:
            number = float(value)
            return number if math.isfinite(number) else str(number)
