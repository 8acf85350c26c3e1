"""Images for training: uint8 squares [S, S, 3], packed into memory or mapped from a packed set."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from alexnet_infer.datasets import LabelledImages, Split
from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.reading import Unreadable
from train.packed import PackedSet
from train.parts import Part, Sums, decoded


@dataclass(frozen=True, kw_only=True)
class PackedImages:
    """The images of a split: `shards`, each uint8 [n, S, S, 3] RGB, and `labels` int64 [N], in the same order."""

    shards: tuple[Tensor, ...]
    labels: Tensor
    digest: str
    """A hash of the pixels in memory, or of the packed set: 16 hexadecimal digits."""
    mean: np.ndarray | None
    """float32 [S, S, 3]: the mean at each pixel, in 0-255. None for the validation split of a packed set."""
    covariance: np.ndarray | None
    """float64 [3, 3]: the covariance of the RGB values of all pixels, or None as for `mean`."""
    mapped: bool = False
    """Whether the shards are memory maps of files, read page by page."""
    unreadable: tuple[Unreadable, ...] = ()
    """The other images of the split: left out of training, and counted as wrong in validation."""

    @classmethod
    def pack(
        cls, examples: LabelledImages, size: int, on_images: Callable[[int], None] = lambda count: None
    ) -> PackedImages:
        """Decode a split into memory, as `train.prepare` decodes it to files.

        `on_images` is called with the number of images decoded since the last call. Raises UnreadableInputError if none
        of the images can be read, or if they don't fit into memory.
        """
        count, total = len(examples), Part.empty(size)
        try:
            squares = np.empty((count, size, size, 3), np.uint8)
        except MemoryError:
            raise UnreadableInputError(
                f"{examples.root}: {count} images of {size} x {size} need {count * size**2 * 3 / 1e9:.0f} GB of "
                "memory; pack them on disk with python -m train prepare, or use a smaller --image-size"
            ) from None
        for chunk, part in decoded(examples.examples(on_error="yield"), count, size):
            squares[len(total.labels) :][: len(chunk)] = chunk
            total.add(part)
            on_images(part.seen)
        total.check(examples)
        return cls.of(squares[: len(total.labels)], total.labels, total.sums, total.unreadable)

    @classmethod
    def of(
        cls, squares: np.ndarray, labels: Sequence[int], sums: Sums, unreadable: Sequence[Unreadable] = ()
    ) -> PackedImages:
        """Return images in memory, in one shard: `squares` uint8 [N, S, S, 3], with the sums over them."""
        return cls(
            shards=(torch.from_numpy(squares),),
            labels=torch.tensor(labels, dtype=torch.int64),
            digest=hashlib.sha256(squares).hexdigest()[:16],
            mean=sums.mean,
            covariance=sums.covariance,
            unreadable=tuple(unreadable),
        )

    @classmethod
    def mapped_from(cls, packed: PackedSet, split: Split) -> PackedImages:
        """Return a split of a packed set. Reads only the labels."""
        return cls(
            shards=tuple(_tensor(shard) for shard in packed.shards(split)),
            labels=torch.from_numpy(packed.labels(split).copy()),
            digest=packed.digest[:16],
            mean=packed.mean if split == "train" else None,
            covariance=packed.covariance if split == "train" else None,
            mapped=True,
            unreadable=packed.unreadable(split),
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def total(self) -> int:
        """Number of images of the split, readable or not."""
        return len(self) + len(self.unreadable)

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
        return {"images": self.total, "labels": labels, "pixels": self.digest}


def _tensor(shard: np.memmap) -> Tensor:
    # torch warns about read-only memory; nothing here writes to a shard.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(shard)
