"""The program as a new process."""

from __future__ import annotations

import sys

PROGRAM = [sys.executable, "-m", "alexnet_infer"]
"""The command line of `alexnet-infer`, without its arguments."""
