"""The images on which int8 ranges are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from alexnet_infer.datasets import LabelledImages, open_images
from alexnet_infer.datasets.base import Example
from alexnet_infer.decode import read_square
from alexnet_infer.digests import image_digest
from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.export.quantize import Method
from alexnet_infer.graph.info import ExportInfo
from alexnet_infer.manifest import ClassName
from alexnet_infer.max_drop import Metric
from alexnet_infer.photos import Photo, expand
from alexnet_infer.preprocess import Preprocessing, Rescaling, patches
from alexnet_infer.reading import decode_ahead

CALIBRATION_BATCH = 8
"""Images that are run at a time, so that few are in memory at once."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """On which images int8 ranges are measured, and how. Raises UsageError on values out of range."""

    source: Path
    """A labelled set, whose training split is preferred to its validation split, or a folder of photos."""
    images: int = 100
    method: Method = "entropy"
    keep_float: tuple[str, ...] = ()
    max_drop: Mapping[Metric, float] | None = None
    """With it, the layers that stay in float are chosen: as few as keep the drop in accuracy on the calibration images
    within these points (`keep_float.choose_float_layers`)."""

    def __post_init__(self) -> None:
        if not 1 <= self.images <= 100_000:
            raise UsageError(f"--calibration-images {self.images}: expected 1 to 100,000")


@dataclass(frozen=True, kw_only=True)
class CalibrationImage:
    """An image that was read."""

    square: np.ndarray
    """uint8 [S, S, 3] RGB."""
    digest: str
    """`image_digest` of the bytes that were decoded."""
    label: int | None = None
    """Position in the classes of the labelled set. None for a photo."""


class CalibrationImages:
    """Up to `count` images that are spread evenly over `source`, a labelled set or a folder of photos.

    Raises UnreadableInputError if `source` is neither. No image is read before `read` is called.
    """

    def __init__(self, source: Path, count: int) -> None:
        self._source = source
        self._data = _labelled(source)
        self._photos: Sequence[Photo] = ()
        if self._data is None:
            if not source.is_dir():
                raise UnreadableInputError(f"--calibrate {source}: expected a labelled set or a folder of photos")
            self._photos = [photo for photo in expand([str(source)]) if photo.path is not None]
        self._positions = _spread(len(self._photos if self._data is None else self._data), count)

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def classes(self) -> Sequence[ClassName]:
        """The classes of the labelled set. Empty for photos."""
        return () if self._data is None else self._data.classes

    def read(
        self, rescaling: Rescaling, on_unreadable: Callable[[UnreadableInputError], None] = lambda error: None
    ) -> Iterator[CalibrationImage]:
        """Yield the images, decoded ahead in threads. Each call reads them again.

        `on_unreadable` is called for each image that can't be read; it is skipped. Raises UnreadableInputError if no
        image can be read.
        """
        empty = True
        for image in decode_ahead(self._sources(), partial(_read, rescaling=rescaling)):
            if image.error is None:
                empty = False
                yield image.image
            else:
                on_unreadable(image.error)
        if empty:
            raise UnreadableInputError(
                f"--calibrate {self._source}: no image can be read; expected a hundred images or more"
            )

    def _sources(self) -> Iterator[Example | Photo]:
        if self._data is not None:
            return self._data.at(self._positions, "yield")
        return (self._photos[position] for position in self._positions)


def inputs_of(images: Sequence[CalibrationImage], preprocessing: Preprocessing, info: ExportInfo) -> np.ndarray:
    """Return the exported file's input for these images. If it takes patches, each image gives its ten views."""
    return np.concatenate(
        [image.square[None] if info.takes_squares else patches(image.square, preprocessing) for image in images]
    )


def _read(image: Example | Photo, rescaling: Rescaling) -> CalibrationImage:
    """Read and decode an image. The digest is that of the bytes that are decoded, even if the file is changing."""
    if isinstance(image, Example):
        data, label, name = image.content(), image.label, image.relative_name
    else:
        data, label, name = image.encoded(), None, image.name
    square = read_square(data, name=name, rescaling=rescaling, apply_exif=label is None)
    return CalibrationImage(square=square, digest=image_digest(data), label=label)


def _labelled(source: Path) -> LabelledImages | None:
    for split in ("train", "validation"):
        try:
            return open_images(source, split)
        except (UnreadableInputError, UsageError):
            continue
    return None


def _spread(total: int, count: int) -> list[int]:
    """Return `count` of `total` positions, or all of them, evenly spaced from the first to the last."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()
