"""One evaluation, from what was asked for to its predictions on disk."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL

from alexnet_infer import __version__
from alexnet_infer.artifact import sha256
from alexnet_infer.backends import Device, Runtime
from alexnet_infer.backends.opening import ENGINE_SUFFIXES, EXPORTED_SUFFIXES, describe
from alexnet_infer.datasets import LabelledImages, map_classes, open_images
from alexnet_infer.errors import UsageError, shown, visible
from alexnet_infer.evaluation.paper import departures
from alexnet_infer.evaluation.pipeline import Clock, predict
from alexnet_infer.evaluation.predictions import About, Predictions
from alexnet_infer.evaluation.ray_engine import predict_on_ray
from alexnet_infer.predict import LARGEST_BATCH, Net, load
from alexnet_infer.preprocess import Views
from alexnet_infer.progress import counting

DATA_VARIABLE = "ALEXNET_INFER_DATA"

BATCH = 16
"""Images that go through a net at once: 160 patches keep two cores, or a GPU, busy."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to evaluate, on what, and how. Raises UsageError on values out of range."""

    models: tuple[Path, ...]
    data: Path
    layout: str | None = None
    split: Literal["validation", "train"] = "validation"
    views: Views | None = None
    """None for those that a file cuts itself, or else the paper's ten."""
    device: Device = "auto"
    runtime: Runtime = "auto"
    trust_engine: bool = False
    batch: int = BATCH
    workers: int | None = None
    limit: int | None = None
    """Evaluate a sample of so many images, the classes' shares kept; None for all."""
    shard: int = 0
    """This machine's part: from 0 to `shards` - 1."""
    shards: int = 1
    cache: Path
    engine: Literal["local", "ray"] = "local"
    """ray: a cluster's machines compute the predictions, with the same result."""
    fresh: bool = False
    """Compute again what the cache has."""
    address: str | None = None
    """The Ray cluster's; None for the one that Ray finds."""

    def __post_init__(self) -> None:
        for option, value in (("--workers", self.workers), ("--limit", self.limit)):
            if value is not None and value < 1:
                raise UsageError(f"{option} {value}: expected at least 1")
        if not 1 <= self.batch <= LARGEST_BATCH:
            raise UsageError(f"--batch {self.batch}: expected 1 to {LARGEST_BATCH}")
        if not 0 <= self.shard < self.shards:
            raise UsageError(f"--shard {self.shard + 1}/{self.shards}: expected I/N with I from 1 to N")
        if self.address is not None and self.engine != "ray":
            raise UsageError(f"--address {shown(self.address)}: is a Ray cluster's; add --engine ray")
        if self.engine == "ray":
            for path in self.models:
                if path.suffix in ENGINE_SUFFIXES:
                    raise UsageError(f"{path}: an engine runs where it was built; leave --engine ray out")


def data_folder(given: Path | None) -> Path:
    """The data set that was named, or else that of $ALEXNET_INFER_DATA. Raises UsageError when neither is there."""
    found = given or (Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None)
    if found is None:
        raise UsageError(
            f"--data is missing, and ${DATA_VARIABLE} is not set: expected a labelled image set. For ILSVRC-2012, get "
            "ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz from https://image-net.org and name their folder"
        )
    return found


