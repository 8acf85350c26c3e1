"""The training loop, from packed images to weights. `train.ranks` describes how several processes share the work."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from alexnet_infer.architecture import Architecture, BatchNorm
from alexnet_infer.errors import UsageError
from alexnet_infer.manifest import ClassName
from alexnet_infer.preprocess import Preprocessing
from train.augment import Augment, ColorPCA, EpochPlan
from train.checkpoint import RunState
from train.columns import split_into_columns
from train.data import PackedImages
from train.device import working_precision
from train.evaluate import DivergedError, ModuleScorer, count_correct
from train.feed import Feed
from train.model import AlexNet, initialise
from train.optimizer import PaperSGD, onecycle, plateau
from train.packed_manifest import RESAMPLE
from train.ranks import Ranks
from train.recipe import Recipe
from train.saved import SavedRun, run_settings
from train.step import Batch, QueuedStep, StepReport, TrainingStep
from train.transfer import Initial

OnStep, OnState = Callable[[StepReport], None], Callable[[RunState], None]

CHECKPOINT_MINUTES = 5.0
"""Time between checkpoints within an epoch."""

BEHIND = {"cpu": 0, "cuda": 1}
"""How many later steps are queued when a step's values are read. With one, a GPU never waits for the host."""


class Trainer:
    """Trains `architecture` by `recipe`, which also sets the dropout rate. Resumes from the checkpoint in `out`.

    The same seed, recipe and data give the same weights, bit for bit on one CPU, even if the run was interrupted:
    every random number, including dropout's, is a function of the seed, the epoch and the image. An epoch has
    len(train) // batch steps unless the recipe sets fewer. Each epoch leaves out different images.

    Raises UsageError if the settings do not fit the data or the ranks, and ModelFileError if the checkpoint is damaged
    or from another run.
    """

    def __init__(
        self,
        architecture: Architecture,
        recipe: Recipe,
        train: PackedImages,
        validation: PackedImages,
        classes: Sequence[ClassName],
        out: Path,
        *,
        seed: int = 0,
        device: torch.device | None = None,
        ranks: Ranks | None = None,
        initial: Initial | None = None,
        precision: torch.dtype | None = None,
        compile: bool = False,
        accumulate: int = 1,
    ) -> None:
        architecture = recipe.apply_to(architecture)
        self.recipe, self.seed, self.classes = recipe, seed, tuple(classes)
        self.device = device or torch.device("cpu")
        self.ranks, self.initial = ranks or Ranks(), initial or Initial()
        self.precision = precision or working_precision(self.device)
        self.steps_per_epoch = self.ranks.steps_per_epoch(recipe, len(train), accumulate)
        if self.ranks.data_ranks * accumulate > 1 and any(isinstance(o, BatchNorm) for o in architecture.operations):
            raise UsageError(
                "--normalization batchnorm: needs whole batches; use --accumulate 1, and one process or two with "
                "--split-columns"
            )
        assert train.mean is not None, "the statistics of the training split"
        self.mean = train.mean if recipe.mean == "pixel" else train.mean.mean((0, 1), np.float64).astype(np.float32)
        # The GPU's kernel rounds to the first layer's input type; on a CPU the layer rounds its input itself.
        patches = self.precision if self.device.type == "cuda" else torch.float32
        color = ColorPCA.from_covariance(train.covariance), architecture.patch, recipe.color_sigma
        self.augment = Augment(self.mean, *color, self.device, patches, recipe.training_views)
        self.train, self.validation = Feed(train, self.device), Feed(validation, self.device)
        torch.manual_seed(seed)
        self.model = AlexNet(architecture, recipe.unit)
        initialise(self.model, recipe.init)
        self.model.take(self.initial.tensors)
        self.initial = Initial(origin=self.initial.origin)  # the weights are no longer needed
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
        """Time of `time.monotonic` at which the last step's values were read."""

    @property
    def trained_epochs(self) -> float:
        """Epochs completed, including the completed fraction of the current one."""
        return self.state.epoch + self.state.step / self.steps_per_epoch

    def save(self, on_step: OnStep = lambda report: None) -> None:
        """Write a checkpoint, from which a run on any number of ranks can resume. All ranks must call this.

        `on_step` is called for the steps in the checkpoint that `run` has not reported yet. Raises UsageError if the
        file can't be written, and DivergedError if one of those steps has a loss or gradient that is not finite.
        """
        self._report(on_step)
        self.saved.start(self.state)
        self.saved.finish()
        self.ranks.wait()

    def _net(self) -> dict[str, Any]:
        """Return a model file's entries other than the architecture."""
        classes = [[c.wnid, c.name] for c in self.classes]
        return {"preprocessing": self.preprocessing.to_json(), "classes": classes}

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of images for the net."""
        return Preprocessing(size=self.train.images.size, patch=self.augment.patch, mean=self.mean, resample=RESAMPLE)

    def checkpoint(self, which: Literal["last", "best"]) -> Path:
        """Return the path of the checkpoint that holds the net of `result`."""
        return self.saved.best if which == "best" and self.state.best_epoch else self.saved.last

    def result(self, which: Literal["last", "best"]) -> tuple[AlexNet, float]:
        """Return the undivided net and the number of epochs that it was trained for.

        "last" is the net after the last step, "best" the net after the epoch with the lowest top-1 validation error.
        Before the first epoch ends, "best" is the same as "last". All ranks must call this; only the first rank's net
        is valid.

        Raises ModelFileError if the best checkpoint is missing, damaged or from another run.
        """
        if self.checkpoint(which) == self.saved.last:
            return self.saved.whole_model(), self.trained_epochs
        return self.saved.best_model(), self.state.best_epoch

    @property
    def finished(self) -> bool:
        """Whether all of the recipe's epochs are done, or its `plateau` schedule has ended training."""
        waited_enough = self.recipe.schedule == "plateau" and plateau(self.recipe, self.state.errors)[1]
        return self.state.epoch >= self.recipe.epochs or waited_enough

    def run(
        self,
        on_step: OnStep = lambda report: None,
        on_epoch: OnState = lambda state: None,
        on_save: OnState = lambda state: None,
        until: float = math.inf,
    ) -> RunState:
        """Train to the end of the recipe, or until the time limit. Returns the state of the run.

        The limit, `until`, is a time of `time.monotonic`. The run stops after the first step that begins at or after
        it; on a GPU, after one more step or at the end of the epoch.

        The callbacks run between steps: `on_save` before each checkpoint, `on_epoch` after an epoch's checkpoint. If
        one of them raises, `save` can still save every step. On a GPU, a step is reported while the next one runs.
        Checkpoints are written by another thread and are complete when this method returns.

        Raises DivergedError if the loss, the gradient or the net's output is not finite; the last checkpoint is kept.
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
                    self._queue(batch, plan, due=now - saved_at > 60 * CHECKPOINT_MINUTES, over=now >= until)
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
        """Yield the batches of the epoch's remaining steps."""
        batch, steps = self.recipe.batch, range(self.state.step, self.steps_per_epoch)

        def shares(order: Tensor) -> Iterator[Tensor]:
            return (self.ranks.share(order[step * batch : (step + 1) * batch]) for step in steps)

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
        """Queue a step on the device.

        The first process decides for all processes whether to save or stop next. Its decision is summed with the
        step's values.
        """
        lr = self._lr()
        values = self.training_step(batch, plan, lr)
        flags = [torch.full((1,), float(flag and self.ranks.first), device=self.device) for flag in (due, over)]
        sums = self.ranks.sum_all(torch.cat([values, *flags]))
        self.state.step += 1
        self._queued.append(QueuedStep(self.state.epoch, self.state.step, lr, sums))

    def _report(self, on_step: OnStep, behind: int = 0) -> tuple[bool, bool]:
        """Read and report all queued steps but the last `behind`. Returns whether it is time to save, and to stop."""
        due = over = False
        while len(self._queued) > behind:
            step = self._queued.popleft()
            *sums, square_sum, due_now, over_now = step.read()
            loss, error = (total / self.ranks.count for total in sums)
            norm = math.sqrt(square_sum / self.ranks.data_ranks)
            # A gradient that is not finite has spoiled the weights, even if the loss was finite.
            for name, value in (("the loss", loss), ("the norm of the gradient", norm)):
                if not math.isfinite(value):
                    raise DivergedError(
                        f"{name} is {value} in epoch {step.epoch + 1}, step {step.step}: the run diverged; "
                        f"try a smaller --lr than {self.recipe.lr:g} (the last checkpoint is unchanged)"
                    )
            due, over = due or bool(due_now), over or bool(over_now)
            started, self._read_at = self._read_at, time.monotonic()  # includes the wait for the images
            self.state.seconds += self._read_at - started
            speed = self.recipe.batch / max(self._read_at - started, 1e-6)
            on_step(StepReport(step.epoch, step.step, loss, error, step.lr, speed, norm))
        return due, over

    def validation_error(self) -> tuple[float, float]:
        """Return the top-1 and top-5 validation error (0..1) on the recipe's `validation_views`.

        Each process counts its share of the images. Unreadable images count as wrong.
        """
        rows = torch.arange(len(self.validation))[self.ranks.data_rank :: self.ranks.data_ranks]
        views = self.recipe.validation_views
        scorer = ModuleScorer(self.model, self.augment.mean, self.augment.patch, views)
        # Compiling this shape and mode would take minutes and save seconds.
        with self.training_step.autocast(), torch.compiler.set_stance("force_eager"):
            correct = count_correct(scorer, self.validation, rows)[views]
        top1, top5 = self.ranks.sum(torch.tensor(correct, device=self.device)).tolist()
        total = self.validation.images.total
        return (total - top1) / total, (total - top5) / total
