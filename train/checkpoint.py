"""Checkpoints: the state of a run on disk. They are safetensors files, so that loading one can't run code."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from alexnet_infer.errors import ModelFileError, UsageError, one_line, shown
from alexnet_infer.files import replacing, write_atomically, writing


@dataclass
class RunState:
    """The progress of a run, without its weights. All randomness is a function of the seed and these numbers."""

    epoch: int = 0
    """Epochs completed."""
    step: int = 0
    """Steps completed in the current epoch."""
    errors: list[float] = field(default_factory=list)
    """Top-1 validation error (0..1) after each epoch."""
    top5: list[float] = field(default_factory=list)
    """Top-5 validation error (0..1) after each epoch."""
    seconds: float = 0.0
    """Time spent in training so far, without validation and checkpoints."""

    @property
    def best_epoch(self) -> int:
        """Epoch (from 1) with the lowest top-1 validation error, the first if several are equal.

        0 before the first epoch ends.
        """
        return self.errors.index(min(self.errors)) + 1 if self.errors else 0


def save(path: Path, config: dict, state: RunState, tensors: dict[str, Tensor], net: dict) -> None:
    """Write a checkpoint atomically: a reader sees either the old file or the new one.

    `net`: what `alexnet-infer import` needs to turn the checkpoint into a model file: preprocessing and classes, as in
    a manifest.

    Raises UsageError if it can't be written; the old checkpoint is then unchanged.
    """
    metadata = {"config": json.dumps(config), "state": json.dumps(vars(state)), "net": json.dumps(net)}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with replacing(path) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode
            # Unlike `save` and a file's `write`, this releases the interpreter lock while it writes.
            safetensors.torch.save_file(contiguous, temporary, metadata)
            temporary.chmod(mode)  # safetensors creates a file that only its owner can read
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UsageError(f"{path}: can't be written ({reason}); free some space, or change --out") from None


class Snapshot:
    """A copy of tensors as they are now. On a GPU the copies are queued, and the host does not wait for them."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        device = next(iter(self._copies.values())).device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def on_host(self) -> dict[str, Tensor]:
        """Return the copies in host memory. A GPU transfers them on a separate stream while it computes."""
        if self._stream is None:
            return self._copies
        with torch.cuda.stream(self._stream):
            return {name: tensor.cpu() for name, tensor in self._copies.items()}


class Writer:
    """Runs functions that write checkpoints in one thread, one after the other, while training continues."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._last: Future[None] | None = None

    def submit(self, write: Callable[[], None]) -> None:
        """Wait for the previous function, then start `write`. Raises what the previous function raised."""
        self.wait()
        self._last = self._thread.submit(write)

    def wait(self) -> None:
        """Wait until nothing is being written. Raises what the last function raised, once."""
        last, self._last = self._last, None
        if last is not None:
            last.result()


def load(path: Path, config: dict, shapes: dict[str, tuple[int, ...]]) -> tuple[RunState, dict[str, Tensor]]:
    """Read a checkpoint of a run with this configuration, whose tensors have exactly these names and shapes.

    Raises ModelFileError if the file is damaged, or if it comes from a run with other settings. The message names the
    first difference. Top-level settings that the file lacks are not compared, because an earlier version did not record
    them. Nested settings that it lacks are compared, except those in `COVERED`.
    """
    saved, state = _metadata(path)
    _refuse_other(path, saved, config)
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None
    saved_shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if names := sorted(dict(saved_shapes.items() ^ shapes.items())):
        raise ModelFileError(
            f"{path}: missing, unknown or wrongly shaped tensors: {', '.join(names)}; remove it to start over"
        )
    return state, tensors


def check(path: Path, config: dict) -> None:
    """Compare the checkpoint at `path` with a part of a run's configuration, without reading weights.

    Raises ModelFileError as `load` does. A run calls this before it decodes its images.
    """
    saved, _ = _metadata(path)
    _refuse_other(path, {key: value for key, value in saved.items() if key in config}, config)


def keep(path: Path, kept: Path) -> None:
    """Keep the checkpoint that is now at `path` under the name `kept` as well, atomically.

    `kept` becomes a hard link, which takes neither time nor space. A later `save` puts a new file at `path` and leaves
    `kept` unchanged. Without hard links the file is copied. Raises UsageError if `kept` can't be written.
    """
    temporary = kept.with_name(f".{kept.name}.tmp")
    with writing(kept, "change --out"):
        temporary.unlink(missing_ok=True)
        try:
            temporary.hardlink_to(path)
        except OSError:  # a file system without hard links
            write_atomically(kept, path.read_bytes())
        else:
            temporary.replace(kept)
            temporary.unlink(missing_ok=True)  # rename does nothing if both are links to the same file


def _metadata(path: Path) -> tuple[dict, RunState]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata()
        config = json.loads(metadata["config"])
        return dict(config), RunState(**json.loads(metadata["state"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> ModelFileError:
    return ModelFileError(f"{path}: not a checkpoint of this trainer ({one_line(error)}); remove it to start over")


def _refuse_other(path: Path, saved: dict, config: dict) -> None:
    if difference := _difference(saved, json.loads(json.dumps(config))):
        raise ModelFileError(
            f"{path}: from a run with a different {difference}; repeat that run's options to resume it, choose another "
            "--out, or remove the file"
        )


COVERED = ("recipe.dropout",)
"""Settings that old checkpoints lack, and that other settings cover: the architecture has the dropout rate."""


def _difference(saved: Any, now: Any, where: str = "") -> str:
    """Return the first difference of two JSON values, such as "recipe.epochs (22, now 10)"; "" if there is none.

    A key that `saved` lacks is not compared if it is at the top level or in COVERED.
    """
    if isinstance(saved, dict) and isinstance(now, dict):
        paths = {key: f"{where}.{key}".lstrip(".") for key in [*saved, *(now if where else ())]}
        compared = {key: path for key, path in paths.items() if key in saved or path not in COVERED}
        parts = [(saved.get(key), now.get(key), path) for key, path in compared.items()]
    elif isinstance(saved, list) and isinstance(now, list) and len(saved) == len(now):
        labels = [item.get("name", i) if isinstance(item, dict) else i for i, item in enumerate(saved)]
        parts = [(a, b, f"{where}.{label}") for a, b, label in zip(saved, now, labels, strict=True)]
    else:
        return "" if saved == now else f"{where} ({_short(saved)}, now {_short(now)})"
    return next(filter(None, (_difference(*part) for part in parts)), "")


def _short(value: Any) -> str:
    return f"{len(value)} entries" if isinstance(value, list) else shown(value)
