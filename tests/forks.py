"""Programs that use torch, each in a fork of one process that has imported it.

A new process would import torch again, which takes two seconds, or four if it trains.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pytest", "safetensors.torch", "tests.train.ranks_worker", "torch._dynamo"])


def fork(
    main: Callable[[], object], arguments: Sequence[object], stderr: Path, environment: Mapping[str, str] | None = None
) -> BaseProcess:
    """Start `main` as `python -m MODULE *arguments` does. What it prints is appended to `stderr`.

    `main` is a function of a module, and is found by its name.
    """
    process = _CONTEXT.Process(
        target=_run, args=(main, [str(argument) for argument in arguments], stderr, dict(environment or {}))
    )
    process.start()
    return process


def _run(main: Callable[[], object], arguments: list[str], stderr: Path, environment: dict[str, str]) -> None:
    with stderr.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ |= environment
    sys.argv[1:] = arguments
    main()
