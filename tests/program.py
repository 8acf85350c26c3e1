"""The program as a new process."""

from __future__ import annotations

import sys

PROGRAM = [sys.executable, "-m", "alexnet_infer"]
"""The command line of `alexnet-infer`, without its arguments."""


def one_line(result: tuple[int, str, str], code: int, *parts: str) -> None:
    """Check that the program printed one error line with all `parts`, and stopped with `code`."""
    assert isinstance(result, tuple)
    assert result[0] == code, result
    assert result[1] == ""
    assert result[2].count("\n") == 1, result[2]
    assert result[2].startswith("error: ")
    for part in parts:
        assert part in result[2]
