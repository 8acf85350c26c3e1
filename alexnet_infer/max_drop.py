"""By how much an error may rise, as a user states it: `--max-drop top1=0.5`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from alexnet_infer.errors import UsageError, shown

Metric = Literal["top1", "top5"]
METRICS: Mapping[Metric, str] = {"top1": "top-1", "top5": "top-5"}
"""What each is called."""


def parse_max_drop(texts: Sequence[str]) -> dict[Metric, float]:
    """Return the limits in percentage points, from texts as in "top1=0.5". Raises UsageError."""
    limits: dict[Metric, float] = {}
    for text in texts:
        name, _, number = text.partition("=")
        points = float(number) if re.fullmatch(r"[0-9]+\.?[0-9]*|\.[0-9]+", number, re.ASCII) else -1.0
        if name not in get_args(Metric) or not 0 <= points <= 100:
            raise UsageError(
                f"--max-drop {shown(text)}: expected top1=X or top5=X, with X from 0 to 100 percentage points"
            )
        if name in limits:
            raise UsageError(f"--max-drop {text}: {name} is given twice; expected one limit for each of top1 and top5")
        limits[name] = points
    return limits
