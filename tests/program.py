"""The program as a new process."""

from __future__ import annotations

import sys

PROGRAM = [sys.executable, "-c", "from alexnet_infer.cli import main; main()"]
"""The command line of `alexnet-infer`, without its arguments."""
