"""One training step: patches, loss, gradient, update; and its report to the host."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from train.augment import Augment, EpochPlan
from train.optimizer import PaperSGD
from train.ranks import Ranks


@dataclass(frozen=True)
class Batch:
    """This process's images for one step. All tensors are on the device."""

    rows: Tensor
    """int64 [B]: positions in the training set."""
    labels: Tensor
    """int64 [B]."""
    squares: Tensor
    """uint8 [M, S, S, 3]."""
    index: Tensor | None = None
    """int64 [B]: positions of the images in `squares`; None if `squares` are the images, in order."""

    def __len__(self) -> int:
        return len(self.rows)

    def parts(self, count: int) -> list[Batch]:
        """Split the batch into `count` equal parts; `count` must divide its length."""
        rows, labels = self.rows.chunk(count), self.labels.chunk(count)
        if self.index is None:
            return [*map(Batch, rows, labels, self.squares.chunk(count))]
        return [*map(Batch, rows, labels, [self.squares] * count, self.index.chunk(count))]


class TrainingStep:
    """Updates `model` in place with one batch per call.

    A call queues the work on the device and does not wait for it; the results stay on the device.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: PaperSGD,
        augment: Augment,
        *,
        precision: torch.dtype = torch.float32,
        label_smoothing: float = 0.0,
        accumulate: int = 1,
        ranks: Ranks | None = None,
    ) -> None:
        self.model, self.optimizer, self.augment = model, optimizer, augment
        self.precision, self.label_smoothing, self.accumulate = precision, label_smoothing, accumulate
        self.ranks = ranks or Ranks()
        self.replica = model
        if self.ranks.data_group is not None:
            self.replica = DistributedDataParallel(model, process_group=self.ranks.data_group)

    def __call__(self, batch: Batch, plan: EpochPlan, lr: float) -> Tensor:
        """Run one step. Returns float32 [3] on the device.

        The values are the mean loss over this process's images, their top-1 error (0..1), and the squared Euclidean
        norm of the gradient of this process's weights. Loss and error are those before the update.
        """
        self.model.train()
        self.optimizer.zero_grad()
        total = torch.zeros(2, device=batch.rows.device)
        parts = batch.parts(self.accumulate)
        for i, part in enumerate(parts, start=1):
            with nullcontext() if i == len(parts) else self._without_exchange():
                loss, wrong = self._loss(part, plan)
                loss = loss * (len(part) / len(batch))
                # Every column propagates the whole loss back, and the exchanges sum the gradients.
                (loss / self.ranks.columns).backward()
            total += torch.stack([loss.detach(), wrong / len(batch)])
        norm = torch.stack(torch._foreach_norm(self.optimizer.gradients)).norm()
        self.optimizer.step(lr)
        return torch.cat([total, norm.float()[None] ** 2])

    def _loss(self, batch: Batch, plan: EpochPlan) -> tuple[Tensor, Tensor]:
        """Return the mean loss over a batch, and how many of its images are wrong."""
        patches = self.augment.training(batch.squares, plan, batch.rows, batch.index)
        with self.autocast():
            logits = self.replica(patches, plan.key[batch.rows])
        loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=self.label_smoothing)
        return loss, (logits.detach().argmax(1) != batch.labels).sum()

    def autocast(self) -> AbstractContextManager:
        """Return a context in which layers compute in the working precision."""
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.augment.mean.device.type, self.precision)

    def _without_exchange(self) -> AbstractContextManager:
        """Return a context for all parts of a batch but the last: gradients are accumulated, not yet exchanged."""
        return self.replica.no_sync() if isinstance(self.replica, DistributedDataParallel) else nullcontext()


@dataclass(frozen=True)
class StepReport:
    """The figures of one step, for the display and the log."""

    epoch: int
    """Epochs completed before this step."""
    step: int
    """Steps completed in this epoch, including this one."""
    loss: float
    top1_error: float
    """On the images of the step, as the net was trained on them (0..1)."""
    lr: float
    images_per_second: float
    grad_norm: float
    """Euclidean norm of the gradient of the mean loss, over all weights."""


class QueuedStep:
    """A step that is queued on the device; its values are being copied to the host."""

    def __init__(self, epoch: int, step: int, lr: float, values: Tensor) -> None:
        self.epoch, self.step, self.lr = epoch, step, lr
        self._values, self._copied = values, None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> list[float]:
        """Return the values. Waits until the device has computed them."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values.tolist()
