"""Runs one stage in this process: `python -m benchmarks.gpu.stage NAME SETTINGS`, started by runner.py."""

from __future__ import annotations

import faulthandler
import json
import sys
import time
from importlib import import_module
from pathlib import Path

import torch

from benchmarks.gpu.context import Context

TRACEBACK_LEAD = 1.0
"""Seconds before the time limit at which a stage that is still running prints its traceback."""


def main() -> None:
    name, settings = sys.argv[1], json.loads(sys.argv[2])
    faulthandler.enable()
    faulthandler.dump_traceback_later(max(settings["deadline"] - time.time() - TRACEBACK_LEAD, 0.01))
    device = torch.device(settings["device"])
    context = Context(
        device=device,
        data=settings["data"] and Path(settings["data"]),
        out=Path(settings["out"]),
        seconds=settings["seconds"],
        miniature=device.type == "cpu",
        deadline=settings["deadline"],
        scratch=Path(settings["scratch"]),
    )
    import_module(f"benchmarks.gpu.{name}").run(context)


if __name__ == "__main__":
    main()
