"""Marks in files that alexnet-infer wrote. A file without its mark is never replaced."""

from __future__ import annotations

from pathlib import Path

from alexnet_infer.errors import SpecError
from alexnet_infer.files import open_regular

WITHIN = 1024
"""A mark is in the first so many bytes."""


def is_marked(path: Path, mark: bytes) -> bool:
    """Return whether `path` is a regular file, and no link, that has `mark` in its first WITHIN bytes."""
    return mark in beginning(path, WITHIN)


def beginning(path: Path, size: int) -> bytes:
    """Return the first `size` bytes of a regular file; none if `path` is a link, something else or unreadable."""
    try:
        with open_regular(path, follow=False) as file:
            return file.read(size)
    except (OSError, SpecError):
        return b""
