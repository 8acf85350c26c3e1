"""From both splits of a data set to parts of a packed set: squares of a few images, and sums that merge exactly.

`train.prepare` puts the parts into files, `train.data` into memory.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np

from alexnet_infer import strict_json
from alexnet_infer.datasets import Example, LabelledImages, Split
from alexnet_infer.datasets.classes import different_classes
from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.files import read_limited, write_atomically
from alexnet_infer.preprocess import Rescaling
from alexnet_infer.reading import Unreadable, batches, decode_ahead
from train.packed_manifest import RESAMPLE
from train.selection import Images

_BYTES, _IMAGES = 2**20, 32
"""Limits of what a thread decodes at a time: enough to make the overhead negligible, but little memory."""

_MAX_TEXT = 2**26
"""Bytes of a part's labels and unreadable images: a million of them."""


@dataclass(eq=False)
class Sums:
    """Sums over squares, in integers, so that the totals do not depend on how the squares are divided into parts."""

    pixels: np.ndarray
    """Unsigned integers [S, S, 3]: the sum over the squares at each pixel."""
    products: np.ndarray
    """uint64 [3, 3]: entry i, j is the sum of channel i times channel j over all pixels of all squares."""
    images: int = 0

    @classmethod
    def empty(cls, size: int) -> Sums:
        """The sums over no squares."""
        return cls(np.zeros((size, size, 3), np.uint64), np.zeros((3, 3), np.uint64))

    @classmethod
    def of(cls, squares: np.ndarray) -> Sums:
        """The sums over uint8 [n, S, S, 3]."""
        width = np.uint16 if len(squares) <= 257 else np.uint64  # 257 * 255 is the largest number of 16 bits
        return cls(squares.sum(axis=0, dtype=width), _products(squares.reshape(-1, 3)), len(squares))

    def add(self, other: Sums) -> None:
        self.pixels += other.pixels
        self.products += other.products
        self.images += other.images

    @property
    def mean(self) -> np.ndarray:
        """The mean at each pixel, float32 [S, S, 3]."""
        return (self.pixels / self.images).astype(np.float32)

    @property
    def covariance(self) -> np.ndarray:
        """The covariance of the RGB values of all pixels, float64 [3, 3]. Each entry is rounded once."""
        count = self.images * self.pixels[..., 0].size
        sums = [int(v) for v in self.pixels.sum(axis=(0, 1))]
        products = self.products.tolist()
        return np.array([[(count * products[i][j] - sums[i] * sums[j]) / count**2 for j in range(3)] for i in range(3)])


def _products(pixels: np.ndarray) -> np.ndarray:
    """Return `Sums.products` of uint8 [n, 3].

    uint16 suffices for a product and uint32 for the sum of a block; wider types take twice as long.
    """
    block = 2**14
    total = np.zeros((3, 3), np.uint64)
    for start in range(0, len(pixels), block):
        planes = pixels[start : start + block].T.astype(np.uint16, order="C")
        for i in range(3):
            for j in range(i + 1):
                total[i, j] += (planes[i] * planes[j]).sum(dtype=np.uint32)
    return total + np.tril(total, -1).T


@dataclass(frozen=True, eq=False)
class Part:
    """Labels, failures and sums of consecutive images: a few that are decoded together, or those of a shard."""

    labels: list[int]
    """Labels of the images that could be read and decoded."""
    unreadable: list[Unreadable]
    """The other images."""
    sums: Sums

    @classmethod
    def empty(cls, size: int) -> Part:
        """A part without images."""
        return cls([], [], Sums.empty(size))

    @property
    def seen(self) -> int:
        """Number of images, readable or not."""
        return len(self.labels) + len(self.unreadable)

    def add(self, other: Part) -> None:
        self.labels.extend(other.labels)
        self.unreadable.extend(other.unreadable)
        self.sums.add(other.sums)

    def check(self, examples: Images) -> None:
        """Check that this part is the whole split `examples`.

        Raises UnreadableInputError if images are missing at its end, or if none of its images can be read.
        """
        where = f"{examples.root}: "
        if self.seen != len(examples):
            raise UnreadableInputError(
                f"{where}the {examples.split} split ends after {self.seen} images of {len(examples)}"
            )
        if not self.labels:
            first = next((f"{item.image}: {item.reason}" for item in self.unreadable), "it is empty")
            raise UnreadableInputError(f"{where}no image of the {examples.split} split can be read ({first})")


