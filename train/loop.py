"""The training loop, from a packed set to weights; `train.ranks` says what of it each of several processes does."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from alexnet_infer.architecture import Architecture, BatchNorm
from alexnet_infer.artifact import ClassName
from alexnet_infer.errors import UsageError
from alexnet_infer.preprocess import Preprocessing
from train.augment import Augment, EpochPlan
from train.checkpoint import RunState
from train.columns import split_into_columns
from train.data import PackedImages
from train.device import working_precision
from train.evaluate import DivergedError, count_correct
from train.feed import Feed
from train.model import AlexNet, initialise
from train.optimizer import PaperSGD, onecycle, plateau
from train.packed import RESAMPLE
from train.ranks import Ranks
from train.recipe import Recipe
from train.saved import SavedRun
from train.step import Batch, QueuedStep, StepReport, TrainingStep
from train.transfer import Initial

OnStep, OnState = Callable[[StepReport], None], Callable[[RunState], None]

BEHIND = {"cpu": 0, "cuda": 1}
"""Steps that are queued when the values of an earlier one are read: a GPU always has the next step's work."""


class Trainer:
    """Trains `architecture` by `recipe`; a checkpoint in `out` makes a killed run go on where it stood.

    The same seed, recipe and data give the same weights, bit for bit on one CPU, also when the run was interrupted:
    every draw, dropout's included, follows from (seed, epoch, image). An epoch has
    len(train) // batch steps unless the recipe wants fewer; the images left over are others in every epoch.

    Raises UsageError when the set is smaller than a batch, ModelFileError when the checkpoint is not of this run.
    """

    def __init__(
        self,
        architecture: Architecture,
        recipe: Recipe,
        train: PackedImages,
        validation: PackedImages,
        out: Path,
        *,
        classes: Sequence[ClassName] = (),
        seed: int = 0,
        device: torch.device | None = None,
        ranks: Ranks | None = None,
        initial: Initial | None = None,
        precision: torch.dtype | None = None,
        compile: bool = False,
        accumulate: int = 1,
        checkpoint_minutes: float = 5.0,
    ) -> None:
        self.recipe, self.seed, self.out, self.accumulate = recipe, seed, out, accumulate
        self.classes = tuple(classes)
        self.device = device or torch.device("cpu")
        self.ranks, self.initial = ranks or Ranks(), initial or Initial()
        self.precision = precision or working_precision(self.device)
        self.steps_per_epoch = _steps_per_epoch(recipe, len(train), self.ranks, accumulate)
        if self.ranks.data_ranks * accumulate > 1 and any(isinstance(o, BatchNorm) for o in architecture.operations):
            raise UsageError(
                "--normalization batchnorm: every part of a batch would take its own statistics; expected "
                "--accumulate 1 and no ranks that share a batch"
            )
        statistics = train.statistics()
        self.mean = statistics.mean if recipe.mean == "pixel" else statistics.channel_mean
        # A GPU's kernel rounds to what the first layer takes; on a CPU the layer does.
        patches = self.precision if self.device.type == "cuda" else torch.float32
        color = statistics.pca, architecture.patch, recipe.color_sigma
        self.augment = Augment(self.mean, *color, self.device, patches)
        self.train, self.validation = Feed(train, self.device), Feed(validation, self.device)
        self.checkpoint_minutes = checkpoint_minutes
        torch.manual_seed(seed)
        self.model = AlexNet(architecture, recipe.unit)
        initialise(self.model, recipe.init)
        self.model.take(self.initial.tensors)
        self.initial = Initial(origin=self.initial.origin)  # the weights are not needed any more
        if self.ranks.column_group is not None:
            split_into_columns(self.model, self.ranks.column_group)
        self.model.to(self.device, memory_format=torch.channels_last)
        self.optimizer = PaperSGD(list(self.model.parameters()), recipe.momentum, recipe.weight_decay)
        self.config = {
            **run_settings(architecture, recipe, seed, self.initial),
            "data": {
                "size": train.size,
                **{f"{key} of training": value for key, value in train.identity.items()},
                **{f"{key} of validation": value for key, value in validation.identity.items()},
            },
        }
        self.ranks.check_same(self.config)
        self.saved = SavedRun(out, self.config, self.model, self.optimizer, self.ranks, self._net())
        self.state = self.saved.restore(self.device)
        if compile:
            self.model.compile(dynamic=False)
            self.optimizer.compile()
        self.training_step = TrainingStep(
            self.model,
            self.optimizer,
            self.augment,
            precision=self.precision,
            label_smoothing=recipe.label_smoothing,
            accumulate=accumulate,
            ranks=self.ranks,
        )
        self._queued: deque[QueuedStep] = deque()
        self._read_at = 0.0
        """When the last step's values were read; of `time.monotonic`."""

    @property
    def trained_epochs(self) -> float:
        """Epochs so far, the current one in part."""
        return self.state.epoch + self.state.step / self.steps_per_epoch

    def save(self, on_step: OnStep = lambda report: None) -> None:
        """Writes the checkpoint that a later run, on any number of ranks, resumes from. All ranks must call it.

        `on_step` gets the reports of the steps that are in it and that `run` has not reported. Raises UsageError when
        it can't be written, DivergedError when what it would hold is no number.
        """
        self._report(on_step)
        self.saved.start(self.state)
        self.saved.finish()
        self.ranks.wait()

    def _net(self) -> dict[str, Any] | None:
        """What a model file says of the net beside its architecture."""
        if not self.classes:
            return None
        classes = [[c.wnid, c.name] for c in self.classes]
        return {"preprocessing": self.preprocessing.to_json(), "classes": classes}

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are prepared for the net."""
        return Preprocessing(size=self.train.images.size, patch=self.augment.patch, mean=self.mean, resample=RESAMPLE)

    def result(self, which: Literal["last", "best"]) -> tuple[AlexNet, float]:
        """The net in one piece, after the last step or at the end of the best epoch, and the epochs that it was trained
        for. Before the first epoch ends, the best is the last. All ranks must call it; what it gives to others than the
        first is of no use.

        Raises ModelFileError when the best checkpoint is damaged or of another run.
        """
        if which == "last" or not self.state.best_epoch:
            return self.saved.whole_model(), self.trained_epochs
        return self.saved.best_model(), self.state.best_epoch

    @property
    def finished(self) -> bool:
        """Whether the recipe has come to its end."""
        waited_enough = self.recipe.schedule == "plateau" and plateau(self.recipe, self.state.errors)[1]
        return self.state.epoch >= self.recipe.epochs or waited_enough

    def run(
        self,
        on_step: OnStep = lambda report: None,
        on_epoch: OnState = lambda state: None,
        on_save: OnState = lambda state: None,
        until: float = math.inf,
    ) -> RunState:
        """Trains to the end of the recipe, or through the first step that begins at `until` (of `time.monotonic`); on a
        GPU, through the next one or the end of the epoch.

        The callbacks run between two steps, `on_save` before a checkpoint is taken and `on_epoch` after that of an
        epoch; when one raises, `save` may be called and loses nothing. On a GPU a step is reported while the next one
        runs. Checkpoints are written in another thread, and are complete when this returns. Raises DivergedError when
        the loss or the net's output stops being a number; the last checkpoint stays as it was.
        """
        try:
            self._run(on_step, on_epoch, on_save, until)
        finally:
            self.saved.finish()
        self.ranks.wait()
        return self.state

    def _run(self, on_step: OnStep, on_epoch: OnState, on_save: OnState, until: float) -> None:
        saved_at = self._read_at = time.monotonic()

        def save() -> None:
            nonlocal saved_at
            on_save(self.state)
            self.saved.start(self.state)
            saved_at = self._read_at = time.monotonic()

        while not self.finished:
            plan = EpochPlan.draw(len(self.train), self.seed, self.state.epoch).to(self.device)
            with closing(self._batches(plan)) as batches:
                for batch in batches:
                    now = time.monotonic()
                    self._queue(batch, plan, due=now - saved_at > 60 * self.checkpoint_minutes, over=now >= until)
                    due, over = self._report(on_step, BEHIND[self.device.type])
                    if due or over:
                        over |= self._report(on_step)[1]
                        save()
                    if over:
                        return
            _, over = self._report(on_step)
            self._end_epoch()
            save()
            on_epoch(self.state)
            if over:
                return

    def _batches(self, plan: EpochPlan) -> Iterator[Batch]:
        """What is left of the epoch, a step at a time."""
        batch, left = self.recipe.batch, range(self.state.step, self.steps_per_epoch)

        def shares(order: Tensor) -> Iterator[Tensor]:
            return (self.ranks.share(order[step * batch : (step + 1) * batch]) for step in left)

        sources = self.train.sources(shares(plan.order.to(self.train.home)))
        for rows, (squares, index) in zip(shares(plan.order), sources, strict=True):
            yield Batch(rows, self.train.labels[rows], squares, index)

    def _lr(self) -> float:
        if self.recipe.schedule == "plateau":
            return plateau(self.recipe, self.state.errors)[0]
        return onecycle(self.recipe, self.trained_epochs / self.recipe.epochs)

    def _end_epoch(self) -> None:
        top1, top5 = self.validation_error()
        self.state.errors.append(top1)
        self.state.top5.append(top5)
        self.state.epoch, self.state.step = self.state.epoch + 1, 0

    def _queue(self, batch: Batch, plan: EpochPlan, *, due: bool, over: bool) -> None:
        """Puts a step's work on the device. What all processes do next, save or stop, is the first one's wish, which
        travels with the step's values."""
        lr = self._lr()
        values = self.training_step(batch, plan, lr)
        wishes = [torch.full((1,), float(wish and self.ranks.first), device=self.device) for wish in (due, over)]
        agreed = self.ranks.sum_all(torch.cat([values, *wishes]))
        self.state.step += 1
        self._queued.append(QueuedStep(self.state.epoch, self.state.step, lr, agreed))

    def _report(self, on_step: OnStep, behind: int = 0) -> tuple[bool, bool]:
        """Reads and reports the queued steps but the last `behind`. Returns whether it is time to save, and to stop."""
        due = over = False
        while len(self._queued) > behind:
            step = self._queued.popleft()
            loss_sum, square_sum, *wishes = step.read()
            loss, norm = loss_sum / self.ranks.count, math.sqrt(square_sum / self.ranks.data_ranks)
            # A gradient that is no number has spoilt the weights, whatever the loss was before.
            for what, value in (("loss", loss), ("the gradient's norm", norm)):
                if not math.isfinite(value):
                    raise DivergedError(
                        f"{what} is {value} in epoch {step.epoch + 1}, step {step.step}: the run diverged; "
                        f"try a smaller --lr than {self.recipe.lr:g} (the last checkpoint is untouched)"
                    )
            due, over = due or bool(wishes[0]), over or bool(wishes[1])
            started, self._read_at = self._read_at, time.monotonic()  # the wait for the images belongs to the step
            self.state.seconds += self._read_at - started
            speed = self.recipe.batch / max(self._read_at - started, 1e-6)
            on_step(StepReport(step.epoch, step.step, loss, step.lr, speed, norm))
        return due, over

    def validation_error(self) -> tuple[float, float]:
        """Top-1 and top-5 error (0..1) on the recipe's `validation_views`, each image on one process, once."""
        rows = torch.arange(len(self.validation))[self.ranks.data_rank :: self.ranks.data_ranks]
        views, mean, patch = self.recipe.validation_views, self.augment.mean, self.augment.patch
        # Another shape and mode would be compiled for minutes, to save seconds.
        with self.training_step.autocast(), torch.compiler.set_stance("force_eager"):
            correct = count_correct(self.model, self.validation, rows, mean, patch, views)[views]
        right = self.ranks.sum(torch.tensor(correct, device=self.device)).tolist()
        images = len(self.validation) + self.validation.images.unreadable
        return (images - right[0]) / images, (images - right[1]) / images


def run_settings(architecture: Architecture, recipe: Recipe, seed: int, initial: Initial) -> dict[str, Any]:
    """What of a run's configuration is known before its images are read, as its checkpoint keeps it."""
    return {
        "architecture": architecture.to_json(),
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
        "init_from": initial.origin,
        "classes": architecture.classes,
    }


def _steps_per_epoch(recipe: Recipe, images: int, ranks: Ranks, accumulate: int) -> int:
    shares = ranks.data_ranks * accumulate
    if recipe.batch % shares:
        parts = f"{ranks.data_ranks} ranks that share a batch" + (f" x {accumulate} parts" if accumulate > 1 else "")
        raise UsageError(f"--batch {recipe.batch}: expected a multiple of {shares} ({parts})")
    if images < recipe.batch:
        raise UsageError(f"--batch {recipe.batch}: the training set has only {images} images; expected no more")
    steps = images // recipe.batch
    if (recipe.steps_per_epoch or 0) > steps:
        raise UsageError(
            f"--steps-per-epoch {recipe.steps_per_epoch}: the training set has {steps} batches; expected no more"
        )
    return recipe.steps_per_epoch or steps
