"""The images on which int8's ranges are measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_infer.artifact import Manifest
from alexnet_infer.datasets import open_images
from alexnet_infer.decode import read_square
from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.export.info import ExportInfo
from alexnet_infer.export.quantize import Method
from alexnet_infer.photos import expand
from alexnet_infer.preprocess import patches

CALIBRATION_BATCH = 8
"""Images that go through the net at once while ranges are measured: their activations are kept until counted."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """On which images int8's ranges are measured, and how. Raises UsageError on values out of range."""

    source: Path
    """A labelled set, of which the training split is taken where it has one, or a folder of photos."""
    images: int = 100
    method: Method = "entropy"
    keep_float: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.images <= 100_000:
            raise UsageError(f"--calibration-images {self.images}: expected 1 to 100,000")


def calibration_inputs(source: Path, count: int, manifest: Manifest, info: ExportInfo) -> Iterator[np.ndarray]:
    """What the file takes as its input, a few images at a time: up to `count` images of a labelled set or of a folder
    of photos; the ten views of each where it takes patches.

    Photos that can't be read are left out. Raises UnreadableInputError when `source` has no image that can be read.
    """
    preprocessing, batch = manifest.preprocessing, []
    done = 0
    for square in _squares(source, count, manifest):
        batch.append(square[None] if info.takes_squares else patches(square, preprocessing))
        done += 1
        if len(batch) == CALIBRATION_BATCH:
            yield np.concatenate(batch)
            batch = []
    if batch:
        yield np.concatenate(batch)
    if not done:
        raise UnreadableInputError(f"--calibrate {source}: no image that can be read; expected a hundred or more")


def _squares(source: Path, count: int, manifest: Manifest) -> Iterator[np.ndarray]:
    for data, name, apply_exif in _encoded(source, count):
        try:
            yield read_square(data, name=name, rescaling=manifest.preprocessing.rescaling, apply_exif=apply_exif)
        except UnreadableInputError:
            continue


def _encoded(source: Path, count: int) -> Iterator[tuple[bytes | Path, str, bool]]:
    """(Encoded image, name, whether its orientation counts): of a labelled set a sample with all classes in it."""
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
        raise UnreadableInputError(f"--calibrate {source}: expected a labelled set, or a folder of photos")
    photos = [photo for photo in expand([str(source)]) if photo.path is not None]
    for place in _spread(len(photos), count):
        yield photos[place].path, photos[place].name, True


def _spread(total: int, count: int) -> list[int]:
    """Positions of `count` of `total`, or of all, from the first to the last."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()
