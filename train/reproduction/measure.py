"""Measure a net, or the mean of several, for a record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alexnet_infer import strict_json
from alexnet_infer.artifact import Artifact, load_artifact, load_manifest, sha256
from alexnet_infer.datasets import Split
from alexnet_infer.errors import SpecError, UnreadableInputError
from alexnet_infer.files import read_limited
from alexnet_infer.kernels import Kernels
from alexnet_infer.preprocess import Views
from alexnet_infer.version import __version__
from train.data import PackedImages
from train.device import exact_float32, hardware
from train.evaluate import MeanScorer, count_correct, wrong_images
from train.feed import Feed
from train.finish import scorer_of, summary_path
from train.log import read_log
from train.optimizer import plateau
from train.packed import PackedSet
from train.recipe import Recipe
from train.reproduction.neighbors import nearest_neighbors
from train.reproduction.record import Curve, Data, Errors, Result, Wrong
from train.wrong import unpacked_bits

QUARTERS = 4
"""Points of the loss curve per epoch."""

_MAX_SUMMARY = 2**24


def measure(
    nets: Sequence[Path],
    packed: PackedSet,
    settings: dict[str, Any],
    device: torch.device,
    *,
    trained: bool,
    neighbors: bool = False,
    on_images: Callable[[int], None] = lambda count: None,
) -> Result:
    """Measure the mean of the nets in model files, on the validation images of a packed set.

    A single net is also measured on training images. With `neighbors`, its nearest neighbours are found. With
    `trained`, it is a run's result: its curves are read from the log beside it, and the images that it gets wrong from
    its summary. `on_images` is called with the number of images measured since the last call.

    Raises ModelFileError if a file is damaged, and UnreadableInputError if a log or a summary is.
    """
    artifacts = [load_artifact(path) for path in nets]
    train, validation = (PackedImages.mapped_from(packed, split) for split in ("train", "validation"))
    with exact_float32(device):
        summary = _summary(nets[0]) if trained else {}
        wrong = _measured(summary, nets[0], validation)
        if wrong is None:
            wrong = wrong_images(_scorer(artifacts, device, "ten"), Feed(validation, device), on_images)
        alone = len(nets) == 1
        training = _training_errors(artifacts, train, len(validation), device, on_images) if alone else None
    return Result(
        settings=settings,
        data=data_of(packed),
        images=validation.total,
        center=Wrong.of(wrong["center"]),
        ten=Wrong.of(wrong["ten"]),
        training=training,
        neighbors=(
            nearest_neighbors(artifacts[0], Feed(train, device), Feed(validation, device), on_images)
            if neighbors
            else None
        ),
        color=_color(artifacts[0]) if alone else (),
        columns=Kernels.of(artifacts[0]).columns,
        parameters=artifacts[0].manifest.architecture.parameters,
        curve=_curve(nets[0], summary) if trained else None,
        seconds=summary.get("training_seconds"),
        hardware=summary.get("hardware") or hardware(device),
        software=summary.get("software") or f"alexnet-infer {__version__}, PyTorch {torch.__version__}",
        date=datetime.now(UTC).date().isoformat(),
    )


def data_of(packed: PackedSet) -> Data:
    """Return what identifies the images of a packed set: for both splits their number and a hash of pixels and labels.

    Unlike `PackedSet.digest`, it does not depend on the versions of the programs that packed the set.
    """

    def identity(split: Split) -> dict[str, Any]:
        hashes = [file.sha256 for file in packed.files if file.name.startswith(f"{split}-")]
        images = packed.images(split) + len(packed.unreadable(split))
        return {"images": images, "sha256": hashlib.sha256("".join(hashes).encode()).hexdigest()}

    return Data(train=identity("train"), validation=identity("validation"))


def _scorer(artifacts: Sequence[Artifact], device: torch.device, views: Views) -> MeanScorer:
    return MeanScorer([scorer_of(artifact, device, views) for artifact in artifacts])


def _measured(summary: dict[str, Any], net: Path, images: PackedImages) -> dict[Views, np.ndarray] | None:
    """Return which of `images` a run's net gets wrong, if its summary has that; else None."""
    try:
        measured = {name: summary["data"][f"{name} of validation"] for name in images.identity}
        if summary["sha256"] != sha256(net) or measured != images.identity:
            return None
        return {views: unpacked_bits(summary["wrong"][views], images.total) for views in ("center", "ten")}
    except (SpecError, TypeError, LookupError):  # of an earlier version
        return None


def _training_errors(
    artifacts: Sequence[Artifact],
    images: PackedImages,
    count: int,
    device: torch.device,
    on_images: Callable[[int], None],
) -> Errors:
    """Return the errors on `count` training images, evenly spread over the set, with the central view."""
    rows = torch.linspace(0, len(images) - 1, min(count, len(images))).round().long()
    scorer = _scorer(artifacts, device, "center")
    top1, top5 = count_correct(scorer, Feed(images, device), rows, on_images)["center"]
    return Errors(images=len(rows), top1=len(rows) - top1, top5=len(rows) - top5)


def _color(artifact: Artifact) -> tuple[float, ...]:
    """Return the share of colour in each half of the kernels of conv1, which are its columns if it has two."""
    return replace(Kernels.of(artifact), columns=2).colour_shares()


def _summary(net: Path) -> dict[str, Any]:
    path = summary_path(net)
    try:
        summary = strict_json.parse(read_limited(path, _MAX_SUMMARY), "summary")
    except (OSError, SpecError) as error:
        raise UnreadableInputError(f"{path}: {error}; remove its folder, and run the experiment again") from None
    return summary


def _curve(net: Path, summary: dict[str, Any]) -> Curve:
    records = read_log(net.parent)
    per_epoch = next(record["steps_per_epoch"] for record in records if record["event"] == "start")
    errors = {f"top{k}_error": tuple(summary[f"top{k}_error_by_epoch"]) for k in (1, 5)}
    training = _means(records, "top1_error", per_epoch, 1)
    if len(training) != len(errors["top1_error"]):  # the log of an earlier version
        training = ()
    loss = _means(records, "loss", per_epoch, QUARTERS)
    return Curve(loss=loss, training_error=training, steps_per_epoch=per_epoch, **errors)


def _means(records: Sequence[Mapping[str, Any]], name: str, per_epoch: int, parts: int) -> tuple[float, ...]:
    """Return the means of a figure of the logged steps over equal parts of each epoch, without parts that lack it."""
    found: dict[int, list[tuple[float, int]]] = {}
    for record in records:
        if record["event"] == "step" and record[name] is not None:
            middle = record["epoch"] + (record["step"] - record["steps"] / 2) / per_epoch
            found.setdefault(int(middle * parts), []).append((record[name], record["steps"]))
    return tuple(
        round(sum(value * steps for value, steps in part) / sum(steps for _, steps in part), 4)
        for _, part in sorted(found.items())
    )


def unfinished(net: Path) -> bool:
    """Whether a run's net was trained for fewer epochs than planned, because a time limit stopped it."""
    recipe = load_manifest(net).provenance.recipe
    errors = _summary(net)["top1_error_by_epoch"]
    own = Recipe(**{field.name: recipe[field.name] for field in fields(Recipe)})
    ended = own.schedule == "plateau" and plateau(own, errors)[1]
    return recipe["trained_epochs"] < own.epochs and not ended
