"""Features in memory, for tests of the forms of files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.features import npy, opening
from alexnet_infer.features.about import About, AboutImages, AboutLayer, hash_of
from alexnet_infer.features.arrays import header
from alexnet_infer.features.table import Features
from alexnet_infer.packages import installed
from alexnet_infer.preprocess import Preprocessing

FORMS = [
    ".npy",
    ".npz",
    pytest.param(".parquet", marks=pytest.mark.skipif(not installed("pyarrow"), reason="needs pyarrow")),
    pytest.param(".h5", marks=pytest.mark.skipif(not installed("h5py"), reason="needs h5py")),
]
"""The suffixes, without those whose package is missing."""


class Made(Features):
    """Features whose values are arrays in memory."""

    def __init__(self, values: Mapping[str, np.ndarray], *texts: object, **about: object) -> None:
        names, labels, errors = texts or ([f"{i}.jpg" for i in range(len(next(iter(values.values()))))], None, {})
        labels = labels or [None] * len(names)
        super().__init__(Path("made"), described(values, names, labels, len(errors), **about), names, labels, errors)
        self.values = values

    def _array(self, layer: AboutLayer) -> np.ndarray:
        return self.values[layer.name]


def described(
    values: Mapping[str, np.ndarray], names: list[str], labels: list[str | None], unreadable: int = 0, **others: object
) -> About:
    """Describe features with these values."""
    facts = {
        "net": "a net",
        "sha256": "0" * 64,
        "layers": tuple(AboutLayer(name=name, shape=array.shape[1:]) for name, array in values.items()),
        "views": "center",
        "dtype": str(next(iter(values.values())).dtype),
        "preprocessing": Preprocessing(size=64, patch=57, mean=np.array([1, 2, 3])),
        "batch": 16,
        "backend": "a backend",
        "software": "1",
        "images": AboutImages(
            data="photos",
            path=None,
            layout=None,
            split=None,
            sample=False,
            count=len(names),
            unreadable=unreadable,
            listing=hash_of(zip(names, labels, strict=True)),
        ),
    }
    return About(**{**facts, **others})


def write(features: Features, path: Path) -> Path:
    """Write features in the form that the suffix of `path` asks for."""
    if path.suffix == ".npy":
        (layer,) = features.about.layers
        with path.open("wb") as file:
            file.write(header(features.about.numpy_dtype, (len(features), *layer.shape)))
            file.writelines(block.tobytes() for block in features.blocks(layer.name))
        npy.text_file(path).write_bytes(b"".join(npy.lines(features)))
    else:
        written = sum(opening.WRITERS[path.suffix](features, path))
        assert written == len(features) * features.about.row_bytes
    return path


def same(read: Features, features: Features) -> Iterator[bool]:
    """Yield whether each part of the features that were read is that of the others."""
    yield (read.about.to_json(), read.names, read.labels, read.errors) == (
        *(features.about.to_json(), features.names, features.labels),
        features.errors,
    )
    for layer in features.layers:
        yield read.array(layer).dtype == features.array(layer).dtype
        yield bool(np.array_equal(read.array(layer), features.array(layer), equal_nan=True))
        for rows in (None, 1, 3, 1000):
            blocks = [*read.blocks(layer, rows)]
            yield bool(np.array_equal(np.concatenate(blocks), features.array(layer), equal_nan=True))
            yield rows is None or all(len(block) == rows for block in blocks[:-1])
