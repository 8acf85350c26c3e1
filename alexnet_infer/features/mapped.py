"""Features in a file whose arrays are found by name: .npz and .h5. All but the texts is mapped into memory.

about       the description (`About`) as JSON, one text
names       one text per image
labels      one text per image; empty for photos
error_rows  the rows of the images that can't be read, int64
errors      why they can't be read, one text for each
LAYER       [N, *shape]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from alexnet_infer.errors import UsageError
from alexnet_infer.features.about import MAX_IMAGES, About, AboutLayer
from alexnet_infer.features.arrays import Place, mapped
from alexnet_infer.features.table import LONGEST_TEXT, Damaged, Features, labels_of, text_of
from alexnet_infer.files import MAX_JSON_BYTES

MAX_TEXT_BYTES = 2**32
"""The largest array of texts. Each text takes as much as the longest: 1.2 million of 100 characters have 480 MB."""


def texts_of(features: Features) -> dict[str, list[str]]:
    """Return the texts of features by the names of their arrays. Raises UsageError if one would be too large."""
    errors = [features.errors[row] for row in sorted(features.errors)]
    texts = {"names": [*features.names], "labels": [label or "" for label in features.labels], "errors": errors}
    for kind, values in texts.items():
        check_texts(kind, values)
    return texts


def check_texts(kind: str, texts: Sequence[str]) -> None:
    """Raise UsageError if the array of these texts would be too large, since each takes as much as the longest."""
    longest = max(map(len, texts), default=0)
    if 4 * longest * len(texts) > MAX_TEXT_BYTES or longest > LONGEST_TEXT:
        raise UsageError(
            f"{len(texts):,} {kind} of up to {longest:,} characters are too much for this kind of file; choose .parquet"
        )


def error_rows(features: Features) -> np.ndarray:
    """Return the rows of the images that can't be read, int64."""
    return np.array(sorted(features.errors), "<i8")


class MappedFeatures(Features):
    """Features in the arrays of an open file, which may be closed afterwards. Raises Damaged and SpecError."""

    def __init__(self, path: Path, file: BinaryIO, places: Mapping[str, Place]) -> None:
        self._file, self._places = file, places
        about = self._about()
        names, labels = self._texts("names"), labels_of(self._texts("labels"))
        super().__init__(path, about, names, labels, self._errors())
        self._layers = {layer.name: self._values(layer) for layer in self.about.layers}

    def _array(self, layer: AboutLayer) -> np.ndarray:
        return self._layers[layer.name]

    def _values(self, layer: AboutLayer) -> np.ndarray:
        values = self._map(layer.name)
        if (values.dtype, values.shape) != (self.about.numpy_dtype, (len(self), *layer.shape)):
            raise Damaged(f"{layer.name} is {values.dtype} {list(values.shape)}: not what `about` says")
        return values

    def _map(self, name: str) -> np.ndarray:
        if name not in self._places:
            raise Damaged(f"the array {name} is missing")
        return mapped(self._file, self._places[name])

    def _about(self) -> About:
        values = self._map("about")
        if values.shape or values.nbytes > 4 * MAX_JSON_BYTES or not _are_texts(values):
            raise Damaged("the description `about` is damaged")
        return About.from_json(values.item())

    def _texts(self, name: str) -> list[str]:
        values = self._map(name)
        if values.ndim != 1 or values.shape[0] > MAX_IMAGES or values.nbytes > MAX_TEXT_BYTES or not _are_texts(values):
            raise Damaged(
                f"{name} is {values.dtype} {list(values.shape)}: expected at most {MAX_IMAGES:,} texts in "
                f"{MAX_TEXT_BYTES:,} bytes"
            )
        try:
            return [text_of(text.decode() if isinstance(text, bytes) else text) for text in values.tolist()]
        except UnicodeDecodeError as error:
            raise Damaged(f"{name}: {error}") from None

    def _errors(self) -> dict[int, str]:
        rows, texts = self._map("error_rows"), self._texts("errors")
        if rows.dtype != np.dtype("<i8") or rows.shape != (len(texts),) or (np.diff(rows) <= 0).any():
            raise Damaged("the rows of its errors are damaged")
        return dict(zip(rows.tolist(), texts, strict=True))


def _are_texts(values: np.ndarray) -> bool:
    """Whether an array has texts. NumPy makes damaged texts of numbers that are no characters."""
    if values.dtype.kind != "U" or not values.dtype.itemsize:
        return values.dtype.kind == "S"
    return not values.size or int(values.reshape(-1).view("<u4").max()) <= sys.maxunicode
