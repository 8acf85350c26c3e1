"""What commands say on stderr of images that could not be read."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from alexnet_infer.evaluation.result import Unreadable

NAMED = 10
"""Unreadable images that are named."""


def name_unreadable(unreadable: Sequence[Unreadable]) -> None:
    """A line for each of the first ones, and one for the rest."""
    for one in unreadable[:NAMED]:
        print(f"error: {one.image}: {one.reason}", file=sys.stderr)
    if len(unreadable) > NAMED:
        print(f"error: {len(unreadable) - NAMED} more can't be read; --json lists them", file=sys.stderr)
