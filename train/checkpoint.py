"""The state of a run on disk: safetensors, so that loading one can't run code."""

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
from alexnet_infer.files import replacing, write_atomically


@dataclass
class RunState:
    """Where a run stands, beside its weights. All randomness follows from the seed and these numbers."""

    epoch: int = 0
    """Epochs completed."""
    step: int = 0
    """Steps completed in the current epoch."""
    errors: list[float] = field(default_factory=list)
    """Top-1 validation error (0..1) after each epoch."""
    top5: list[float] = field(default_factory=list)
    """Top-5 validation error (0..1) after each epoch."""
    seconds: float = 0.0
    """Time spent in training so far."""

    @property
    def best_epoch(self) -> int:
        """Epochs completed when the top-1 validation error was lowest, the first of equals; 0 before the first."""
        return self.errors.index(min(self.errors)) + 1 if self.errors else 0


def save(path: Path, config: dict, state: RunState, tensors: dict[str, Tensor], net: dict | None = None) -> None:
    """Writes a checkpoint in one piece: a reader sees the old one or the new one.

    `net`: what `alexnet-infer import` needs to make a model file of it: preprocessing and classes, as in a manifest.

    Raises UsageError when it can't be written; the old one is then still whole.
    """
    metadata = {"config": json.dumps(config), "state": json.dumps(vars(state))}
    if net is not None:
        metadata["net"] = json.dumps(net)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with replacing(path) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode
            # Leaves the interpreter to other threads while it writes, which `save` and a file's `write` do not.
            safetensors.torch.save_file(contiguous, temporary, metadata)
            temporary.chmod(mode)  # safetensors makes a file that only its owner may read
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UsageError(f"{path}: can't be written ({reason}); free some space, or change --out") from None


class Snapshot:
    """Tensors as they are now, whatever happens to them later. On a GPU the copies are queued, and nothing waits."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        device = next(iter(self._copies.values())).device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def on_host(self) -> dict[str, Tensor]:
        """The copies in host memory; from a GPU by a stream of their own, beside the computation."""
        if self._stream is None:
            return self._copies
        with torch.cuda.stream(self._stream):
            return {name: tensor.cpu() for name, tensor in self._copies.items()}


class Writer:
    """Runs what writes checkpoints in a thread of its own, one after the other, while training goes on."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._last: Future[None] | None = None

    def submit(self, write: Callable[[], None]) -> None:
        """Runs `write` after the one before it has ended, for which this waits. Raises what that one raised."""
        self.wait()
        self._last = self._thread.submit(write)

    def wait(self) -> None:
        """Until nothing is being written. Raises what the last `write` raised, once."""
        last, self._last = self._last, None
        if last is not None:
            last.result()


def load(path: Path, config: dict, shapes: dict[str, tuple[int, ...]]) -> tuple[RunState, dict[str, Tensor]]:
    """Reads a checkpoint of a run with this configuration, whose tensors have exactly these names and shapes.

    Raises ModelFileError when the file is damaged or comes from a run with other settings, naming the first of them.
    A key of `config` that the file does not have, because an earlier version wrote it, is not compared.
    """
    saved, state = _metadata(path)
    _refuse_other(path, saved, config)
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wrong := sorted(dict(found.items() ^ shapes.items())):
        raise ModelFileError(f"{path}: missing, unknown or wrongly shaped: {', '.join(wrong)}; remove it to start anew")
    return state, tensors


def check(path: Path, config: dict) -> None:
    """Whether the checkpoint at `path` can be of a run with this part of its configuration; reads no weights.

    Raises ModelFileError as `load` does. A run asks this before it decodes its images.
    """
    saved, _ = _metadata(path)
    _refuse_other(path, {key: value for key, value in saved.items() if key in config}, config)


def keep(path: Path, kept: Path) -> None:
    """Makes `kept` the checkpoint that now stands at `path`, in one piece.

    A second name for the same file costs neither time nor space: `save` replaces the name, never the file. Raises
    UsageError when it can't be written.
    """
    temporary = kept.with_name(f".{kept.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        try:
            temporary.hardlink_to(path)
        except OSError:  # a file system without hard links
            write_atomically(kept, path.read_bytes())
        else:
            temporary.replace(kept)
            temporary.unlink(missing_ok=True)  # rename does nothing where both names are the same file already
    except OSError as error:
        raise UsageError(
            f"{kept}: can't be written ({error.strerror or error}); free some space, or change --out"
        ) from None


def _metadata(path: Path) -> tuple[dict, RunState]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata()
        config = json.loads(metadata["config"])
        return dict(config), RunState(**json.loads(metadata["state"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> ModelFileError:
    return ModelFileError(f"{path}: not a checkpoint of this trainer ({one_line(error)}); remove it to start anew")


def _refuse_other(path: Path, saved: dict, config: dict) -> None:
    now = json.loads(json.dumps(config))
    if difference := _difference(saved, {key: value for key, value in now.items() if key in saved}):
        raise ModelFileError(
            f"{path}: comes from a run with another {difference}; choose another --out, or remove the file"
        )


def _difference(saved: Any, now: Any, where: str = "") -> str:
    """The first place where two JSON values differ, as "recipe.epochs (22, now 10)"; empty where they are equal."""
    if isinstance(saved, dict) and isinstance(now, dict):
        keys = [*saved, *sorted(now.keys() - saved.keys())]
        parts = [(saved.get(key), now.get(key), f"{where}.{key}".lstrip(".")) for key in keys]
    elif isinstance(saved, list) and isinstance(now, list) and len(saved) == len(now):
        labels = [item.get("name", i) if isinstance(item, dict) else i for i, item in enumerate(saved)]
        parts = [(a, b, f"{where}.{label}") for a, b, label in zip(saved, now, labels, strict=True)]
    else:
        return "" if saved == now else f"{where} ({_short(saved)}, now {_short(now)})"
    return next(filter(None, (_difference(*part) for part in parts)), "")


def _short(value: Any) -> str:
    return f"{len(value)} entries" if isinstance(value, list) else shown(value)
