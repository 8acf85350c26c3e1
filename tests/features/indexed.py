"""A small net, a small set, and files of their features, for tests of `similar`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alexnet_infer.datasets import open_images
from alexnet_infer.features.compute import FeaturesRequest, compute, load_net
from alexnet_infer.features.images import images_of_photos, images_of_set
from alexnet_infer.photos import expand


def index_of_set(root: Path, out: Path, model: Path, **options: object) -> Path:
    """Write the features of all images of the set in `root`, and return the file."""
    data = open_images(root)
    return _written(lambda: images_of_set(data, range(len(data)), root), out, model, **options)


def index_of_photos(photos: Sequence[object], out: Path, model: Path, **options: object) -> Path:
    """Write the features of photos, and return the file."""
    return _written(lambda: images_of_photos([*expand([*map(str, photos)])]), out, model, **options)


def _written(images, out: Path, model: Path, **options: object) -> Path:
    request = FeaturesRequest(model=model, out=out, **options)
    assert compute(request, load_net(request), images()).written
    return out
