"""Squares decoded from encoded images, with sums over them that merge exactly: what a packed set is made of."""

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
    """Over a number of squares, in whole numbers: in whatever parts they are added, the totals are the same."""

    pixels: np.ndarray
    """Unsigned [S, S, 3]: at each pixel, the sum over the squares."""
    products: np.ndarray
    """uint64 [3, 3]: for each two of R, G and B, the sum of their products over all pixels of all squares."""
    images: int = 0

    @classmethod
    def none(cls, size: int) -> Sums:
        return cls(np.zeros((size, size, 3), np.uint64), np.zeros((3, 3), np.uint64))

    @classmethod
    def of(cls, squares: np.ndarray) -> Sums:
        """Of uint8 [n, S, S, 3], few enough for 16 bits a pixel."""
        assert len(squares) <= 257, len(squares)
        return cls(squares.sum(axis=0, dtype=np.uint16), _products(squares.reshape(-1, 3)), len(squares))

    def add(self, other: Sums) -> None:
        self.pixels += other.pixels
        self.products += other.products
        self.images += other.images

    @property
    def mean(self) -> np.ndarray:
        """float32 [S, S, 3]."""
        return (self.pixels / self.images).astype(np.float32)

    @property
    def covariance(self) -> np.ndarray:
        """float64 [3, 3] of the RGB values of all pixels, each entry rounded once from whole numbers of any length."""
        count = self.images * self.pixels[..., 0].size
        sums = [int(v) for v in self.pixels.sum(axis=(0, 1))]
        products = self.products.tolist()
        return np.array([[(count * products[i][j] - sums[i] * sums[j]) / count**2 for j in range(3)] for i in range(3)])


def _products(pixels: np.ndarray) -> np.ndarray:
    """`Sums.products` of uint8 [n, 3]. Uint16 holds a product, uint32 a block's sum; wider types take twice as long."""
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
    """What is known of some images, in their order: of a few decoded together, or of a whole shard."""

    labels: list[int]
    """Of the images that could be read and decoded."""
    unreadable: list[Unreadable]
    """The others."""
    sums: Sums

    @classmethod
    def none(cls, size: int) -> Part:
        return cls([], [], Sums.none(size))

    @property
    def seen(self) -> int:
        """Images, readable or not."""
        return len(self.labels) + len(self.unreadable)

    def add(self, other: Part) -> None:
        self.labels.extend(other.labels)
        self.unreadable.extend(other.unreadable)
        self.sums.add(other.sums)


def decode(examples: list[Example], size: int, root: Path) -> tuple[np.ndarray, Part]:
    """The squares of those that can be decoded, uint8 [n, S, S, 3], and what there is to know of all. Images are named
    by their path below `root` where they have one."""
    rescaling = Rescaling(size=size, resample=RESAMPLE)
    squares = np.empty((len(examples), size, size, 3), np.uint8)
    labels, unreadable = [], []
    for example in examples:
        name = printable(example.name.removeprefix(f"{root}{os.sep}"))
        if example.error:
            unreadable.append(Unreadable(name, example.error))
            continue
        try:
            # ILSVRC's labels were made without regard to EXIF orientation.
            square = read_square(example.data, name=name, rescaling=rescaling, apply_exif=False)
        except UnreadableInputError as error:
            unreadable.append(Unreadable(name, str(error).removeprefix(f"{name}: ")))
        else:
            squares[len(labels)] = square
            labels.append(example.label)
    squares = squares[: len(labels)]
    return squares, Part(labels, unreadable, Sums.of(squares))


def save(path: Path, part: Part, sha256: str) -> None:
    """Keeps a shard's part and the hash of its file, in one piece. Raises OSError."""
    unreadable = [[item.name, item.reason] for item in part.unreadable]
    text = json.dumps({"labels": part.labels, "unreadable": unreadable, "sha256": sha256})
    data = io.BytesIO()
    np.savez(data, pixels=part.sums.pixels, products=part.sums.products, json=np.frombuffer(text.encode(), np.uint8))
    write_atomically(path, data.getvalue())


def load(path: Path) -> tuple[Part, str] | None:
    """What `save` kept; None where there is nothing, or nothing whole."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            fields = json.loads(arrays["json"].tobytes())
            labels, unreadable = fields["labels"], [Unreadable(*item) for item in fields["unreadable"]]
            sums = Sums(arrays["pixels"], arrays["products"], len(labels))
            return Part(labels, unreadable, sums), fields["sha256"]
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile):
        return None
