"""The context of a stage: its settings, and how it reports results."""

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
"""The file in the scratch folder with the stage's results, which the command merges into its own results.json."""
NEEDS_GPU = "skipped: needs a GPU"
"""The result of a part that can't run on a CPU."""


class SkippedError(Exception):
    """A part of a stage does not apply here; the message gives the reason."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """The settings and results of a stage.

    A stage is a module of this package with a function `run(context: Context) -> None`, which is called in a separate
    process. It reports with `record` and `check`. Results reported before it raises, crashes or reaches its time limit
    are kept.
    """

    device: torch.device
    """The GPU, or the CPU for the miniature."""
    data: Path | None
    """A labelled image set, in any form that the trainer accepts; None if --data was not given."""
    out: Path
    """The existing output folder, to which nets are written."""
    seconds: float
    """The stage's time limit: the process is killed this long after its start. `left` is the remaining time."""
    miniature: bool
    """Whether all sizes must be tiny: two CPU cores run all stages together in about a minute."""
    deadline: float
    """The time at which `seconds` end, as from `time.time()`."""
    scratch: Path
    """A temporary folder for this stage's files, in memory if there is room. It is always removed after the stage."""
    results: dict[str, Any] = field(default_factory=dict)
    """The results recorded so far."""

    @property
    def left(self) -> float:
        """Seconds until the time limit."""
        return self.deadline - time.time()

    def record(self, key: str, value: Any) -> None:
        """Add or replace one result and write all of them.

        `value` is a JSON value; scalars of NumPy and PyTorch are converted to floats.
        """
        self.results[key] = _json(value)
        write_atomically(self.scratch / PARTIAL, json.dumps(self.results, indent=1).encode())

    def check(self, key: str, passed: bool, **figures: Any) -> None:
        """Record a check, `{"passed": ..., **figures}`. If it has not passed, the command's exit code is 1.

        Results passed to `record` may also contain such objects, at any depth.
        """
        self.record(key, {"passed": bool(passed), **figures})

    @contextmanager
    def attempt(self, key: str) -> Iterator[None]:
        """Run one part of a stage so that an exception does not stop the other parts.

        An exception is recorded as a failed check `key` with the exception as its `error`. For SkippedError, the
        result `key` is "skipped: " followed by the reason.
        """
        try:
            yield
        except SkippedError as reason:
            self.record(key, f"skipped: {reason}")
        except Exception as error:
            traceback.print_exc()
            self.check(key, False, error=f"{type(error).__name__}: {one_line(error)}")


def _json(value: Any) -> Any:
    """Convert `value` to a JSON value. Infinity and NaN, which JSON lacks, become text."""
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
