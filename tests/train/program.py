"""Helpers that run `python -m train`, in this process or in a new one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMALL = "--preset alexnet-64 --width 0.05 --hidden 16 --recipe fast --epochs 2 --batch 4 --lr 0.01 --no-compile"
"""12 images: two epochs of three steps."""


def train_small(run, data: Path, out: Path, *more: object) -> tuple[int, str, str]:
    return run(*SMALL.split(), "--data", data, "--out", out, *more)


def assert_one_line(result: tuple[int, str, str], code: int, *parts: str) -> None:
    exit_code, stdout, stderr = result
    line = stderr.splitlines()[-1]
    assert (exit_code, stdout) == (code, ""), stderr
    assert line.startswith("error: ")
    assert "Traceback" not in stderr
    for part in parts:
        assert part in line


def program(*arguments: str, before: str = "") -> subprocess.CompletedProcess:
    code = f"{before}\nimport runpy, sys\nsys.argv[0] = 'train'\nrunpy.run_module('train', run_name='__main__')"
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "120"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
