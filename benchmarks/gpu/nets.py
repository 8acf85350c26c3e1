"""Stage 6: nets with several seeds, trained side by side on one GPU, then evaluated alone and averaged.

The nets are full-width `alexnet-64` with fully-connected layers narrow enough for files of 12 MB. All processes first
train for half a minute to measure their speed. Then they start again, with the number of epochs that fits into the
remaining time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from alexnet_infer.artifact import Artifact, load_artifact
from alexnet_infer.evaluation.statistics import Pairing
from alexnet_infer.evaluation.tally import Tally
from alexnet_infer.metrics import topk_correct
from benchmarks.gpu.context import Context
from train.data import PackedImages
from train.device import exact_float32
from train.evaluate import ModuleScorer
from train.feed import Feed
from train.log import read_log
from train.packed import is_packed, open_packed

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The nets to train."""

    seeds: int
    options: str
    """Options of `python -m train`."""
    probe: float
    """Seconds of training in which the speed is measured."""
    reserve: float
    """Seconds reserved for the final evaluation, with a margin."""
    max_epochs: int


FULL = Plan(
    seeds=5,
    options="--preset alexnet-64 --recipe fast --hidden 368 --dropout 0.3 --batch 256 --lr 0.06",
    probe=30,
    reserve=45,
    max_epochs=60,
)
MINIATURE = Plan(
    seeds=2,
    options="--preset alexnet-64 --recipe fast --width 0.125 --hidden 16 --batch 4",
    probe=1,
    reserve=5,
    max_epochs=1,
)


class NetsError(Exception):
    """A net could not be trained; the message names it and gives the reason."""


def run(context: Context) -> None:
    """Train and evaluate the nets. Each is written to `context.out`, and its record reported, when it is finished."""
    if context.data is None:
        context.record("nets", "skipped: needs --data")
        return
    plan = MINIATURE if context.miniature else FULL
    runs = Runs(context, plan)
    runs.prepare()
    seeds = runs.train(runs.epochs())
    if seeds:
        evaluate(context, runs.packed, [context.out / f"{name(seed)}.safetensors" for seed in seeds])


def name(seed: int) -> str:
    return f"alexnet-64-{seed}"


