"""The training loop, from a packed set to weights; `train.ranks` says what of it each of several processes does."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from alexnet_infer.architecture import Architecture, BatchNorm
from alexnet_infer.artifact import ClassName
from alexnet_infer.errors import ModelFileError, UsageError
from alexnet_infer.preprocess import Preprocessing
from train import checkpoint
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
from train.transfer import Initial

LAST, BEST = "last.safetensors", "best.safetensors"


@dataclass(frozen=True)
class StepReport:
    """What a display is told after each step."""

    epoch: int
    """Epochs completed before this step's."""
    step: int
    """Steps completed in this epoch."""
    loss: float
    lr: float
    images_per_second: float
    grad_norm: float
    """Euclidean norm of the gradient of the mean loss, over all weights."""


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
        compile: bool = False,
        accumulate: int = 1,
        checkpoint_minutes: float = 5.0,
    ) -> None:
        self.recipe, self.seed, self.out, self.accumulate = recipe, seed, out, accumulate
        self.classes = tuple(classes)
        self.device = device or torch.device("cpu")
        self.ranks, self.initial = ranks or Ranks(), initial or Initial()
        self.precision = working_precision(self.device)
        self.steps_per_epoch = _steps_per_epoch(recipe, len(train), self.ranks, accumulate)
        if self.ranks.data_ranks * accumulate > 1 and any(isinstance(o, BatchNorm) for o in architecture.operations):
            raise UsageError(
                "--normalization batchnorm: every part of a batch would take its own statistics; expected "
                "--accumulate 1 and no ranks that share a batch"
            )
        statistics = train.statistics()
        self.mean = statistics.mean if recipe.mean == "pixel" else statistics.channel_mean
        self.augment = Augment(self.mean, statistics.pca, architecture.patch, recipe.color_sigma, self.device)
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
        self.state = RunState()
        if self.ranks.any(self.last_checkpoint.exists(), self.device):
            self._restore()
        if compile:
            self.model.compile()
        self.replica = self.model
        if self.ranks.data_group is not None:
            self.replica = DistributedDataParallel(self.model, process_group=self.ranks.data_group)

    @property
    def last_checkpoint(self) -> Path:
        return self.out / LAST

    @property
    def best_checkpoint(self) -> Path:
        """The checkpoint after the epoch with the lowest top-1 validation error so far; the first of equals."""
        return self.out / BEST

    def _tensors(self) -> dict[str, torch.Tensor]:
        names = [name for name, _ in self.model.named_parameters()]
        velocity = {f"velocity.{name}": v for name, v in zip(names, self.optimizer.velocity, strict=True)}
        return {f"model.{name}": t for name, t in self.model.state_dict().items()} | velocity

    def _whole_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of what a checkpoint holds. All ranks must call it."""
        return {name: tuple(self.ranks.whole(tensor).shape) for name, tensor in self._tensors().items()}

    def _restore(self) -> None:
        self.state, saved = checkpoint.load(self.last_checkpoint, self.config, self._whole_shapes())
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                tensor.copy_(self.ranks.part(saved[name]))
        if self.ranks.first:
            self._keep_best()  # the run may have ended between the two files

    @property
    def trained_epochs(self) -> float:
        """Epochs so far, the current one in part."""
        return self.state.epoch + self.state.step / self.steps_per_epoch

    @property
    def best_epoch(self) -> int:
        """Epochs completed when the top-1 validation error was lowest; 0 before the first."""
        errors = self.state.errors
        return errors.index(min(errors)) + 1 if errors else 0

    def save(self) -> None:
        """Writes the checkpoint that a later run, on any number of ranks, resumes from. All ranks must call it.

        Raises UsageError when it can't be written.
        """
        whole = {name: self.ranks.whole(tensor) for name, tensor in self._tensors().items()}
        if self.ranks.first:
            checkpoint.save(self.last_checkpoint, self.config, self.state, whole, self._net())
            self._keep_best()
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

    def _keep_best(self) -> None:
        if self.state.step == 0 and self.best_epoch == self.state.epoch > 0:
            checkpoint.keep(self.last_checkpoint, self.best_checkpoint)

    def whole_model(self) -> AlexNet:
        """The net in one piece, on this device. All ranks must call it."""
        return self._model_from({name: self.ranks.whole(tensor) for name, tensor in self.model.state_dict().items()})

    def result(self, which: Literal["last", "best"]) -> tuple[AlexNet, float]:
        """The net in one piece, after the last step or at the end of the best epoch, and the epochs that it was trained
        for. Before the first epoch ends, the best is the last. All ranks must call it; what it gives to others than the
        first is of no use.

        Raises ModelFileError when the best checkpoint is damaged or of another run.
        """
        last = self.whole_model()
        if which == "last" or not self.best_epoch:
            return last, self.trained_epochs
        shapes = self._whole_shapes()
        if not self.ranks.first:  # the checkpoint lies on the first one's disk
            return last, self.best_epoch
        if not self.best_checkpoint.exists():
            raise ModelFileError(f"{self.best_checkpoint}: is missing; take the last net, with --result last")
        _, saved = checkpoint.load(self.best_checkpoint, self.config, shapes)
        own = "model."
        best = {name.removeprefix(own): tensor for name, tensor in saved.items() if name.startswith(own)}
        return self._model_from(best), self.best_epoch

    def _model_from(self, tensors: dict[str, torch.Tensor]) -> AlexNet:
        model = AlexNet(self.model.architecture, self.model.unit)
        model.load_state_dict(tensors)
        return model.to(self.device, memory_format=torch.channels_last)

    @property
    def finished(self) -> bool:
        """Whether the recipe has come to its end."""
        waited_enough = self.recipe.schedule == "plateau" and plateau(self.recipe, self.state.errors)[1]
        return self.state.epoch >= self.recipe.epochs or waited_enough

    def run(
        self,
        on_step: Callable[[StepReport], None] = lambda report: None,
        on_epoch: Callable[[RunState], None] = lambda state: None,
        on_save: Callable[[RunState], None] = lambda state: None,
        until: float = math.inf,
    ) -> RunState:
        """Trains to the end of the recipe, or through the first step that begins at `until` (of `time.monotonic`).

        The callbacks run between two steps, `on_save` before a checkpoint is written and `on_epoch` after that of an
        epoch; when one raises, `save` may be called and loses nothing. Raises
        DivergedError when the loss or the net's output stops being a number; the last checkpoint stays as it was.
        """
        saved_at = ended = time.monotonic()
        while not self.finished:
            plan = EpochPlan.draw(len(self.train), self.seed, self.state.epoch)
            with closing(self._batches(plan)) as batches:
                for rows, squares in batches:
                    lr, now = self._lr(), time.monotonic()
                    due = now - saved_at > 60 * self.checkpoint_minutes
                    loss, norm, due, over = self._step(rows, squares, plan, lr, due=due, over=now >= until)
                    started, ended = ended, time.monotonic()  # the wait for the images belongs to the step
                    self.state.step += 1
                    self.state.seconds += ended - started
                    speed = self.recipe.batch / (ended - started)
                    on_step(StepReport(self.state.epoch, self.state.step, loss, lr, speed, norm))
                    if due or over:
                        on_save(self.state)
                        self.save()
                        saved_at = ended = time.monotonic()
                    if over:
                        return self.state
            self._end_epoch()
            on_save(self.state)
            self.save()
            on_epoch(self.state)
            saved_at = ended = time.monotonic()
        return self.state

    def _batches(self, plan: EpochPlan) -> Iterator[tuple[Tensor, Tensor]]:
        """What is left of the epoch, a step at a time: this process's rows, and their squares on the device."""
        batch, left = self.recipe.batch, range(self.state.step, self.steps_per_epoch)
        rows = [self.ranks.share(plan.order[step * batch : (step + 1) * batch]) for step in left]
        yield from zip(rows, self.train.batches(rows), strict=True)

    def _lr(self) -> float:
        if self.recipe.schedule == "plateau":
            return plateau(self.recipe, self.state.errors)[0]
        return onecycle(self.recipe, self.trained_epochs / self.recipe.epochs)

    def _end_epoch(self) -> None:
        top1, top5 = self.validation_error()
        self.state.errors.append(top1)
        self.state.top5.append(top5)
        self.state.epoch, self.state.step = self.state.epoch + 1, 0

    def _autocast(self) -> AbstractContextManager:
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.precision)

    def _step(
        self, rows: Tensor, squares: Tensor, plan: EpochPlan, lr: float, *, due: bool, over: bool
    ) -> tuple[float, float, bool, bool]:
        """One update. Returns the mean loss, the gradient's norm, and what all processes do next: save, and stop; the
        first process decides both."""
        self.model.train()
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.device)
        parts = [*zip(rows.chunk(self.accumulate), squares.chunk(self.accumulate), strict=True)]
        for i, (part, part_squares) in enumerate(parts, start=1):
            with nullcontext() if i == len(parts) else self._without_exchange():
                loss = self._loss(part, part_squares, plan) * (len(part) / len(rows))
                # Every column passes the whole loss back, and the exchanges add them up.
                (loss / self.ranks.columns).backward()
            total += loss.detach()
        norm = torch.stack(torch._foreach_norm(self.optimizer.gradients)).norm()
        self.optimizer.step(lr)
        # Waits for a GPU, so it comes after all the step's work is queued. One exchange for all there is to agree on.
        wishes = [float(wish and self.ranks.first) for wish in (due, over)]
        agreed = torch.stack([total, norm.float() ** 2, *torch.tensor(wishes, device=self.device)])
        loss_sum, square_sum, due, over = self.ranks.sum_all(agreed).tolist()
        value, length = loss_sum / self.ranks.count, math.sqrt(square_sum / self.ranks.data_ranks)
        # A gradient that is no number has spoilt the weights, whatever the loss was before.
        for what, found in (("loss", value), ("the gradient's norm", length)):
            if not math.isfinite(found):
                raise DivergedError(
                    f"{what} is {found} in epoch {self.state.epoch + 1}, step {self.state.step + 1}: the run diverged; "
                    f"try a smaller --lr than {self.recipe.lr:g} (the last checkpoint is untouched)"
                )
        return value, length, bool(due), bool(over)

    def _loss(self, rows: Tensor, squares: Tensor, plan: EpochPlan) -> Tensor:
        patches = self.augment.training(squares, plan, rows)
        with self._autocast():
            logits = self.replica(patches, plan.key[rows].to(self.device))
        labels = self.train.labels[rows.to(self.device)]
        return F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)

    def _without_exchange(self) -> AbstractContextManager:
        """For all parts of a batch but the last, whose gradients stay with this process until then."""
        return self.replica.no_sync() if isinstance(self.replica, DistributedDataParallel) else nullcontext()

    def validation_error(self) -> tuple[float, float]:
        """Top-1 and top-5 error (0..1) on the recipe's `validation_views`, each image on one process, once."""
        rows = torch.arange(len(self.validation))[self.ranks.data_rank :: self.ranks.data_ranks]
        views, mean, patch = self.recipe.validation_views, self.augment.mean, self.augment.patch
        with self._autocast():
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
