"""Write a trained net to its model file, with errors measured on the weights as they are stored."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch

from alexnet_infer import strict_json
from alexnet_infer.artifact import Artifact, load_artifact, sha256
from alexnet_infer.errors import BackendError, ModelFileError, SpecError
from alexnet_infer.files import read_limited, write_atomically, writing
from alexnet_infer.manifest import Manifest, MeasuredError, Provenance
from alexnet_infer.predict import Net
from alexnet_infer.preprocess import Views
from alexnet_infer.version import __version__
from train.device import exact_float32, hardware
from train.display import Display
from train.evaluate import DivergedError, ModuleScorer, NetScorer, wrong_images
from train.feed import Feed
from train.loop import Trainer
from train.model import AlexNet
from train.wrong import packed_bits

_MAX_SUMMARY = 2**24
"""Bytes: the errors of 100,000 epochs."""


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
    artifact: Artifact, images: Feed, data: str, on_images: Callable[[int], None] = lambda count: None
) -> tuple[tuple[MeasuredError, MeasuredError], dict[Views, np.ndarray]]:
    """Return the artifact's errors on `images` with the central view and with ten views, in float32.

    Also returns, by views, the images that are wrong (`train.evaluate.wrong_images`). `on_images` is called with the
    number of images measured since the last call.
    """
    with exact_float32(images.device):
        wrong = wrong_images(scorer_of(artifact, images.device), images, on_images)

    def error(views: Views) -> MeasuredError:
        top1, top5 = wrong[views].sum(0).tolist()
        return MeasuredError(data=data, views=views, images=len(wrong[views]), top1=top1, top5=top5)

    return (error("center"), error("ten")), wrong


def scorer_of(artifact: Artifact, device: torch.device, views: Views = "ten") -> ModuleScorer | NetScorer:
    """Return the net on `device`: on a CPU in ONNX Runtime, which is several times faster, if it is installed."""
    from alexnet_infer.backends.onnxruntime import OnnxRuntimeBackend, import_runtime

    if device.type != "cpu":
        return ModuleScorer.of(artifact, device, views)
    try:
        import_runtime()
    except BackendError:  # not installed
        return ModuleScorer.of(artifact, device, views)
    return NetScorer(Net(artifact.manifest, OnnxRuntimeBackend(artifact, "cpu"), views))


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
    path: Path,
    data: str,
    display: Display,
    *,
    trained_epochs: float,
    result: Literal["last", "best"] = "last",
) -> Finished:
    """Measure `model`, the trainer's undivided net, and write it to `path`, with a summary as JSON beside it.

    If both files are there from an earlier call with the same net and images, their errors are kept.

    The stem of `path` is the net's name. `data` is the name of the data set. `result` records which of the run's nets
    this is, and `trained_epochs` how long it was trained.

    Raises SpecError if a weight is too large for float16, DivergedError if one is not finite, and UsageError if the
    files can't be written.
    """
    manifest = Manifest(
        name=path.stem,
        architecture=trainer.model.architecture,
        preprocessing=trainer.preprocessing,
        classes=trainer.classes,
        provenance=_provenance(trainer, data, {"trained_epochs": trained_epochs, "result": result}),
    )
    try:
        weights = stored(model.artifact_tensors())
    except SpecError as error:
        command = shlex.join(["alexnet-infer", "import", str(trainer.checkpoint(result)), "-o", str(path)])
        raise SpecError(f"{error}; make a float32 model file from the checkpoint: {command}") from None
    unmeasured = Artifact(manifest, weights)
    if (errors := _known_errors(unmeasured, path, trainer)) is not None:
        display.note(f"{path}: keeping the errors that were measured before on the same images")
        return Finished(path=path, artifact=_with_errors(unmeasured, errors))
    with display.counting("measuring", len(trainer.validation)) as advance:
        errors, wrong = measure(unmeasured, trainer.validation, f"{data}, validation", advance)
    finished = Finished(path=path, artifact=_with_errors(unmeasured, errors))
    with writing(path, "change --out"):
        finished.artifact.save(path)
        write_atomically(summary_path(path), _as_json(finished, trainer, wrong).encode())
    return finished


def summary_path(path: Path) -> Path:
    """Return the path of the JSON file beside the model file `path`."""
    return path.with_name(f"{path.stem}.json")


def _with_errors(artifact: Artifact, errors: tuple[MeasuredError, ...]) -> Artifact:
    provenance = msgspec.structs.replace(artifact.manifest.provenance, errors=errors)
    return Artifact(msgspec.structs.replace(artifact.manifest, provenance=provenance), artifact.tensors)


def _known_errors(unmeasured: Artifact, path: Path, trainer: Trainer) -> tuple[MeasuredError, ...] | None:
    """Return the errors in the file at `path` if it holds this net, and its summary says: measured on these images."""
    try:
        before, text = load_artifact(path), read_limited(summary_path(path), _MAX_SUMMARY)
        summary = strict_json.parse(text, "summary")
        recorded = summary["sha256"], summary["data"]
    except (ModelFileError, OSError, SpecError, TypeError, LookupError):
        return None
    errors = before.manifest.provenance.errors
    same = (
        recorded == (sha256(path), trainer.config["data"])
        and _with_errors(unmeasured, errors).manifest.to_json() == before.manifest.to_json()
        and all(np.array_equal(tensor, before.tensors[name]) for name, tensor in unmeasured.tensors.items())
    )
    return errors if same else None


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


def _as_json(finished: Finished, trainer: Trainer, wrong: dict[Views, np.ndarray]) -> str:
    provenance = finished.artifact.manifest.provenance
    summary = {
        "model": finished.path.name,
        "bytes": finished.path.stat().st_size,
        "sha256": sha256(finished.path),
        "parameters": finished.artifact.manifest.architecture.parameters,
        "errors": [msgspec.structs.asdict(error) for error in provenance.errors],
        "epochs": provenance.recipe["trained_epochs"],
        "result": provenance.recipe["result"],
        "seed": provenance.seed,
        "training_seconds": round(trainer.state.seconds, 1),
        "hardware": hardware(trainer.device),
        "software": provenance.software,
        "data": trainer.config["data"],
        "validation_views": trainer.recipe.validation_views,
        "top1_error_by_epoch": trainer.state.errors,
        "top5_error_by_epoch": trainer.state.top5,
        "wrong": {views: packed_bits(of_views) for views, of_views in wrong.items()},
    }
    return json.dumps(summary, indent=1) + "\n"
