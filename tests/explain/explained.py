"""Nets of every kind, and what they compute for a photo, for the tests of the page."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from alexnet_infer.artifact import Artifact
from alexnet_infer.explain.measure import Explained, measure, subject
from alexnet_infer.explain.page import Photographed
from alexnet_infer.manifest import ClassName
from alexnet_infer.packages import installed
from alexnet_infer.preprocess import Preprocessing
from tests.nets import TINY, random_artifact

SIZE = 64
"""Side of the square of the nets below; their patches have 57 pixels."""

BACKEND = "onnxruntime" if installed("onnxruntime") else "reference"

VARIANTS = {
    "two columns": TINY,
    "one column": replace(TINY, columns=1),
    "no normalisation": replace(TINY, normalization="none"),
    "batch norm": replace(TINY, normalization="batchnorm"),
    "tanh": replace(TINY, activation="tanh"),
    "pool first": replace(TINY, pool_first=True, lrn_columns=1),
    "sixth convolution": replace(TINY, sixth_conv=16),
    "dropout first": replace(TINY, dropout_first=True),
    "separate windows": replace(TINY, pool_size=2),
    "three classes": replace(TINY, classes=3),
}

CHANNEL_MEAN = np.array([123.4, 117.2, 104.9])
PIXEL_MEAN = np.random.default_rng(5).uniform(90, 140, (SIZE, SIZE, 3))

PREPROCESSINGS = {
    "RGB": Preprocessing(size=SIZE, patch=57, mean=CHANNEL_MEAN),
    "BGR": Preprocessing(size=SIZE, patch=57, mean=CHANNEL_MEAN[::-1], channel_order="BGR"),
    "mean per pixel": Preprocessing(size=SIZE, patch=57, mean=PIXEL_MEAN),
    "0-1": Preprocessing(size=SIZE, patch=57, mean=CHANNEL_MEAN / 255, value_range="0-1"),
    "stretched": Preprocessing(size=SIZE, patch=57, mean=CHANNEL_MEAN, fit="stretch"),
}


def square(seed: int = 0, side: int = SIZE) -> np.ndarray:
    """Return a square uint8 [side, side, 3] whose parts differ."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8, 8, 3), np.uint8).repeat(-(-side // 8), 0).repeat(-(-side // 8), 1)
    return coarse[:side, :side].copy()


def photo(name: str = "photo.jpg") -> Photographed:
    return Photographed(name=name, width=640, height=480, copy=square(side=48)[:36])


def net(
    variant: str = "two columns",
    preprocessing: Preprocessing | None = None,
    classes: tuple[str, ...] = (),
    name: str | None = None,
) -> Artifact:
    """Return a net of VARIANTS with these names of its first classes."""
    artifact = _random(variant)
    known = artifact.manifest.classes
    named = [ClassName(wnid=own.wnid, name=name) for own, name in zip(known, classes, strict=False)]
    manifest = msgspec.structs.replace(
        artifact.manifest,
        name=name or artifact.manifest.name,
        preprocessing=preprocessing or artifact.manifest.preprocessing,
        classes=(*named, *known[len(named) :]),
    )
    return Artifact(manifest, artifact.tensors)


@functools.cache
def _random(variant: str) -> Artifact:
    return random_artifact(VARIANTS[variant], size=SIZE)


def explained(
    folder: Path,
    artifact: Artifact | None = None,
    *,
    views: str = "center",
    hidden: int = 40,
    stride: int | None = None,
    label: str | None = None,
) -> Explained:
    """Run a net, by default with few positions of the hiding square."""
    path = folder / "net.safetensors"
    (artifact or net()).save(path, np.float32)
    asked = subject(path, views, hidden, stride or hidden, label)
    return measure(asked, square(side=asked.manifest.preprocessing.size), device="cpu", backend=BACKEND)
