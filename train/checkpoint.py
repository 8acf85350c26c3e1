"""Checkpoints: the state of a run on disk. They are safetensors files, so that loading one can't run code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta
from safetensors import SafetensorError
from torch import Tensor

from alexnet_infer import strict_json
from alexnet_infer.errors import ModelFileError, SpecError, cause_of, listed, printable, shown
from alexnet_infer.files import (
    copy_atomically,
    remove_leftovers,
    temporary_name,
    write_atomically,
    writing,
)
from alexnet_infer.tensor_file import open_tensors

_COUNT = Annotated[int, strict_json.whole(0, 2**53)]
_ERRORS = Annotated[list[Annotated[float, strict_json.number(0, 1)]], Meta(description="a list of numbers from 0 to 1")]
_STATE = {
    "epoch": _COUNT,
    "step": _COUNT,
    "errors": _ERRORS,
    "top5": _ERRORS,
    "seconds": Annotated[float, strict_json.number(0, 1e15)],
}


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
    with writing(path, "change --out"):
        write_atomically(path, _content(tensors, metadata))


_DTYPES = {torch.float32: "F32", torch.int64: "I64"}


def _content(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file in parts.

    The library's `save_file` writes to a temporary file with a name of its own, which a killed process leaves. Its
    `save` holds the interpreter lock and returns a copy of everything.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))  # so that all are aligned
    header, end = {"__metadata__": metadata}, 0
    for name in names:
        start, end = end, end + tensors[name].nbytes
        shape = list(tensors[name].shape)
        header[name] = {"dtype": _DTYPES[tensors[name].dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        yield tensors[name].detach().cpu().contiguous().numpy().data


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
        with open_tensors(path, "pt", follow=False) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, SpecError, OSError) as error:
        raise _damaged(path, error) from None
    saved_shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if names := sorted(dict(saved_shapes.items() ^ shapes.items())):
        raise ModelFileError(
            f"{path}: missing, unknown or wrongly shaped tensors: {listed(names)}; remove it to start over"
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
    with writing(kept, "change --out"):
        remove_leftovers(kept)
        temporary = temporary_name(kept)
        try:
            temporary.hardlink_to(path)
        except OSError:  # a file system without hard links
            copy_atomically(path, kept)
        else:
            try:
                temporary.replace(kept)
            finally:
                temporary.unlink(missing_ok=True)  # rename does nothing if both are links to the same file


def _metadata(path: Path) -> tuple[dict, RunState]:
    try:
        with open_tensors(path, "pt", follow=False) as file:
            metadata = file.metadata() or {}
        if not {"config", "state"} <= metadata.keys():
            raise SpecError("its header has no config and state")
        config, state = (strict_json.parse(metadata[key], key) for key in ("config", "state"))
        if not isinstance(config, dict) or not isinstance(state, dict):
            raise SpecError("its config and state are not JSON objects")
        if unknown := state.keys() - _STATE.keys():
            raise SpecError(f"its state has unknown fields: {listed(sorted(unknown))}")
        for name, value in state.items():
            strict_json.check_value(value, _STATE[name], f"state.{name}")
        return config, RunState(**state)
    except (SafetensorError, SpecError, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> ModelFileError:
    reason = cause_of(error)
    return ModelFileError(f"{path}: not a checkpoint of this trainer ({reason}); remove it to start over")


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
        labels = [_label(item, i) for i, item in enumerate(saved)]
        parts = [(a, b, f"{where}.{label}") for a, b, label in zip(saved, now, labels, strict=True)]
    else:
        return "" if saved == now else f"{printable(where)[:100]} ({_short(saved)}, now {_short(now)})"
    return next(filter(None, (_difference(*part) for part in parts)), "")


def _label(item: Any, position: int) -> str:
    name = item.get("name") if isinstance(item, dict) else None
    return name if isinstance(name, str) else str(position)


def _short(value: Any) -> str:
    return f"{len(value)} entries" if isinstance(value, list) else shown(value)
