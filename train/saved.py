"""A run's checkpoints: taken while it trains, loaded when it goes on, and turned into nets at its end."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet_infer.errors import ModelFileError
from train import checkpoint
from train.checkpoint import RunState, Snapshot, Writer
from train.model import AlexNet
from train.optimizer import PaperSGD
from train.ranks import Ranks

LAST, BEST = "last.safetensors", "best.safetensors"


class SavedRun:
    """The last checkpoint in the folder `out`, and the one after the epoch with the lowest top-1 validation error, the
    first of equals. A run must have the same `config` as a checkpoint to go on from it; `net` is as in
    `checkpoint.save`.

    All ranks must call each method. Files are written and read by the first one, but for `restore`.
    """

    def __init__(
        self,
        out: Path,
        config: dict[str, Any],
        model: AlexNet,
        optimizer: PaperSGD,
        ranks: Ranks,
        net: dict[str, Any] | None,
    ) -> None:
        self.last, self.best = out / LAST, out / BEST
        self.config, self.model, self.optimizer, self.ranks, self.net = config, model, optimizer, ranks, net
        self._writer = Writer()

    def tensors(self) -> dict[str, Tensor]:
        """Weights, statistics and momentum that this rank holds, by their names in a checkpoint. Not copied."""
        names = [name for name, _ in self.model.named_parameters()]
        velocity = {f"velocity.{name}": v for name, v in zip(names, self.optimizer.velocity, strict=True)}
        return {f"model.{name}": t for name, t in self.model.state_dict().items()} | velocity

    def restore(self, device: torch.device) -> RunState:
        """Takes over the last checkpoint, where there is one, and returns where it stands.

        Raises ModelFileError when it is damaged or of another run.
        """
        if not self.ranks.any(self.last.exists(), device):
            return RunState()
        state, saved = checkpoint.load(self.last, self.config, self._whole_shapes())
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                tensor.copy_(self.ranks.part(saved[name]))
        if self.ranks.first:
            self._keep_best(state)  # the run may have ended between the two files
        return state

    def start(self, state: RunState) -> None:
        """Takes a checkpoint as of now, which is then written while training goes on. Waits for the one before it, and
        raises UsageError when that could not be written."""
        whole = {name: self.ranks.whole(tensor) for name, tensor in self.tensors().items()}
        if self.ranks.first:
            self._writer.submit(partial(self._write, Snapshot(whole), copy.deepcopy(state)))

    def finish(self) -> None:
        """Until everything is written. Raises UsageError when it could not be."""
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
        """The net as it is now, in one piece, on this device."""
        return self._model_from({name: self.ranks.whole(tensor) for name, tensor in self.model.state_dict().items()})

    def best_model(self) -> AlexNet:
        """The net of the best checkpoint; on other ranks than the first, of no use.

        Raises ModelFileError when it is missing, damaged or of another run.
        """
        shapes = self._whole_shapes()
        if not self.ranks.first:
            return self.model
        if not self.best.exists():
            raise ModelFileError(f"{self.best}: is missing; take the last net, with --result last")
        _, saved = checkpoint.load(self.best, self.config, shapes)
        own = "model."
        return self._model_from({n.removeprefix(own): t for n, t in saved.items() if n.startswith(own)})

    def _model_from(self, tensors: dict[str, Tensor]) -> AlexNet:
        model = AlexNet(self.model.architecture, self.model.unit)
        model.load_state_dict(tensors)
        return model.to(next(self.model.parameters()).device, memory_format=torch.channels_last)