def open_splits(root: Path, validation: Path | None = None) -> dict[Split, LabelledImages]:
    """Open both splits of the data set at `root`, or the validation split of another one.

    Raises what `LabelledImages` raises, and UnreadableInputError if the splits have different classes.
    """
    train, held_out = LabelledImages(root, "train"), LabelledImages(validation or root, "validation")
    if [c.wnid for c in train.classes] != [c.wnid for c in held_out.classes]:
        raise different_classes(held_out.root, train.classes, held_out.classes)
    return {"train": train, "validation": held_out}


def decoded(
    examples: Iterator[Example], count: int, size: int, workers: int | None = None
) -> Iterator[tuple[np.ndarray, Part]]:
    """Decode the next `count` examples to squares of side `size`, in order, in threads (by default one per core).

    Yields, for a few examples at a time, the squares of those that can be read, uint8 [n, S, S, 3], and their `Part`.
    Unreadable images are named by `Example.relative_name`.
    """
    length = max(1, min(_IMAGES, _BYTES // (3 * size**2)))
    # The threads also compute the sums: for squares of 256 pixels they take half a millisecond per image.
    parts = decode_ahead(batches(islice(examples, count), length), partial(_decode, size=size), workers=workers)
    return (part.image for part in parts)


def _decode(examples: list[Example], size: int) -> tuple[np.ndarray, Part]:
    rescaling = Rescaling(size=size, resample=RESAMPLE)
    squares = np.empty((len(examples), size, size, 3), np.uint8)
    labels, unreadable = [], []
    for example in examples:
        try:
            squares[len(labels)] = example.square(rescaling)
            labels.append(example.label)
        except UnreadableInputError as error:
            unreadable.append(Unreadable(image=example.relative_name, reason=error.reason))
    squares = squares[: len(labels)]
    return squares, Part(labels, unreadable, Sums.of(squares))


def save(path: Path, part: Part, sha256: str) -> None:
    """Write a shard's part and the hash of its file, atomically. Raises OSError."""
    unreadable = [[item.image, item.reason] for item in part.unreadable]
    text = json.dumps({"labels": part.labels, "unreadable": unreadable, "sha256": sha256})
    data = io.BytesIO()
    np.savez(data, pixels=part.sums.pixels, products=part.sums.products, json=np.frombuffer(text.encode(), np.uint8))
    write_atomically(path, data.getvalue())


_FIELDS = {
    "labels": list[Annotated[int, strict_json.whole(0, 2**31 - 1)]],
    "unreadable": list[tuple[str, str]],
    "sha256": strict_json.Sha256,
}


def load(path: Path, size: int) -> tuple[Part, str] | None:
    """Return what `save` wrote for squares of side `size`; None if the file is missing or damaged."""
    most = size**2 * 3 * 8 + _MAX_TEXT
    try:
        data = io.BytesIO(read_limited(path, most))
        with np.load(data, allow_pickle=False) as arrays:
            if max(info.file_size for info in arrays.zip.infolist()) > most:
                return None
            fields = strict_json.parse(arrays["json"].tobytes(), "part")
            for name, kind in _FIELDS.items():
                strict_json.check_value(fields[name], kind, name)
            pixels, products = arrays["pixels"], arrays["products"]
    except Exception:  # a damaged zip archive can raise almost anything
        return None
    if (pixels.shape, pixels.dtype.kind, products.shape, products.dtype) != ((size, size, 3), "u", (3, 3), np.uint64):
        return None
    unreadable = [Unreadable(image=image, reason=reason) for image, reason in fields["unreadable"]]
    return Part(fields["labels"], unreadable, Sums(pixels, products, len(fields["labels"]))), fields["sha256"]
