"""The images on which int8 ranges are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_infer.datasets import open_images
from alexnet_infer.datasets.base import Example
from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.export.quantize import Method
from alexnet_infer.graph.info import ExportInfo
from alexnet_infer.manifest import Manifest
from alexnet_infer.photos import Photo, expand
from alexnet_infer.preprocess import patches
from alexnet_infer.reading import batches, decode_ahead

CALIBRATION_BATCH = 8
"""Images per yielded batch, so that few are in memory at once."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """On which images int8 ranges are measured, and how. Raises UsageError on values out of range."""

    source: Path
    """A labelled set, whose training split is preferred to its validation split, or a folder of photos."""
    images: int = 100
    method: Method = "entropy"
    keep_float: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.images <= 100_000:
            raise UsageError(f"--calibration-images {self.images}: expected 1 to 100,000")


def calibration_inputs(
    source: Path,
    count: int,
    manifest: Manifest,
    info: ExportInfo,
    on_unreadable: Callable[[UnreadableInputError], None] = lambda error: None,
) -> Iterator[np.ndarray]:
    """Yield inputs of the exported file from up to `count` images of `source`, CALIBRATION_BATCH images at a time.

    `source` is a labelled set or a folder of photos. If the file takes patches, each image gives its ten views.
    `on_unreadable` is called for each image that can't be read; it is skipped. Raises UnreadableInputError if no image
    of `source` can be read.
    """
    preprocessing = manifest.preprocessing

    def squares() -> Iterator[np.ndarray]:
        for image in decode_ahead(_spread_over(source, count), lambda image: image.square(preprocessing.rescaling)):
            if image.error is None:
                yield image.image
            else:
                on_unreadable(image.error)

    empty = True
    for batch in batches(squares(), CALIBRATION_BATCH):
        empty = False
        yield np.concatenate([s[None] if info.takes_squares else patches(s, preprocessing) for s in batch])
    if empty:
        raise UnreadableInputError(f"--calibrate {source}: no image can be read; expected a hundred images or more")


def _spread_over(source: Path, count: int) -> Iterator[Example | Photo]:
    """Yield `count` images that are spread evenly over the source, or all of them."""
    for split in ("train", "validation"):
        try:
            data = open_images(source, split)
        except (UnreadableInputError, UsageError):
            continue
        yield from data.at(_spread(len(data), count), "yield")
        return
    if not source.is_dir():
        raise UnreadableInputError(f"--calibrate {source}: expected a labelled set or a folder of photos")
    photos = [photo for photo in expand([str(source)]) if photo.path is not None]
    for position in _spread(len(photos), count):
        yield photos[position]


def _spread(total: int, count: int) -> list[int]:
    """Return `count` of `total` positions, or all of them, evenly spaced from the first to the last."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()
