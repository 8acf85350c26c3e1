"""Images for training: uint8 squares [S, S, 3], decoded into memory or mapped from a packed set."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from alexnet_infer.datasets import Example, LabelledImages, Split
from alexnet_infer.decode import read_square
from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.preprocess import Rescaling
from train.augment import ColorPCA
from train.packed import RESAMPLE, PackedSet


@dataclass(frozen=True)
class Statistics:
    """Statistics of all images of a split, of RGB values in 0-255.

    `mean` float32 [S, S, 3] is the mean at each pixel, `covariance` float64 [3, 3] the covariance over all pixels.
    """

    mean: np.ndarray
    covariance: np.ndarray

    @property
    def channel_mean(self) -> np.ndarray:
        """float32 [3]."""
        return self.mean.mean((0, 1), np.float64).astype(np.float32)

    @property
    def pca(self) -> ColorPCA:
        return ColorPCA.from_covariance(self.covariance)


@dataclass(frozen=True)
class PackedImages:
    """The images of a split: `shards`, each uint8 [n, S, S, 3] RGB, and `labels` int64 [N], in the same order."""

    shards: tuple[Tensor, ...]
    labels: Tensor
    mapped: bool = False
    """Whether the shards are memory maps of files, read page by page."""
    unreadable: int = 0
    """Number of further images of the split, which could not be decoded. They count as wrong."""
    known: Statistics | None = None
    """The statistics, if they are known; None to compute them from the pixels."""
    digest: str = ""
    """A hash of the packed set; empty for other data, whose pixels are then hashed."""

    @classmethod
    def decode(cls, examples: LabelledImages, size: int, on_image: Callable[[], None] = lambda: None) -> PackedImages:
        """Decode the whole set on all cores to squares of side `size`. `on_image` is called after each image.

        Raises UnreadableInputError if an image can't be read, which the message names, if there are no images, or if
        they don't fit into memory.
        """
        count = len(examples)
        if not count:
            raise UnreadableInputError(f"{examples.root}: the {examples.split} split has no images")
        try:
            images = np.empty((count, size, size, 3), np.uint8)
        except MemoryError:
            raise UnreadableInputError(
                f"{examples.root}: {count} images of {size} x {size} need {count * size**2 * 3 / 1e9:.0f} GB of "
                "memory; pack them on disk with python -m train prepare, or use a smaller --image-size"
            ) from None
        labels = np.empty(count, np.int64)
        rescaling = Rescaling(size=size, resample=RESAMPLE)

        def square(example: Example) -> np.ndarray:
            # The labels of ILSVRC ignore EXIF orientation.
            return read_square(example.data, name=example.name, rescaling=rescaling, apply_exif=False)

        with ThreadPoolExecutor() as pool:
            for start, chunk in _chunks(examples, 1024):
                for i, result in enumerate(pool.map(square, chunk), start):
                    images[i], labels[i] = result, chunk[i - start].label
                    on_image()
        return cls((torch.from_numpy(images),), torch.from_numpy(labels))

    @classmethod
    def mapped_from(cls, packed: PackedSet, split: Split) -> PackedImages:
        """Return a split of a packed set. Reads only the labels."""
        shards = tuple(_tensor(shard) for shard in packed.shards(split))
        statistics = Statistics(packed.mean, packed.covariance) if split == "train" else None
        unreadable = len(packed.unreadable(split))
        labels = torch.from_numpy(packed.labels(split).copy())
        return cls(shards, labels, True, unreadable, statistics, packed.digest[:16])

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int:
        """S: side of the squares, in pixels."""
        return self.shards[0].shape[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image: (S, S, 3)."""
        return self.size, self.size, 3

    @property
    def bytes(self) -> int:
        """Size of all squares."""
        return sum(shard.numel() for shard in self.shards)

    @property
    def device(self) -> torch.device:
        return self.shards[0].device

    def to(self, device: torch.device) -> PackedImages:
        """Return a copy on `device`, in one shard; or these images, if they are there already."""
        if device == self.device:
            return self
        images = torch.empty((len(self), self.size, self.size, 3), dtype=torch.uint8, device=device)
        for part, shard in zip(images.split([len(shard) for shard in self.shards]), self.shards, strict=True):
            part.copy_(shard)
        return replace(self, shards=(images,), labels=self.labels.to(device), mapped=False)

    def squares(self, rows: Tensor) -> Tensor:
        """Return copies of the images at `rows` (int64 [B], any device): uint8 [B, S, S, 3] on the shards' device."""
        if len(self.shards) == 1:
            return self.shards[0][rows.to(self.device)]
        out = torch.empty((len(rows), *self.shape), dtype=torch.uint8)
        self.read(rows.cpu(), out)
        return out

    def read(self, rows: Tensor, out: Tensor) -> None:
        """Copy the images at `rows` (int64 [B]) to `out` (uint8 [B, S, S, 3]). All tensors must be in host memory."""
        ends = np.cumsum([len(shard) for shard in self.shards])
        numbers = np.searchsorted(ends, rows.numpy(), side="right")
        # One by one: a batch touches about as many shards as it has images, and a copy is cheaper than indexing.
        for place, (row, number) in enumerate(zip(rows.tolist(), numbers.tolist(), strict=True)):
            out[place] = self.shards[number][row - ends[number]]

    @property
    def identity(self) -> dict[str, int | str]:
        """Identifies the set: the number of images, and hashes of the labels and the pixels in their order."""
        labels = hashlib.sha256(self.labels.cpu().numpy().tobytes()).hexdigest()[:16]
        return {"images": len(self) + self.unreadable, "labels": labels, "pixels": self.digest or _digest(self.shards)}

    def statistics(self) -> Statistics:
        """Return the known statistics, such as a packed set's, or compute them from all pixels."""
        if self.known is not None:
            return self.known
        total, products = 0, np.zeros((3, 3))
        for shard in self.shards:
            for chunk in shard.split(max(1, 2**22 // self.size**2)):
                squares = chunk.double()
                total = total + squares.sum(0).cpu().numpy()
                pixels = squares.reshape(-1, 3)
                products += (pixels.T @ pixels).cpu().numpy()
        count = len(self) * self.size**2
        mean = total / len(self)
        color = mean.mean((0, 1))
        return Statistics(mean.astype(np.float32), products / count - np.outer(color, color))


def _digest(shards: tuple[Tensor, ...]) -> str:
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(shard.cpu().numpy())
    return digest.hexdigest()[:16]


def _tensor(shard: np.memmap) -> Tensor:
    # torch warns about read-only memory; nothing here writes to a shard.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(shard)


def _chunks(examples: LabelledImages, size: int) -> Iterator[tuple[int, list[Example]]]:
    """Yield the examples in lists of at most `size`, each with the position of its first example."""
    chunk: list[Example] = []
    start = 0
    for example in examples:
        chunk.append(example)
        if len(chunk) == size:
            yield start, chunk
            start, chunk = start + size, []
    if chunk:
        yield start, chunk
