"""The parts of a packed set: squares decoded from images, and sums over them that merge exactly."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from alexnet_infer.datasets import Example
from alexnet_infer.decode import printable, read_square
from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.files import write_atomically
from alexnet_infer.preprocess import Rescaling
from train.packed import RESAMPLE, Unreadable


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
        """The sums over uint8 [n, S, S, 3], n <= 257, so that 16 bits per pixel suffice."""
        assert len(squares) <= 257, len(squares)
        return cls(squares.sum(axis=0, dtype=np.uint16), _products(squares.reshape(-1, 3)), len(squares))

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


def decode(examples: list[Example], size: int, root: Path) -> tuple[np.ndarray, Part]:
    """Decode examples to squares of side `size`.

    Returns the squares of those that can be decoded, uint8 [n, S, S, 3], and the `Part` of all examples. An image that
    is a file is named by its path relative to `root`.
    """
    rescaling = Rescaling(size=size, resample=RESAMPLE)
    squares = np.empty((len(examples), size, size, 3), np.uint8)
    labels, unreadable = [], []
    for example in examples:
        name = printable(example.name.removeprefix(f"{root}{os.sep}"))
        if example.error:
            unreadable.append(Unreadable(name, example.error))
            continue
        try:
            # The labels of ILSVRC ignore EXIF orientation.
            square = read_square(example.data, name=name, rescaling=rescaling, apply_exif=False)
        except UnreadableInputError as error:
            unreadable.append(Unreadable(name, str(error).removeprefix(f"{name}: ")))
        else:
            squares[len(labels)] = square
            labels.append(example.label)
    squares = squares[: len(labels)]
    return squares, Part(labels, unreadable, Sums.of(squares))


def save(path: Path, part: Part, sha256: str) -> None:
    """Write a shard's part and the hash of its file, atomically. Raises OSError."""
    unreadable = [[item.name, item.reason] for item in part.unreadable]
    text = json.dumps({"labels": part.labels, "unreadable": unreadable, "sha256": sha256})
    data = io.BytesIO()
    np.savez(data, pixels=part.sums.pixels, products=part.sums.products, json=np.frombuffer(text.encode(), np.uint8))
    write_atomically(path, data.getvalue())


def load(path: Path) -> tuple[Part, str] | None:
    """Return what `save` wrote; None if the file is missing or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            fields = json.loads(arrays["json"].tobytes())
            labels, unreadable = fields["labels"], [Unreadable(*item) for item in fields["unreadable"]]
            sums = Sums(arrays["pixels"], arrays["products"], len(labels))
            return Part(labels, unreadable, sums), fields["sha256"]
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile):
        return None
