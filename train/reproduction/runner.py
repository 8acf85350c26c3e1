"""Run what has no record yet: start `python -m train` for several nets side by side, measure them, keep the results.

Runs continue from their checkpoints, so that Ctrl-C or a time limit lose nothing.
"""

from __future__ import annotations

import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from alexnet_infer.errors import AlexNetInferError, StoppedError, UsageError, one_line
from alexnet_infer.files import lock, writing
from train.device import keep_memory, pick_device
from train.display import Display
from train.packed import PackedSet, is_packed, open_packed
from train.prepare import Preparation, prepare
from train.reproduction.command_lines import arguments
from train.reproduction.measure import data_of, measure, unfinished
from train.reproduction.plan import Mean, Part, Task, Training
from train.reproduction.record import Result, with_neighbors
from train.reproduction.request import Workplace
from train.reproduction.rows import Results
from train.reproduction.settings import settings
from train.reproduction.signals import stopped_by_signals
from train.reproduction.watch import watching
from train.selection import Selection

POLL_SECONDS = 1.0

ROOT = Path(__file__).parents[2]
"""The checkout, from which the trainer runs."""


class UnfinishedError(AlexNetInferError):
    """The time limit stopped a run; it can be continued."""


class RunFailedError(AlexNetInferError):
    """A run ended with an error."""


@dataclass
class Outcome:
    """What became of the tasks."""

    done: list[Task] = field(default_factory=list)
    stopped: list[Task] = field(default_factory=list)
    """Tasks that the time limit stopped or kept from starting."""
    failed: dict[Task, str] = field(default_factory=dict)


