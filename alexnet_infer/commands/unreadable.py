"""Messages on stderr about images that can't be read."""

from __future__ import annotations

from collections.abc import Sequence

from alexnet_infer.output import tell
from alexnet_infer.reading import Unreadable

NAMED = 10
"""The number of unreadable images that are named."""


def name_unreadable(unreadable: Sequence[Unreadable]) -> None:
    """Print one line for each of the first NAMED images, and one line for the others."""
    for image in unreadable[:NAMED]:
        tell(f"error: {image.image}: {image.reason}")
    if len(unreadable) > NAMED:
        tell(f"error: {len(unreadable) - NAMED} more can't be read; --json lists them")
