"""Messages on stderr about images that can't be read."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from alexnet_infer.reading import Unreadable

NAMED = 10
"""The number of unreadable images that are named."""


def name_unreadable(unreadable: Sequence[Unreadable]) -> None:
    """Print one line for each of the first NAMED images, and one line for the others."""
    for image in unreadable[:NAMED]:
        print(f"error: {image.image}: {image.reason}", file=sys.stderr)
    if len(unreadable) > NAMED:
        print(f"error: {len(unreadable) - NAMED} more can't be read; --json lists them", file=sys.stderr)
