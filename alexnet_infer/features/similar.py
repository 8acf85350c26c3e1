"""The images of a file of features that are most similar to photos, as in the right half of the paper's Figure 4.

The net of the file computes the same layer for the photos, in the pipeline of `features`: the same views, the same
preprocessing and the same number of images per call, so that equal images have equal features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_infer.artifact import sha256
from alexnet_infer.backends import Choice, Device
from alexnet_infer.decode import Squares
from alexnet_infer.errors import ModelFileError, SpecError, UsageError, cause_of, printable
from alexnet_infer.features.about import FeaturesError
from alexnet_infer.features.images import Images, images_of_photos
from alexnet_infer.features.opening import open_features
from alexnet_infer.features.search import Neighbour, as_stored, check_number, layer_of, neighbours, search
from alexnet_infer.features.table import Features
from alexnet_infer.layers import find_layers
from alexnet_infer.nets import find_net, load, nets_at_hand
from alexnet_infer.photos import Photo
from alexnet_infer.pipeline import Clock, run
from alexnet_infer.predict import Net
from alexnet_infer.progress import counting
from alexnet_infer.reading import Decoded, batches

N = 6
"""Neighbours of a photo, as in the paper's figure."""

BATCH = 16
"""The most images per call of the net: the default of `features`. A photo alone is padded to the batch."""

PART = 64
"""The most photos that are searched for at once. Each further search reads the file again, which takes a fraction of
the time of comparing so many."""

QUERY_BYTES = 2**28
"""The most bytes of their features."""


@dataclass(frozen=True, kw_only=True)
class SimilarRequest:
    """What is searched, and with which net. Raises UsageError if a value is out of range."""

    index: Path
    """The file of features."""
    n: int | None = None
    """Images per photo. None for N, or all if there are fewer."""
    layer: str | None = None
    """None for the only layer of the file."""
    model: Path | None = None
    """The net's file. None for the net that the file of features names."""
    device: Device = "auto"
    backend: Choice = "auto"

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise UsageError(f"-n {self.n}: expected at least 1")


@dataclass(frozen=True, kw_only=True)
class Index:
    """An open file of features, one of its layers, and the net that computed them."""

    features: Features
    layer: str
    net: Net
    n: int
    """Images per photo."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFeatures:
    """The features of one image, `values` and `square`, or `error`."""

    name: str
    error: str | None = None
    """Why it can't be read, or why the file's type can't hold its features; without its name."""
    values: np.ndarray = field(default_factory=lambda: np.empty(0))
    """float64 [*shape], rounded to the type of the file."""
    square: np.ndarray | None = None
    """uint8 [S, S, 3] RGB, from which the net's views are cut. None if it was not kept."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A photo with its neighbours, the nearest first. There are none if it can't be read."""

    query: ImageFeatures
    neighbours: Sequence[Neighbour] = ()
    left_out: int = 0
    """Rows of the file that were not compared, since they have values that are not finite."""


def open_index(request: SimilarRequest) -> Index:
    """Open the file of features and load its net.

    Raises FeaturesError if the file is damaged, UsageError if it has no such layer, too few images, or comes from
    another net than `request.model`, and the errors of `load`.
    """
    features = open_features(request.index)
    layer, about = layer_of(features, request.layer), features.about
    n = request.n or max(1, min(N, about.images.count - about.images.unreadable))
    check_number(features, n, "-n ")
    path = _net_of(features, request.model)
    net = load(path, device=request.device, views=about.views, backend=request.backend, layers=[layer])
    (own,) = find_layers(net.manifest.architecture, [layer])
    same = net.manifest.preprocessing.to_json() == about.preprocessing.to_json() and net.manifest.name == about.net
    if own.shape != features.layers[layer] or not same:
        raise FeaturesError(
            f"{features.path}: describes another {layer}, preprocessing or name than its net has: it is damaged"
        )
    return Index(features=features, layer=layer, net=net, n=n)


