"""Write a trained net to its model file, with errors measured on the weights as they are stored."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from alexnet_infer.artifact import Artifact, sha256
from alexnet_infer.errors import SpecError, UsageError
from alexnet_infer.files import write_atomically
from alexnet_infer.manifest import ClassName, Manifest, MeasuredError, Provenance
from alexnet_infer.version import __version__
from train.device import exact_float32, hardware
from train.evaluate import DivergedError, count_correct
from train.feed import Feed
from train.loop import Trainer
from train.model import AlexNet


def stored(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights as a reader of the file gets them: rounded to float16, in float32.

    Raises DivergedError if a weight is not finite, and SpecError if it is too large for float16.
    """
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise DivergedError(
                f"{name} has weights that are NaN or infinite: the run diverged; train again with a smaller --lr and "
                "another --out"
            )
    with np.errstate(over="ignore"):
        rounded = {name: tensor.astype(np.float16).astype(np.float32) for name, tensor in tensors.items()}
    for name, tensor in rounded.items():
        if not np.isfinite(tensor).all():
            raise SpecError(f"{name} has weights too large for float16")
    return rounded


def measure(
    artifact: Artifact,
    images: Feed,
    data: str,
    on_images: Callable[[int], None] = lambda count: None,
) -> tuple[MeasuredError, MeasuredError]:
    """Return the artifact's errors on `images` with the central view and with ten views, in float32.

    Unreadable images count as wrong. `on_images` is called with the number of images measured since the last call.
    """
    device, preprocessing = images.device, artifact.manifest.preprocessing
    model = AlexNet(artifact.manifest.architecture)
    state = {name: torch.from_numpy(tensor) for name, tensor in artifact.tensors.items()}
    model.load_state_dict(state, strict=False)  # an artifact lacks batch norm's count of batches
    model.to(device, memory_format=torch.channels_last)
    mean = torch.from_numpy(np.array(preprocessing.mean)).to(device)
    rows = torch.arange(len(images))
    with exact_float32(device):
        correct = count_correct(model, images, rows, mean, preprocessing.patch, "ten", on_images)
    total = len(images) + images.images.unreadable
    center, ten = (
        MeasuredError(
            data=data, views=views, images=total, top1=total - correct[views][0], top5=total - correct[views][1]
        )
        for views in ("center", "ten")
    )
    return center, ten


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A trained net and its file."""

    path: Path
    artifact: Artifact

    @property
    def summary(self) -> str:
        """One line of text: file, size and errors."""
        center, ten = self.artifact.manifest.provenance.errors
        return (
            f"{self.path} ({self.path.stat().st_size / 1e6:.1f} MB): on {ten.images} images of {ten.data}, ten views: "
            f"top-1 error {ten.top1 / ten.images:.2%}, top-5 {ten.top5 / ten.images:.2%}; central view: "
            f"{center.top1 / center.images:.2%}, {center.top5 / center.images:.2%}"
        )


def finish(
    trainer: Trainer,
    model: AlexNet,
    classes: Sequence[ClassName],
    path: Path,
    data: str,
    on_images: Callable[[int], None] = lambda count: None,
    *,
    trained_epochs: float,
    result: Literal["last", "best"] = "last",
) -> Finished:
    """Measure `model`, the trainer's undivided net, and write it to `path`, with a summary as JSON beside it.

    The stem of `path` is the net's name. `data` is the name of the data set. `result` records which of the run's nets
    this is, and `trained_epochs` how long it was trained. `on_images` is called with the number of images measured
    since the last call.

    Raises SpecError if a weight is too large for float16, DivergedError if one is not finite, and UsageError if the
    files can't be written.
    """
    architecture = trainer.model.architecture
    manifest = Manifest(
        name=path.stem,
        architecture=architecture,
        preprocessing=trainer.preprocessing,
        classes=tuple(classes),
        provenance=_provenance(trainer, data, {"trained_epochs": trained_epochs, "result": result}),
    )
    try:
        weights = stored(model.artifact_tensors())
    except SpecError as error:
        command = shlex.join(["alexnet-infer", "import", str(trainer.checkpoint(result)), "-o", str(path)])
        raise SpecError(f"{error}; make a float32 model file from the checkpoint: {command}") from None
    artifact = Artifact(manifest, weights)
    errors = measure(artifact, trainer.validation, f"{data}, validation", on_images)
    provenance = dataclasses.replace(manifest.provenance, errors=errors)
    artifact = Artifact(dataclasses.replace(manifest, provenance=provenance), artifact.tensors)
    try:
        artifact.save(path)
        finished = Finished(path=path, artifact=artifact)
        write_atomically(path.with_name(f"{path.stem}.json"), _as_json(finished, trainer).encode())
    except OSError as error:
        raise UsageError(
            f"{path}: can't be written ({error.strerror or error}); free some space, or change --out"
        ) from None
    return finished


def _provenance(trainer: Trainer, data: str, extent: dict[str, Any]) -> Provenance:
    precision = str(trainer.precision).removeprefix("torch.")
    recipe = dataclasses.asdict(trainer.recipe) | extent
    if trainer.initial.origin:
        recipe["init_from"] = trainer.initial.origin
    ended = datetime.fromtimestamp(trainer.saved.last.stat().st_mtime, UTC)  # the same if finished again
    return Provenance(
        data=f"{data}, {len(trainer.train)} training images",
        recipe=recipe,
        seed=trainer.seed,
        date=ended.date().isoformat(),
        software=f"alexnet-infer {__version__}, PyTorch {torch.__version__}, {precision} on {trainer.device.type}",
    )


def _as_json(finished: Finished, trainer: Trainer) -> str:
    provenance = finished.artifact.manifest.provenance
    summary = {
        "model": finished.path.name,
        "bytes": finished.path.stat().st_size,
        "sha256": sha256(finished.path),
        "parameters": finished.artifact.manifest.architecture.parameters,
        "errors": [dataclasses.asdict(error) for error in provenance.errors],
        "epochs": provenance.recipe["trained_epochs"],
        "result": provenance.recipe["result"],
        "seed": provenance.seed,
        "training_seconds": round(trainer.state.seconds, 1),
        "hardware": hardware(trainer.device),
        "software": provenance.software,
        "validation_views": trainer.recipe.validation_views,
        "top1_error_by_epoch": trainer.state.errors,
        "top5_error_by_epoch": trainer.state.top5,
    }
    return json.dumps(summary, indent=1) + "\n"
