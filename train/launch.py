"""One run from start to end: data, training, result."""

from __future__ import annotations

import io
import math
import signal
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from rich.console import Console

from alexnet_infer.architecture import Architecture
from alexnet_infer.errors import ModelFileError, StoppedError, UsageError, printable
from alexnet_infer.files import lock, writing
from alexnet_infer.version import __version__
from train import checkpoint
from train.checkpoint import RunState
from train.device import pick_device, prepare_process, resolve_compile
from train.display import Display, TrainingView
from train.evaluate import DivergedError
from train.finish import Finished, finish, summary_path
from train.job import Job
from train.log import LOG_NAME, RunLog
from train.loop import Trainer
from train.ranks import join
from train.saved import BEST, LAST, run_settings
from train.source import Source, open_source
from train.step import StepReport
from train.transfer import Initial, initial_weights


def launch(job: Job, display: Display) -> Finished | None:
    """Train the net of `job`, resuming from its checkpoint if there is one, and write the result.

    If several processes share the run, only the first shows progress and returns the result. The others return None.

    Raises an error of `alexnet_infer.errors` if the run fails, and StoppedError after Ctrl-C.
    """
    until = math.inf if job.max_hours is None else time.monotonic() + 3600 * job.max_hours
    device = pick_device(job.device)
    prepare_process(device)
    compile = resolve_compile(job.compile, device)
    ranks = join(device, job.columns)
    if not ranks.first:
        display = Display(Console(file=io.StringIO()))
    with ranks.connected():
        source = open_source(job.data, job.size, job.variant.patch)
        architecture = job.architecture(len(source.classes))
        initial = initial_weights(job.init_from, architecture, source.classes) if job.init_from else Initial()
        settings = {"device": device, "ranks": ranks, "initial": initial, "compile": compile}
        with _own_folder(job, ranks.first):
            if (job.out / LAST).exists():  # refuse a different run before spending minutes on decoding
                checkpoint.check(job.out / LAST, run_settings(architecture, job.recipe, job.seed, initial))
            return _run(job, architecture, source, display, until, settings)


def _run(
    job: Job, architecture: Architecture, source: Source, display: Display, until: float, settings: dict[str, Any]
) -> Finished | None:
    try:
        trainer = Trainer(
            architecture,
            job.recipe,
            *source.load(display),
            source.classes,
            job.out,
            seed=job.seed,
            accumulate=job.accumulate,
            **settings,
        )
        _train(trainer, _log(job, trainer), display, until)
        model, epochs = trainer.result(job.result)
        trainer.ranks.leave()
        if not trainer.ranks.first:
            return None
        data = printable(job.data.resolve().name)
        return finish(trainer, model, job.result_path, data, display, trained_epochs=epochs, result=job.result)
    except torch.OutOfMemoryError:
        raise UsageError(
            f"--batch {job.recipe.batch}: the GPU is out of memory; split each batch with --accumulate, or use a "
            "smaller batch"
        ) from None


@contextmanager
def _own_folder(job: Job, first: bool) -> Iterator[None]:
    """Create the run's folder, check its files and, on the first process, lock it against other runs.

    Raises UsageError or ModelFileError if that fails, before hours of training are spent.
    """
    try:
        job.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {job.out}: can't be created ({error.strerror}); choose another folder") from None
    with writing(f"--out {job.out}", "choose another folder"):
        _check_files(job)
        held = lock(job.out / ".lock") if first else nullcontext()
    if held is None:
        raise UsageError(f"--out {job.out}: another run is using it; wait for it to end, or choose another folder")
    with held:
        yield


def _check_files(job: Job) -> None:
    """Check that the files which the run will replace or append to are regular files, if they exist.

    A pipe or a device may block, and a link may lead to a file of someone else. Raises ModelFileError for checkpoints
    and UsageError for others.
    """
    checkpoints, others = (job.out / LAST, job.out / BEST), (job.out / LOG_NAME, job.result_path)
    for path in (*checkpoints, *others, summary_path(job.result_path)):
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(path.lstat().st_mode):
                error = ModelFileError if path in checkpoints else UsageError
                raise error(f"{path}: expected a regular file, not a link, folder, pipe or device; remove it")


def _log(job: Job, trainer: Trainer) -> RunLog | None:
    """Start the run's log at the run's current step. Returns None on all processes but the first."""
    if not trainer.ranks.first:
        return None
    tensorboard = job.out / "tensorboard" if job.tensorboard else None
    log = RunLog(job.out, trainer.steps_per_epoch, tensorboard=tensorboard)
    software = {"alexnet_infer": __version__, "torch": torch.__version__, "device": trainer.device.type}
    log.start((trainer.state.epoch, trainer.state.step), trainer.config, software)
    return log


def _train(trainer: Trainer, log: RunLog | None, display: Display, until: float) -> None:
    state, steps = trainer.state, trainer.steps_per_epoch
    where = f"{trainer.device.type}, {str(trainer.precision).removeprefix('torch.')}"
    if trainer.ranks.count > 1:
        where += f", {trainer.ranks.data_ranks} x {trainer.ranks.columns} processes (data x columns)"
    if trainer.finished:
        begin = "the run is finished; writing its result"
    elif state.epoch or state.step:
        begin = f"resuming at epoch {state.epoch + 1}, step {state.step + 1}"
    else:
        begin = "starting"
    display.note(f"{trainer.model.architecture.parameters:,} parameters on {where}; {begin}")
    done = state.epoch * steps + state.step
    reason = "failed"
    try:
        with display.training(trainer.recipe.epochs, steps, done) as view, _interruptible() as check:
            trainer.run(until=until, **_watched(view, log, check))
        reason = "finished" if trainer.finished else "time limit"
        if reason == "time limit":
            display.note(
                f"--max-hours: stopped after {state.epoch} epochs and {state.step} steps; run the same command "
                "again to resume"
            )
    except DivergedError:
        reason = "diverged"
        raise
    except KeyboardInterrupt:
        reason = "interrupted"
        if trainer.ranks.count > 1:  # saving needs all ranks, and the others may be at another step
            raise StoppedError("interrupted: run the same command again to resume from the last checkpoint") from None
        trainer.save(log.on_step if log else lambda report: None)
        raise StoppedError(
            f"interrupted after {state.epoch} epochs and {state.step} steps: saved to {trainer.saved.last}; "
            "run the same command again to resume"
        ) from None
    finally:
        if log:
            log.close(reason)


def _watched(view: TrainingView, log: RunLog | None, check: Callable[[], None]) -> dict[str, Callable]:
    """Return the callbacks for `Trainer.run`. They update the display and the log, and check for Ctrl-C."""

    def on_step(report: StepReport) -> None:
        view.on_step(report)
        if log:
            log.on_step(report)
        check()

    def on_save(state: RunState) -> None:  # first complete the log: a resumed run does not log these steps again
        if log and state.step == 0:
            log.on_epoch(state)
        elif log:
            log.flush()

    def on_epoch(state: RunState) -> None:
        view.on_epoch(state)
        check()

    return {"on_step": on_step, "on_epoch": on_epoch, "on_save": on_save}


@contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Delay Ctrl-C until the state is consistent.

    Yields a function that raises KeyboardInterrupt if Ctrl-C was pressed. A second Ctrl-C ends the program at once; the
    run then resumes from the last checkpoint.
    """
    pressed = False

    def handler(number: int, frame: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    previous = signal.getsignal(signal.SIGINT)
    if previous is signal.SIG_IGN:  # started in the background, where Ctrl-C is not meant for it
        yield check
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield check
    except RuntimeError:  # the same Ctrl-C may have ended another process of the run first
        check()
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