class Runs:
    """The training processes."""

    def __init__(self, context: Context, plan: Plan) -> None:
        self.context, self.plan, folder = context, plan, context.scratch
        self.packed = folder / context.data.resolve().name  # the nets' records contain this name
        caches = {"TORCHINDUCTOR_CACHE_DIR": folder / "inductor", "TRITON_CACHE_DIR": folder / "triton"}
        threads = max(1, (os.cpu_count() or 1) // plan.seeds)
        self.environment = (
            os.environ
            | {key: str(path) for key, path in caches.items()}
            | {"OMP_NUM_THREADS": str(threads), "TORCHINDUCTOR_COMPILE_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
        )

    def prepare(self) -> None:
        """Pack the data set, which all processes then map into memory, unless it is packed already."""
        if is_packed(self.context.data):
            self.packed = self.context.data
            return
        started = time.monotonic()
        command = [sys.executable, "-m", "train", "prepare", str(self.context.data), "--out", str(self.packed)]
        command += ["--image-size", "64"]
        ended = subprocess.run(command, env=self.environment, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
        if ended.returncode not in (0, 1):  # 1: some images could not be read; they are listed on standard error
            raise NetsError(f"train prepare: exit code {ended.returncode}")
        self.context.record("seconds to pack the set", time.monotonic() - started)

    @contextmanager
    def started(self, label: str, epochs: int, *more: str) -> Iterator[list[tuple[Path, subprocess.Popen]]]:
        """Start one process per seed and yield (folder, process) pairs. Kill those still running at the end."""
        processes = []
        try:
            for seed in range(self.plan.seeds):
                out = self.context.scratch / f"{label}-{seed}"
                out.mkdir()
                command = [sys.executable, "-m", "train", *self.plan.options.split(), "--data", str(self.packed)]
                command += ["--device", self.context.device.type, "--seed", str(seed), "--name", name(seed)]
                command += ["--epochs", str(epochs), "--out", str(out), *more]
                with (out / "stderr").open("wb") as stderr:
                    process = subprocess.Popen(
                        command, env=self.environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr
                    )
                processes.append((out, process))
            yield processes
        finally:
            for _, process in processes:
                process.kill()
                process.wait()

    def epochs(self) -> int:
        """Train all seeds at once for `plan.probe` seconds and return the number of epochs that fit.

        The second start takes less time than the first, in which kernels are compiled. That difference is the margin.
        """
        begin, images = time.monotonic(), open_packed(self.packed).images("train")
        with self.started("probe", 10_000) as processes:
            while not all(steps(out) for out, _ in processes):
                self._check(processes)
                time.sleep(0.2)
            warm = time.monotonic()
            before = [steps(out) for out, _ in processes]
            time.sleep(self.plan.probe)
            self._check(processes)
            after = [steps(out) for out, _ in processes]
            elapsed = time.monotonic() - warm
        batch = int(self.plan.options.partition("--batch ")[2].split()[0])
        slowest = min(b - a for a, b in zip(before, after, strict=True)) * batch / elapsed
        start = warm - begin
        time_left = self.context.left - self.plan.reserve - start
        epochs = max(1, min(self.plan.max_epochs, int(0.95 * time_left * slowest / images)))
        self.context.record(
            "speed",
            {
                "images/s of the slowest": slowest,
                "images/s of all": sum(b - a for a, b in zip(before, after, strict=True)) * batch / elapsed,
                "seconds to the first steps": start,
                "seconds for training": time_left,
                "epochs": epochs,
            },
        )
        return epochs

    def train(self, epochs: int) -> list[int]:
        """Train all nets and return the seeds of those that finished.

        Each net is copied, and its record reported, when its process ends. A net that fails is a failed check, and the
        others continue. `--max-hours` ends a process early, with the net that it has, if it would take too long.
        """
        finished = []
        hours = max(self.context.left - self.plan.reserve, 1) / 3600
        with self.started("run", epochs, "--max-hours", f"{hours:.6f}") as processes:
            waiting = dict(enumerate(processes))
            while waiting:
                for seed, (out, process) in list(waiting.items()):
                    if process.poll() is not None:
                        del waiting[seed]
                        with self.context.attempt(name(seed)):
                            self._check([(out, process)])
                            self._keep(seed, out)
                            finished.append(seed)
                time.sleep(0.2)
        return sorted(finished)

    def _keep(self, seed: int, out: Path) -> None:
        shutil.copyfile(out / f"{name(seed)}.safetensors", self.context.out / f"{name(seed)}.safetensors")
        record = json.loads((out / f"{name(seed)}.json").read_bytes())
        speeds = [r["images_per_second"] for r in read_log(out / "log.jsonl") if r["event"] == "step"]
        record["images_per_second"] = float(np.median([speed for speed in speeds if speed] or [0.0]))
        self.context.record(name(seed), record)

    def _check(self, processes: Sequence[tuple[Path, subprocess.Popen]]) -> None:
        """Raise NetsError if a process has failed."""
        for out, process in processes:
            if process.poll():
                lines = (out / "stderr").read_text(errors="replace").strip().splitlines()
                raise NetsError(f"{out.name}: exit code {process.returncode}: {' '.join(lines[-3:])[-500:]}")


def steps(out: Path) -> int:
    """Return the number of steps that a run has logged so far. A record is logged every 20 steps."""
    path = out / "log.jsonl"
    if not path.exists():
        return 0
    records = [r for r in read_log(path) if r["event"] == "step"]
    return sum(r["steps"] for r in records)


def evaluate(context: Context, packed: Path, paths: Sequence[Path]) -> None:
    """Record the errors of each net and of their mean on the validation split, with ten views, in float32 PyTorch."""
    feed = Feed(PackedImages.mapped_from(open_packed(packed), "validation"), context.device)
    artifacts = [load_artifact(path) for path in paths]
    scores = [probabilities(artifact, feed) for artifact in artifacts]
    labels, classes = feed.labels.cpu().numpy(), len(artifacts[0].manifest.classes)
    mean = np.mean(scores, 0)

    def errors(probabilities: np.ndarray) -> dict[str, int]:
        return {f"top{k}": len(labels) - int(topk_correct(probabilities, labels, k)) for k in (1, 5)}

    def wrong(probabilities: np.ndarray) -> np.ndarray:
        tally = Tally(classes)
        tally.add(probabilities, labels, labels)
        return tally.wrong(1)

    alone = {path.stem: errors(score) for path, score in zip(paths, scores, strict=True)}
    best = min(range(len(paths)), key=lambda i: (alone[paths[i].stem]["top1"], i))
    pair = Pairing.of(wrong(mean), wrong(scores[best]))
    context.record(
        "errors",
        {
            "images": len(labels),
            "unreadable": len(feed.images.unreadable),
            "alone": alone,
            "mean": errors(mean),
            "mean against the best": {
                "best": paths[best].stem,
                **pair.to_json(first_only=pair.first_only, second_only=pair.second_only),
            },
        },
    )
    for path, artifact in zip(paths, artifacts, strict=True):
        recorded = {error.views: error.top1 for error in artifact.manifest.provenance.errors}
        context.check(
            f"{path.stem}: the file's own error",
            abs(recorded["ten"] - alone[path.stem]["top1"]) <= 2,  # rounding in another batch may decide a near tie
            measured=alone[path.stem]["top1"],
            said=recorded["ten"],
        )


def probabilities(artifact: Artifact, feed: Feed) -> np.ndarray:
    """Return the probabilities of all images, float32 [N, classes], averaged over ten views."""
    scorer = ModuleScorer.of(artifact, feed.device)
    with exact_float32(feed.device):
        batches = feed.batches(torch.arange(len(feed)).split(scorer.batch))
        return np.concatenate([scorer(squares)["ten"] for squares in batches])
