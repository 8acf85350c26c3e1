"""Squares for the device: from its own memory if the set fits, else loaded ahead by threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from train.data import PackedImages

AHEAD = 2
"""Batches that are loaded while the net works on another."""

READERS = {"cpu": 1, "cuda": min(8, os.cpu_count() or 1)}
"""Threads that read a batch together. One thread reads 14,000 squares of 256 x 256 pixels per second from the page
cache. A CPU is also busy training."""

SHARE = 0.4
"""Share of a GPU's free memory that each of the two sets may take; the net needs the rest."""


class Feed:
    """The squares of a set, batch by batch, on a device.

    A GPU gets a copy of the whole set if it fits. A CPU uses a decoded set in place. Otherwise threads read the next
    batches from the shards and, for a GPU, copy them to it while it computes.

    `share`: the set is kept on a GPU if it takes less than this share of the GPU's free memory.
    """

    def __init__(self, images: PackedImages, device: torch.device, *, share: float = SHARE) -> None:
        self.device = device
        on_gpu = device.type == "cuda"
        fits = not on_gpu or images.bytes < share * torch.cuda.mem_get_info(device)[0]
        self.resident = fits and (on_gpu or not (images.mapped or len(images.shards) > 1))
        self.images = images.to(device) if self.resident else images
        self.labels = images.labels.to(device)
        self._readers = READERS[device.type]
        self._staging = Staging(device, images.shape) if on_gpu and not self.resident else None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def home(self) -> torch.device:
        """The device on which `rows` should be given."""
        return self.device if self.resident else torch.device("cpu")

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield, for each `rows` (int64 [B], positions in the set), its squares: uint8 [B, S, S, 3] on the device."""
        for squares, index in self.sources(rows):
            yield squares if index is None else squares[index]

    def sources(self, rows: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield each batch as (squares, index), without copying squares that are already on the device.

        `squares` is uint8 [M, S, S, 3]; `index` is int64 [B], the positions of the batch in `squares`, or None if
        `squares` are the batch, in order.
        """
        if self.resident:
            (squares,) = self.images.shards
            yield from ((squares, batch.to(self.device)) for batch in rows)
            return
        coming: deque = deque()
        with ThreadPoolExecutor(1) as loader, ThreadPoolExecutor(self._readers) as readers:
            try:
                for batch in rows:
                    coming.append(loader.submit(self._load, batch, readers))
                    if len(coming) > AHEAD:
                        yield self._arrived(*coming.popleft().result()), None
                while coming:
                    yield self._arrived(*coming.popleft().result()), None
            finally:
                for task in coming:
                    task.cancel()

    def _load(self, rows: Tensor, readers: ThreadPoolExecutor) -> tuple[Tensor, torch.cuda.Event | None]:
        if self._staging is None:
            squares = torch.empty((len(rows), *self.images.shape), dtype=torch.uint8)
            self._read(rows, squares, readers)
            return squares, None
        host = self._staging.buffer(len(rows))
        self._read(rows, host, readers)
        return self._staging.copy(host)

    def _read(self, rows: Tensor, out: Tensor, readers: ThreadPoolExecutor) -> None:
        if self._readers == 1 or not len(rows):
            self.images.read(rows, out)
            return
        size = -(-len(rows) // self._readers)
        for _ in readers.map(self.images.read, rows.split(size), out.split(size)):
            pass

    def _arrived(self, squares: Tensor, ready: torch.cuda.Event | None) -> Tensor:
        if ready is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(ready)
            squares.record_stream(stream)  # keeps its memory from being reused while this stream reads it
        return squares


class Staging:
    """Pinned host memory, from which a GPU copies without the CPU, and the stream of these copies. Not thread-safe.

    A few buffers are used in turn, because pinning memory takes longer than filling it.
    """

    def __init__(self, device: torch.device, shape: tuple[int, ...]) -> None:
        self._device, self._shape = device, shape
        self._stream = torch.cuda.Stream(device)
        self._buffers = [torch.empty(0, dtype=torch.uint8)] * (AHEAD + 1)
        self._copied = [torch.cuda.Event() for _ in self._buffers]
        self._turn = 0

    def buffer(self, count: int) -> Tensor:
        """Return memory for `count` images, to fill and to pass to `copy`. Waits until its previous copy is done."""
        self._turn = (self._turn + 1) % len(self._buffers)
        self._copied[self._turn].synchronize()
        if len(self._buffers[self._turn]) < count:
            self._buffers[self._turn] = torch.empty((count, *self._shape), dtype=torch.uint8, pin_memory=True)
        return self._buffers[self._turn][:count]

    def copy(self, host: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        """Start copying the images of the last `buffer` to the GPU. The event occurs when the copy is complete."""
        with torch.cuda.stream(self._stream):
            on_device = host.to(self._device, non_blocking=True)
            self._copied[self._turn].record(self._stream)
            return on_device, self._copied[self._turn]