def stratified(labels: Sequence[int], count: int) -> list[int]:
    """Ascending positions of `count` examples in which every class has its share of the set, rounded up or down.

    Within a class they are spread evenly over its examples, so the same set gives the same sample.
    """
    places: dict[int, list[int]] = defaultdict(list)
    for position, label in enumerate(labels):
        places[label].append(position)
    # Largest remainders: the whole numbers nearest to the shares that add up to `count`. Equal remainders are served
    # evenly over the classes: the lowest WordNet ids are all animals.
    numbers = {label: count * len(own) // len(labels) for label, own in places.items()}
    classes: dict[int, list[int]] = defaultdict(list)
    for label in sorted(places):
        classes[count * len(places[label]) % len(labels)].append(label)
    left = count - sum(numbers.values())
    for remainder in sorted(classes, reverse=True):
        tied = classes[remainder]
        chosen = min(left, len(tied))
        left -= chosen
        for i in range(chosen):
            numbers[tied[i * len(tied) // chosen]] += 1
    return sorted(own[i * len(own) // numbers[label]] for label, own in places.items() for i in range(numbers[label]))


@dataclass(frozen=True)
class Computed:
    """Complete predictions, in order of the nets' names, with what they were made of."""

    data: LabelledImages
    positions: Sequence[int]
    """Of the images in `data`."""
    models: list[Path]
    nets: list[Net]
    predictions: list[Predictions]


def compute(request: Request, clock: Clock | None = None) -> Computed:
    """Computes what the cache lacks.

    Raises the errors of `open_images`, `load` and `Predictions`, and UsageError when the nets can't be averaged.
    """
    data = open_images(request.data, request.split, request.layout)
    loaded = [(path, _load(path, request), sha256(path)) for path in request.models]
    loaded.sort(key=lambda one: (one[1].manifest.name, one[2]))
    models, nets, digests = (list(column) for column in zip(*loaded, strict=True))
    _check_different(models, [_members(path, digest, request) for path, digest in zip(models, digests, strict=True)])
    for path, net in zip(models, nets, strict=True):
        if net.views != nets[0].views:
            raise UsageError(
                f"{path}: averages views={net.views}, {models[0]} views={nets[0].views}; expected the same of all"
            )
    check_same_classes([[c.wnid for c in net.manifest.classes] for net in nets], list(map(str, models)))
    map_classes(data.classes, nets[0].manifest.classes)  # refuses what can't be mapped before anything is computed
    positions = _positions(data, request)
    begin, end = _range(len(positions), request)
    shared = {
        "data": _data_facts(data, request, len(positions)),
        "views": nets[0].views,
        "batch": request.batch,
        "software": f"alexnet-infer {__version__}, Pillow {PIL.__version__}, NumPy {np.__version__}",
        "begin": begin,
        "end": end,
    }
    with ExitStack() as locks:
        abouts = [About(net=_net_facts(digest, net), **shared) for _, net, digest in loaded]
        if request.fresh:
            for about in abouts:
                Predictions.forget(request.cache, about)
        predictions = [locks.enter_context(closing(Predictions(request.cache, about))) for about in abouts]
        if not all(one.complete for one in predictions):
            with counting("evaluating", end - begin) as advance:
                own, common = positions[begin:end], {"workers": request.workers, "clock": clock, "on_images": advance}
                if request.engine == "ray":
                    files = list(zip(models, predictions, strict=True))
                    predict_on_ray(data, own, files, address=request.address, **common)
                else:
                    predict(data, own, list(zip(nets, predictions, strict=True)), **common)
    return Computed(data, positions[begin:end], models, nets, predictions)


def _load(path: Path, request: Request) -> Net:
    return load(
        path,
        device=request.device,
        views=request.views,
        backend=request.runtime,
        trust_engine=request.trust_engine,
    )


def _members(path: Path, digest: str, request: Request) -> list[str]:
    """SHA-256 of the nets in the file `path`: of what it was exported from, or its own. Raises UsageError for a file
    that can't be sent to a cluster, or of several nets beside others."""
    if path.suffix not in EXPORTED_SUFFIXES:
        return [digest]
    _, info = describe(path)
    if info is None:
        return [digest]
    if len(info.members) > 1 and len(request.models) > 1:
        raise UsageError(f"{path}: holds {len(info.members)} nets and would count as one; name the nets themselves")
    if request.engine == "ray" and path.suffix == ".onnx":
        from alexnet_infer.export.onnx_file import read_model

        if read_model(path).data:
            raise UsageError(f"{path}: has its weights in another file, and one is sent; leave --engine ray out")
    return [member.sha256 for member in info.members]


def _check_different(models: Sequence[Path], members: Sequence[Sequence[str]]) -> None:
    """Raises UsageError when two files hold the same net: a net's mean with itself is no ensemble."""
    first: dict[str, Path] = {}
    for path, digests in zip(models, members, strict=True):
        for digest in digests:
            twin = first.setdefault(digest, path)
            if twin is not path:
                raise UsageError(f"{path}: the same net as {twin}; an ensemble needs different nets")


def check_same_classes(wnids: Sequence[Sequence[str]], names: Sequence[str]) -> None:
    """Raises UsageError unless all nets of an ensemble have the same outputs."""
    for own, name in zip(wnids, names, strict=True):
        if list(own) != list(wnids[0]):
            raise UsageError(
                f"{name}: has other classes than {names[0]} ({len(own)} and {len(wnids[0])}); only nets with the same "
                "classes can be averaged"
            )


def _positions(data: LabelledImages, request: Request) -> Sequence[int]:
    if request.limit is None:
        return range(len(data))
    if request.limit > len(data):
        raise UsageError(f"--limit {request.limit}: the set has {len(data)} images; expected no more")
    return stratified(data.labels, request.limit)


def _range(count: int, request: Request) -> tuple[int, int]:
    """This shard's part of `count` images: whole batches, so that every batch is that of a single machine."""
    batches = -(-count // request.batch)
    begin, end = (request.batch * (batches * (request.shard + i) // request.shards) for i in (0, 1))
    if begin >= min(end, count):
        raise UsageError(f"--shard {request.shard + 1}/{request.shards}: no images are left for it; use fewer shards")
    return begin, min(end, count)


def _data_facts(data: LabelledImages, request: Request, count: int) -> dict[str, Any]:
    return {
        "name": visible(request.data.resolve().name),
        "layout": data.layout,
        "split": request.split,
        "listing": data.listing,
        "classes": [[c.wnid, c.name] for c in data.classes],
        "images": len(data),
        "sample": None if request.limit is None else count,
    }


def _net_facts(digest: str, net: Net) -> dict[str, Any]:
    manifest = net.manifest
    return {
        "name": manifest.name,
        "sha256": digest,
        "backend": net.backend.description,
        "parameters": manifest.architecture.parameters,
        "wnids": [c.wnid for c in manifest.classes],
        "names": [c.name for c in manifest.classes],
        "departures": list(departures(manifest.architecture, manifest.preprocessing.size)),
    }
