"""Run by `torchrun` in tests: trains a toy net for a few steps in float32 on a grid of processes.

torchrun --nproc-per-node N -m tests.train.ranks_worker OUT COLUMNS EPOCHS [MISHAP]

MISHAP: seed-by-rank, die-in-epoch-2 or hang-in-epoch-2.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch

from alexnet_infer.errors import AlexNetInferError
from tests.train.toys import BRIEF, TINY, images, trainer
from train.loop import Trainer
from train.ranks import Ranks, join

NET = replace(TINY, classes=4)
RECIPE = replace(BRIEF, epochs=2, batch=4, color_sigma=5.0, lr=0.1)


def make(out: Path, ranks: Ranks, seed: int = 0) -> Trainer:
    """Return a trainer on twenty images: two epochs of five steps, with dropout and colour noise."""
    out.mkdir(exist_ok=True)
    sets = {"train": images(20), "validation": images(7, seed=1)}
    return trainer(out, NET.build(), RECIPE, ranks=ranks, seed=seed, precision=torch.float32, **sets)


def main() -> None:
    out, columns, epochs = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    mishap = sys.argv[4] if len(sys.argv) > 4 else ""
    timeout = timedelta(seconds=8 if mishap == "hang-in-epoch-2" else 50)
    ranks = join(torch.device("cpu"), columns, timeout)
    try:
        with ranks.connected():
            train(out, ranks, epochs, mishap)
            ranks.leave()
    except AlexNetInferError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def train(out: Path, ranks: Ranks, epochs: int, mishap: str) -> None:
    run = make(out, ranks, seed=ranks.column if mishap == "seed-by-rank" else 0)

    class Enough(Exception):  # noqa: N818 (not an error)
        pass

    def stop(state) -> None:
        if state.epoch == epochs:
            raise Enough

    def fail(report) -> None:
        if (report.epoch, report.step, ranks.column) != (1, 2, 1):
            return
        if mishap == "die-in-epoch-2":
            os.kill(os.getpid(), signal.SIGKILL)
        if mishap == "hang-in-epoch-2":
            time.sleep(3600)

    with suppress(Enough):
        run.run(on_step=fail, on_epoch=stop)


if __name__ == "__main__":
    main()
