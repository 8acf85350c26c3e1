"""How long missing tasks would take on this machine: from runs that were made on it, or from a measured step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import numpy as np
import torch

from alexnet_infer.architecture import Architecture
from alexnet_infer.artifact import load_manifest
from train.augment import Augment, ColorPCA, EpochPlan
from train.device import hardware, working_precision
from train.job import default_size
from train.model import AlexNet, initialise
from train.optimizer import PaperSGD
from train.reproduction.plan import Mean, Part, Plan, Task, Training
from train.reproduction.rows import Results
from train.step import Batch, TrainingStep

WARM, TIMED = 2, 5
"""Steps before the time is taken, and steps of which the median is taken."""

FORWARD = 1 / 3
"""Time of a forward pass as a share of that of a training step: its multiply-adds are a third."""

VIEWS = 11
"""Forward passes per validation image when a net is measured: ten views, and one of a training image."""


class Costs:
    """Estimates the seconds that tasks take on one of several equal shares of this machine, with `threads` each.

    A run like one that was trained on this processor takes its time. For others, one step is timed, and the time of
    other nets is in proportion to their multiply-adds. Validation and the measurement are counted as forward passes.

    `images` has the numbers of training and validation images of a part of the data.
    """

    def __init__(
        self, plan: Plan, results: Results, device: torch.device, threads: int, images: Mapping[Part, tuple[int, int]]
    ) -> None:
        self.plan, self.results, self.device, self.threads, self.images = plan, results, device, threads, images
        self._per_multiply_add: float | None = None

    def seconds(self, task: Task) -> float | None:
        """Return the time of a task; None if the number of its images is not known."""
        part = self.plan.part(task)
        if part not in self.images:
            return None
        train, validation = self.images[part]
        if isinstance(task, Mean):
            return sum(self._measuring(net, validation) for net in self.plan.members(task))
        measuring = self._measuring(task, validation)
        if not self.plan.trained(task):
            return measuring
        epochs = self.plan.epochs(task)
        own = self._trained_here(task)
        training = epochs * train * self._per_image(task) if own is None else own
        views = 10 if self.plan.recipe(task).validation_views == "ten" else 1
        return training + epochs * views * validation * FORWARD * self._per_image(task) + measuring

    def _measuring(self, task: Task, validation: int) -> float:
        return VIEWS * validation * FORWARD * self._per_image(task)

    def _trained_here(self, task: Task) -> float | None:
        """Return the mean training time of the same run, with any seed, on such a processor; None without one."""
        if isinstance(task, Mean):
            return None
        torch.set_num_threads(self.threads)
        here = hardware(self.device)  # with the number of threads
        seeds = self.plan.seeds(self.plan.scales[task.scale])
        others = [self.results.result(Training(task.scale, task.run, seed)) for seed in seeds]
        times = [o.seconds for o in others if o is not None and o.seconds and o.hardware == here]
        return statistics.fmean(times) if times else None

    def _per_image(self, task: Task) -> float:
        """Return the time of a training step per image."""
        if self._per_multiply_add is None:
            timed = self._architecture(task)
            self._per_multiply_add = self._step(timed) / timed.multiply_adds
        return self._per_multiply_add * self._architecture(task).multiply_adds

    def _architecture(self, task: Task) -> Architecture:
        if self.plan.trained(task):
            return self.plan.recipe(task).apply_to(self.plan.variant(task).build())
        (first, *_) = self.plan.members(task) if isinstance(task, Mean) else [task]
        return load_manifest(self.plan.net_file(first)).architecture

    def _step(self, architecture: Architecture, batch: int = 128) -> float:
        """Time training steps of a net on random squares. Returns the median per image, in seconds."""
        torch.set_num_threads(self.threads)
        size = default_size(architecture.patch)
        squares = torch.randint(256, (batch, size, size, 3), dtype=torch.uint8, device=self.device)
        labels = torch.zeros(batch, dtype=torch.int64, device=self.device)
        plan = EpochPlan.draw(batch, 0, 0).to(self.device)
        model = AlexNet(architecture)
        initialise(model, "he")
        model.to(self.device, memory_format=torch.channels_last)
        color = ColorPCA.from_covariance(np.eye(3))
        augment = Augment(np.full(3, 128, np.float32), color, architecture.patch, 0.1, self.device)
        optimizer = PaperSGD(list(model.parameters()), 0.9, 0.0005)
        step = TrainingStep(model, optimizer, augment, precision=working_precision(self.device))
        rows, times = torch.arange(batch, device=self.device), []
        for _ in range(WARM + TIMED):
            started = time.perf_counter()
            step(Batch(rows, labels, squares), plan, 1e-4).tolist()  # waits for the device
            times.append(time.perf_counter() - started)
        return statistics.median(times[WARM:]) / batch