def find_similar(index: Index, photos: Sequence[Photo], *, keep: bool = False) -> Iterator[Answer]:
    """Yield the nearest images for each photo, or its error, in order. With `keep`, the squares of the photos are kept.

    The photos are read and searched for in parts, so that memory does not grow with their number. The next answer
    raises FeaturesError if no row is finite, and the errors of `search`.
    """
    features = index.features
    part = max(1, min(PART, QUERY_BYTES // (8 * features.layer(index.layer).size)))
    with counting(f"searching {features.path}", len(photos), "photos") as advance:  # half for computing, half for this
        for some in batches(photos, part):
            images = features_of(index, images_of_photos(some), keep=keep, on_images=lambda count: advance(count / 2))
            yield from _answers(index, images, lambda rows: advance(rows / len(features) / 2))


def _answers(index: Index, images: Sequence[ImageFeatures], advance: Callable[[int], None]) -> Iterator[Answer]:
    """Yield the answers for photos whose features are known. `advance` is called with the rows that were compared."""
    features = index.features
    queries = [image.values for image in images if image.error is None]
    found: Iterator[tuple[np.ndarray, np.ndarray]] = iter(())
    left_out = 0
    if queries:
        rows, distances, left_out = search(
            features, index.layer, np.stack(queries), index.n, lambda count: advance(count * len(queries))
        )
        if left_out == len(features):
            raise FeaturesError(
                f"{printable(str(features.path))}: has no row of finite values for {index.layer}: compute it again"
            )
        found = zip(rows, distances, strict=True)
    advance(len(features) * (len(images) - len(queries)))
    for image in images:
        if image.error is not None:
            yield Answer(query=image)
        else:
            yield Answer(query=image, neighbours=neighbours(features, *next(found)), left_out=left_out)


def features_of(
    index: Index, images: Images, *, keep: bool = False, on_images: Callable[[int], None] = lambda count: None
) -> list[ImageFeatures]:
    """Return the features of images, in their order, rounded as in the file. With `keep`, also their squares.

    `on_images` is called with the number of images done since the last call.
    """
    task = _Collection(index, images, keep)
    run(images.source(0), [task], batch=_batch(index), on_images=on_images)
    return task.images


class _Collection:
    """The index's net in the pipeline, and the features that it has computed."""

    def __init__(self, index: Index, images: Images, keep: bool) -> None:
        self.net, self.done, self.images = index.net, 0, []
        self._index, self._source, self._keep = index, images, keep

    def run(self, images: Sequence[Decoded[Any, Squares]], inputs: np.ndarray | None, clock: Clock) -> None:
        about, net = self._index.features.about, self.net
        if inputs is not None:
            batch = _batch(self._index)
            values = iter(net.mean_over_views(net.backend.activations(inputs)[self._index.layer], batch))
        for image in images:
            row = self._source.row(image)
            if image.image is None:
                self.images.append(ImageFeatures(name=row.name, error=row.error))
                continue
            try:
                own = as_stored(next(values), about.numpy_dtype, self._index.layer)
            except UsageError as error:
                self.images.append(ImageFeatures(name=row.name, error=str(error)))
                continue
            square = image.image[net.rescaling] if self._keep else None
            self.images.append(ImageFeatures(name=row.name, values=own, square=square))


def _batch(index: Index) -> int:
    """Return the images per call of the net: as for the file, but at most BATCH, since memory grows with it."""
    return min(index.features.about.batch, BATCH)


def _net_of(features: Features, model: Path | None) -> Path:
    """Return the file of the net that computed features: `model`, or the known net of that name.

    Raises UsageError if it is another net, or if there is none of that name.
    """
    about = features.about
    path = model or _known(about.net)
    if path is None:
        raise UsageError(
            f"{features.path}: its net {about.net} ({about.sha256[:12]}...) is not known by name: name its file with "
            "--model"
        )
    try:
        digest = sha256(path)
    except (OSError, SpecError) as error:
        raise ModelFileError(f"{path}: can't be read ({cause_of(error)})") from None
    if digest != about.sha256:
        raise UsageError(
            f"{features.path}: was computed by the net {about.net} with SHA-256 {about.sha256[:12]}..., and {path} has "
            f"{digest[:12]}...: name the first net with --model, or compute the features again with the other"
        )
    return path


def _known(name: str) -> Path | None:
    """Return the file of a bundled or published net, or None for another name: a file may not name paths."""
    from alexnet_infer.published.registry import registry

    return find_net(name) if name in {net.stem for net in nets_at_hand()} or name in registry() else None
