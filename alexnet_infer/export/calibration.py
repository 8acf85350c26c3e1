"""The images on which int8 ranges are measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_infer.datasets import open_images
from alexnet_infer.decode import read_square
from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.export.quantize import Method
from alexnet_infer.graph.info import ExportInfo
from alexnet_infer.manifest import Manifest
from alexnet_infer.photos import expand
from alexnet_infer.preprocess import patches

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


def calibration_inputs(source: Path, count: int, manifest: Manifest, info: ExportInfo) -> Iterator[np.ndarray]:
    """Yield inputs of the exported file from up to `count` images of `source`, CALIBRATION_BATCH images at a time.

    `source` is a labelled set or a folder of photos. If the file takes patches, each image gives its ten views. Images
    that can't be read are skipped. Raises UnreadableInputError if no image of `source` can be read.
    """
    preprocessing, batch = manifest.preprocessing, []
    count_read = 0
    for square in _squares(source, count, manifest):
        batch.append(square[None] if info.takes_squares else patches(square, preprocessing))
        count_read += 1
        if len(batch) == CALIBRATION_BATCH:
            yield np.concatenate(batch)
            batch = []
    if batch:
        yield np.concatenate(batch)
    if not count_read:
        raise UnreadableInputError(f"--calibrate {source}: no image can be read; expected a hundred images or more")


def _squares(source: Path, count: int, manifest: Manifest) -> Iterator[np.ndarray]:
    for data, name, apply_exif in _encoded(source, count):
        try:
            yield read_square(data, name=name, rescaling=manifest.preprocessing.rescaling, apply_exif=apply_exif)
        except UnreadableInputError:
            continue


def _encoded(source: Path, count: int) -> Iterator[tuple[bytes | Path, str, bool]]:
    """Yield (encoded image, name, whether to apply its EXIF orientation) of images spread evenly over the source."""
    for split in ("train", "validation"):
        try:
            data = open_images(source, split)
        except (UnreadableInputError, UsageError):
            continue
        for example in data.at(_spread(len(data), count), "yield"):
            if example.error is None:
                yield example.data, example.name, False
        return
    if not source.is_dir():
        raise UnreadableInputError(f"--calibrate {source}: expected a labelled set or a folder of photos")
    photos = [photo for photo in expand([str(source)]) if photo.path is not None]
    for position in _spread(len(photos), count):
        yield photos[position].path, photos[position].name, True


def _spread(total: int, count: int) -> list[int]:
    """Return `count` of `total` positions, or all of them, evenly spaced from the first to the last."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()
