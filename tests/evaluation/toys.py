"""Small nets and sets for tests of an evaluation: real nets with random weights, and lookup tables as nets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from msgspec import structs
from PIL import Image

from alexnet_infer.artifact import Artifact
from alexnet_infer.evaluation.predictions import (
    About,
    AboutData,
    AboutNet,
    ImageRow,
    Predictions,
    hash_of,
    open_all,
)
from alexnet_infer.manifest import ClassName
from alexnet_infer.predict import Net
from tests.datasets.mini import SYNSETS, WNIDS, jpeg, write, write_names
from tests.nets import TINY, random_artifact

OTHER_WNIDS = [*WNIDS[:-1], "n09999999"]


def save_net(
    path: Path, seed: int = 0, *, name: str | None = None, wnids: Sequence[str] = WNIDS, resample: str = "bicubic"
) -> Path:
    """Save a random net for squares of 64 pixels with the classes of the miniature set."""
    artifact = random_artifact(replace(TINY, classes=len(wnids)), seed=seed)
    manifest = structs.replace(
        artifact.manifest,
        name=name or path.stem,
        classes=named(wnids),
        preprocessing=structs.replace(artifact.manifest.preprocessing, resample=resample),
    )
    Artifact(manifest, artifact.tensors).save(path)
    return path


def save_nets(folder: Path, count: int, **options: Sequence[str]) -> list[Path]:
    """Save random nets with the seeds from 0 on."""
    return [save_net(folder / f"net-{seed}.safetensors", seed, **options) for seed in range(count)]


def write_set(root: Path, images: int = 60) -> Path:
    """Write folders with `images` noisy images, the classes in turn. File names do not contain the class."""
    for i in range(images):
        write(root / "val" / WNIDS[i % len(WNIDS)] / f"{i:04}.jpg", jpeg(i))
    write_names(root / "classes.tsv", "\t")
    return root


def write_greys(root: Path, labels: Sequence[int]) -> Path:
    """Write one image per label in Caffe's layout. Every pixel of the i-th image has grey level i, from 1 on."""
    root.mkdir(parents=True, exist_ok=True)
    for level in range(1, len(labels) + 1):
        Image.new("RGB", (9, 9), (level,) * 3).save(root / f"{level:03}.png")
    (root / "val.txt").write_text("".join(f"{i + 1:03}.png {label}\n" for i, label in enumerate(labels)))
    write_names(root / "synset_words.txt", " ")
    return root


class Lookup:
    """A backend that uses a patch's first value as a row of `table` [1 + images, classes]. Row 0 is for padding."""

    runtime, device, precision = "reference", "cpu", "fp32"
    description = "a table"
    takes_squares = False

    def __init__(self, table: Sequence[Sequence[float]]) -> None:
        self.table = np.asarray(table, np.float32)
        self.calls: list[int] = []

    def infer(self, patches_nchw: np.ndarray) -> np.ndarray:
        self.calls.append(len(patches_nchw))
        return self.table[patches_nchw[:, 0, 0, 0].astype(int)]


def lookup_net(table: Sequence[Sequence[float]], views: str = "ten") -> Net:
    """Make a net whose probabilities for the i-th image of `write_greys` are row i of `table`."""
    manifest = random_artifact(replace(TINY, classes=len(WNIDS))).manifest
    preprocessing = structs.replace(manifest.preprocessing, mean=np.zeros(3))
    classes = tuple(ClassName(wnid=wnid, name=SYNSETS[wnid]) for wnid in WNIDS)
    padding = np.full(len(WNIDS), np.nan)  # NaN in a result would show a mistake
    return Net(
        structs.replace(manifest, preprocessing=preprocessing, classes=classes), Lookup([padding, *table]), views
    )


def about(
    images: int,
    *,
    whole: int | None = None,
    net: str = "net",
    sha256: str | None = None,
    backend: str = "a table",
    wnids: Sequence[str] = WNIDS,
    begin: int = 0,
    end: int | None = None,
    batch: int = 4,
    views: str = "ten",
    **data: object,
) -> About:
    """Describe predictions for `images` of the `whole` images of a set with the classes of the miniature set."""
    facts = {
        "name": "mini",
        "layout": "flat",
        "split": "validation",
        "listing": "0" * 64,
        "classes": named(WNIDS),
        "images": whole or images,
        "sample": None,
        "left_out": 0,
    }
    return About(
        net=AboutNet(
            name=net,
            sha256=sha256 or f"{len(net):064x}",
            backend=backend,
            parameters=9,
            classes=named(wnids),
            deviations=(),
        ),
        data=AboutData(**{**facts, **data}),
        views=views,
        batch=batch,
        software="1",
        begin=begin,
        end=images if end is None else end,
        images="0" * 64,
    )


def named(wnids: Sequence[str]) -> tuple[ClassName, ...]:
    return tuple(ClassName(wnid=wnid, name=SYNSETS.get(wnid, wnid)) for wnid in wnids)


def opened(cache: Path, description: About, images: Sequence[ImageRow | tuple[str, int]]) -> Predictions:
    """Open predictions for `images`, whose hash is put into the description."""
    pairs = [(image.name, image.label) if isinstance(image, ImageRow) else image for image in images]
    (predictions,) = open_all(cache, [structs.replace(description, images=hash_of(pairs))], pairs)
    return predictions