class Runner:
    """Runs tasks. Each net has the folder `work/scale/run-seed`, with the trainer's output in `output.txt` there."""

    def __init__(self, results: Results, where: Workplace, display: Display) -> None:
        self.plan, self.results, self.where, self.display = results.plan, results, where, display
        self.device = pick_device(where.device)
        self.jobs, self.threads = side_by_side(self.device, where.jobs)
        self.until = math.inf if where.max_hours is None else time.monotonic() + 3600 * where.max_hours
        self._packed: dict[str, PackedSet] = {}
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._stopping = threading.Event()
        self._measuring, self._signalling = threading.Lock(), threading.Lock()

    def run(self, tasks: Sequence[Task]) -> Outcome:
        """Run tasks in order, as far as what they are made from is done. Each result is kept as soon as it is there.

        Raises StoppedError after Ctrl-C or SIGTERM, when all runs have written their checkpoints. Raises UsageError if
        the data set is not the one of the results that exist, or if another process uses the folder.
        """
        keep_memory()
        outcome, waiting = Outcome(), self._with_nets(tasks)
        running: dict[Future[Result], Task] = {}
        try:
            with (
                self._alone(),
                stopped_by_signals() as ignore_signals,
                ThreadPoolExecutor(self.jobs) as threads,
                watching(self.display) as watch,
            ):
                for task in waiting:
                    self._check_data(task)
                try:
                    while waiting or running:
                        for task in self._ready(waiting, running.values(), outcome):
                            waiting.remove(task)
                            if time.monotonic() >= self.until:
                                outcome.stopped.append(task)
                            else:
                                running[threads.submit(self._run, task)] = task
                        trainings = [task for task in running.values() if self.plan.trained(task)]
                        watch({str(task): (self.folder(task), self.plan.epochs(task)) for task in trainings})
                        finished, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                        for future in finished:
                            self._end(running.pop(future), future, outcome)
                except BaseException:
                    ignore_signals()
                    self._interrupt()
                    if running:
                        self.display.note("stopping: waiting for the checkpoints of the runs")
                    wait(running)
                    for future, task in running.items():
                        self._end(task, future, outcome)
                    raise
        except KeyboardInterrupt:
            raise StoppedError("interrupted: run the same command again to continue") from None
        return outcome

    @contextmanager
    def _alone(self) -> Iterator[None]:
        work = self.where.work
        with writing(f"--work {work}", "choose another folder"):
            work.mkdir(parents=True, exist_ok=True)
            held = lock(work / ".lock")
        if held is None:
            raise UsageError(f"--work {work}: another `reproduce` is using it; wait for it to end, or choose another")
        with held:
            yield

    def _with_nets(self, tasks: Sequence[Task]) -> list[Task]:
        """Return the tasks, each after those nets that it is made from and whose files are not here."""
        found: dict[Task, None] = {}
        for task in tasks:
            for net in self._needed(task):
                if net not in tasks and self.plan.trained(net) and not self._net(net).is_file():
                    self.display.note(f"{net} is trained again: its net is not in {self.where.work}")
                    found[net] = None
            found[task] = None
        return [*found]

    def _check_data(self, task: Task) -> None:
        """Raise UsageError if the data set is not that of the results which exist for the same scale and part.

        Also if a part does not have the ten classes that it should have.
        """
        scale, part = self.plan.scales[task.scale], self.plan.part(task)
        packed = self._set(part)
        if part is scale.parts.get("ten") and len(packed.classes) != 10:
            raise UsageError(
                f"--data {self.where.data}: the classes {part.classes} of it are {len(packed.classes)}; the scale "
                f"{scale.title} needs ten, as of Tiny ImageNet's 200"
            )
        here = data_of(packed)
        for run in self.plan.possible_runs(scale):
            for seed in self.plan.seeds(scale):
                other = Training(scale.title, run, seed)
                if self.plan.part(other) == part and (result := self.results.result(other)) and result.data != here:
                    raise UsageError(
                        f"--data {self.where.data}: {self.results.records.path(other)} is of other images; expected "
                        "the same data set, or another --results"
                    )

    def _ready(self, waiting: list[Task], running: Iterable[Task], outcome: Outcome) -> list[Task]:
        """Return the tasks that can start now. Those that can never start are moved to `outcome`."""
        running, ready = set(running), []
        for task in list(waiting):
            needed = self._needed(task)
            if failed := next((n for n in needed if n in outcome.failed), None):
                waiting.remove(task)
                outcome.failed[task] = f"{failed} failed"
            elif any(n in outcome.stopped for n in needed):
                waiting.remove(task)
                outcome.stopped.append(task)
            elif not any(n in waiting or n in running for n in needed) and len(running) + len(ready) < self.jobs:
                ready.append(task)
        return ready

    def _needed(self, task: Task) -> list[Training]:
        if isinstance(task, Mean):
            return self.plan.members(task)
        start = self.plan.start(task)
        return [start] if start else []

    def _end(self, task: Task, future: Future[Result], outcome: Outcome) -> None:
        try:
            result = future.result()
            self.results.records.write(task, result)
        except UnfinishedError:
            outcome.stopped.append(task)
        except Exception as error:  # whatever it is, the other runs go on
            kind = "" if isinstance(error, AlexNetInferError) else f"{type(error).__name__}: "
            outcome.failed[task] = f"{kind}{one_line(error)}"
            self.display.note(f"{task}: {outcome.failed[task]}")
        else:
            outcome.done.append(task)
            top1, top5 = result.wrong("ten").mean(0)
            self.display.note(f"{task}: ten views: top-1 error {top1:.2%}, top-5 {top5:.2%}")

    def _run(self, task: Task) -> Result:
        nets = [self._net(net) for net in (self.plan.members(task) if isinstance(task, Mean) else [task])]
        if trained := self.plan.trained(task):
            self._train(task)
        packed = self._set(self.plan.part(task))
        with self._measuring:  # each takes all cores
            self._check()
            return measure(
                nets,
                packed,
                settings(self.plan, task),
                self.device,
                trained=trained,
                neighbors=with_neighbors(task),
                on_images=lambda count: self._check(),
            )

    def _net(self, training: Training) -> Path:
        """Return the path of a net: a published one, or the result of a run."""
        if not self.plan.trained(training):
            return self.plan.net_file(training)
        return self.folder(training) / self.plan.net_name(training)

    def folder(self, training: Training) -> Path:
        """Return the folder of a run."""
        return self.where.work / str(training)

    def _train(self, training: Training) -> None:
        """Run the trainer until the net is finished. Raises UnfinishedError or RunFailedError if it is not."""
        out, start = self.folder(training), self.plan.start(training)
        extra: dict[str, Any] = {"device": self.device.type, "out": out}
        if start is not None:
            extra["init-from"] = self._net(start)
        if self.until < math.inf:
            extra["max-hours"] = max((self.until - time.monotonic()) / 3600, 1e-4)
        packed = self._set(self.plan.part(training))
        command = arguments(self.plan.options(training) | {"data": packed.root} | extra)
        out.mkdir(parents=True, exist_ok=True)
        text = self._process([sys.executable, "-m", "train", *command], out / "output.txt")
        if text is not None:
            raise RunFailedError(f"{text} (its output is in {out / 'output.txt'})")
        if unfinished(self._net(training)):
            raise UnfinishedError("the time limit stopped it")

    def _process(self, command: list[str], output: Path) -> str | None:
        """Run a command with its output in a file. Returns None if it succeeds, else the last line of its output."""
        threads = str(self.threads)
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        with output.open("ab") as file:
            file.write(f"$ {shlex.join(command)}\n".encode())
            file.flush()
            with self._starting(command, file, own) as process:
                code = process.wait()
            with self._signalling:
                self._processes.discard(process)
        self._check()
        if code == 0:
            return None
        lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
        return lines[-1] if lines else f"ended with the exit code {code}"

    def _starting(self, command: list[str], file: Any, own: dict[str, str]) -> subprocess.Popen[bytes]:
        # In a session of its own, so that Ctrl-C reaches it once, from here.
        with self._signalling:
            self._check()
            process = subprocess.Popen(
                command,
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                env=os.environ | own,
                start_new_session=True,
            )
            self._processes.add(process)
        return process

    def _check(self) -> None:
        if self._stopping.is_set():
            raise UnfinishedError("interrupted")

    def _interrupt(self) -> None:
        """Stop all runs, each with one SIGINT: a second one could end it before its checkpoint is written."""
        with self._signalling:
            if not self._stopping.is_set():
                self._stopping.set()
                for process in self._processes:
                    process.send_signal(signal.SIGINT)

    def _set(self, part: Part) -> PackedSet:
        """Return a part of the data, packed. It is packed when it is first needed."""
        name = f"{part.image_size}-{part.classes.replace(':', '_')}-{part.hold_out}"
        if name not in self._packed:
            self._packed[name] = self._pack(part, self.where.work / "data" / name)
        return self._packed[name]

    def _pack(self, part: Part, out: Path) -> PackedSet:
        selection = Selection(classes=part.classes, hold_out=part.hold_out)
        if not is_packed(self.where.data):
            out.parent.mkdir(parents=True, exist_ok=True)
            job = Preparation(source=self.where.data, out=out, size=part.image_size, selection=selection)
            return prepare(job, self.display).packed
        packed = open_packed(self.where.data)
        if not selection.everything or packed.size != part.image_size:
            raise UsageError(
                f"--data {self.where.data}: is a packed set; this scale needs the data set that it was made from "
                f"(squares of {part.image_size} pixels, classes {part.classes}, {part.hold_out} of each held out)"
            )
        return packed


def side_by_side(device: torch.device, jobs: int | None) -> tuple[int, int]:
    """Return how many runs to make at once, by default one per core, or 3 on a GPU; and the threads of each."""
    cores = os.cpu_count() or 1
    jobs = jobs or (3 if device.type == "cuda" else cores)
    return jobs, max(1, cores // jobs)
