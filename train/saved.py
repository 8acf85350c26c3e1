"""The checkpoints of a run: written while it trains, read when it resumes, and converted to nets at its end."""

from __future__ import annotations

import copy
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet_infer.architecture import Architecture
from alexnet_infer.errors import ModelFileError
from train import checkpoint
from train.checkpoint import RunState, Snapshot, Writer
from train.model import AlexNet
from train.optimizer import PaperSGD
from train.ranks import Ranks
from train.recipe import Recipe
from train.transfer import Initial

LAST, BEST = "last.safetensors", "best.safetensors"


def run_settings(architecture: Architecture, recipe: Recipe, seed: int, initial: Initial) -> dict[str, Any]:
    """Return the part of a run's configuration, as in its checkpoint, that is known before its images are read."""
    return {
        "architecture": architecture.to_json(),
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
        "init_from": initial.origin,
        "classes": architecture.classes,
    }


class SavedRun:
    """The checkpoints of a run in the folder `out`: the last one and the best one.

    The best one is from the end of the epoch with the lowest top-1 validation error, the first if several are equal. A
    run can resume only from a checkpoint with the same `config`. `net` is as in `checkpoint.save`.

    All ranks must call each method. Only the first rank writes and reads files, except that all read in `restore`.
    """

    def __init__(
        self, out: Path, config: dict[str, Any], model: AlexNet, optimizer: PaperSGD, ranks: Ranks, net: dict[str, Any]
    ) -> None:
        self.last, self.best = out / LAST, out / BEST
        self.config, self.model, self.optimizer, self.ranks, self.net = config, model, optimizer, ranks, net
        self._writer = Writer()

    def tensors(self) -> dict[str, Tensor]:
        """Return this rank's weights, statistics and momentum by their names in a checkpoint, without copying them."""
        names = [name for name, _ in self.model.named_parameters()]
        velocity = {f"velocity.{name}": v for name, v in zip(names, self.optimizer.velocity, strict=True)}
        return {f"model.{name}": t for name, t in self.model.state_dict().items()} | velocity

    def restore(self, device: torch.device) -> RunState:
        """Load the last checkpoint and return its state, or a new state if there is no checkpoint.

        Raises ModelFileError if it is damaged or from another run.
        """
        if not self.ranks.any(self.last.exists(), device):
            return RunState()
        state, saved = checkpoint.load(self.last, self.config, self._whole_shapes())
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                tensor.copy_(self.ranks.part(saved[name]))
        if self.ranks.first:
            self._keep_best(state)  # the run may have ended between writing the two files
        return state

    def start(self, state: RunState) -> None:
        """Take a checkpoint of the current state, which is written while training continues.

        Waits for the previous one. Raises UsageError if that could not be written.
        """
        whole = {name: self.ranks.whole(tensor) for name, tensor in self.tensors().items()}
        if self.ranks.first:
            self._writer.submit(partial(self._write, Snapshot(whole), copy.deepcopy(state)))

    def finish(self) -> None:
        """Wait until everything is written. Raises UsageError if it could not be written."""
        self._writer.wait()

    def _write(self, snapshot: Snapshot, state: RunState) -> None:
        checkpoint.save(self.last, self.config, state, snapshot.on_host(), self.net)
        self._keep_best(state)

    def _keep_best(self, state: RunState) -> None:
        if state.step == 0 and state.best_epoch == state.epoch > 0:
            checkpoint.keep(self.last, self.best)

    def _whole_shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(self.ranks.whole(tensor).shape) for name, tensor in self.tensors().items()}

    def whole_model(self) -> AlexNet:
        """Return the undivided net in its current state, on this device."""
        return self._model_from({name: self.ranks.whole(tensor) for name, tensor in self.model.state_dict().items()})

    def best_model(self) -> AlexNet:
        """Return the undivided net of the best checkpoint. Only the first rank's net is valid.

        Raises ModelFileError if the checkpoint is missing, damaged or from another run.
        """
        shapes = self._whole_shapes()
        if not self.ranks.first:
            return self.model
        if not self.best.exists():
            raise ModelFileError(f"{self.best}: not found; use the last net with --result last")
        _, saved = checkpoint.load(self.best, self.config, shapes)
        prefix = "model."
        return self._model_from({n.removeprefix(prefix): t for n, t in saved.items() if n.startswith(prefix)})

    def _model_from(self, tensors: dict[str, Tensor]) -> AlexNet:
        model = AlexNet(self.model.architecture, self.model.unit)
        model.load_state_dict(tensors)
        return model.to(next(self.model.parameters()).device, memory_format=torch.channels_last)
