"""Squares on their way to the device: from its own memory where the set fits, else loaded ahead by threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from train.data import PackedImages

AHEAD = 2
"""Batches that are loaded while one is worked on."""

READERS = 8
"""Threads that read a batch for a GPU, at most: one reads 14,000 squares of 256 pixels a second from the page cache."""

SHARE = 0.4
"""Of a GPU's free memory, for each of the two sets; the net needs the rest."""


class Feed:
    """A set's squares for a device. On a GPU the set is copied there once if it fits; on a CPU a decoded set is used
    where it is. Otherwise threads read the coming batches from the memory map, and on a GPU copy them over beside the
    computation.

    `share`: of a GPU's free memory, what the set may take to be kept there. `readers`: threads that share the reading
    of a batch; None for one on a CPU, which has other work, and up to `READERS` for a GPU.
    """

    def __init__(
        self, images: PackedImages, device: torch.device, *, share: float = SHARE, readers: int | None = None
    ) -> None:
        self.device = device
        on_gpu = device.type == "cuda"
        fits = not on_gpu or images.bytes < share * torch.cuda.mem_get_info(device)[0]
        self.resident = fits and (on_gpu or not (images.mapped or len(images.shards) > 1))
        self.images = images.to(device) if self.resident else images
        self.labels = images.labels.to(device)
        self._readers = readers or (min(READERS, os.cpu_count() or 1) if on_gpu else 1)
        self._staging = Staging(device, images.shape) if on_gpu and not self.resident else None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def home(self) -> torch.device:
        """The device on which `rows` are best given."""
        return self.device if self.resident else torch.device("cpu")

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Tensor]:
        """For each `rows` (int64 [B], positions in the set) its squares, uint8 [B, S, S, 3] on the device."""
        for squares, index in self.sources(rows):
            yield squares if index is None else squares[index]

    def sources(self, rows: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor | None]]:
        """As `batches`, but without the copy of squares that are on the device already: (squares uint8 [M, S, S, 3],
        index int64 [B] of the batch's squares among them; None where they are the batch, in order)."""
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
            here = torch.cuda.current_stream(self.device)
            here.wait_event(ready)
            squares.record_stream(here)  # so that its memory is not given away while this stream reads it
        return squares


class Staging:
    """Pinned host memory, from which a GPU copies by itself, and the stream of those copies. For one thread.

    A few buffers are used in turn: pinning memory takes longer than filling it.
    """

    def __init__(self, device: torch.device, shape: tuple[int, ...]) -> None:
        self._device, self._shape = device, shape
        self._stream = torch.cuda.Stream(device)
        self._buffers = [torch.empty(0, dtype=torch.uint8)] * (AHEAD + 1)
        self._copied = [torch.cuda.Event() for _ in self._buffers]
        self._turn = 0

    def buffer(self, count: int) -> Tensor:
        """Memory for `count` images of `shape`, to be filled and given to `copy`; waits until its last copy is done."""
        self._turn = (self._turn + 1) % len(self._buffers)
        self._copied[self._turn].synchronize()
        if len(self._buffers[self._turn]) < count:
            self._buffers[self._turn] = torch.empty((count, *self._shape), dtype=torch.uint8, pin_memory=True)
        return self._buffers[self._turn][:count]

    def copy(self, host: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        """The images on the GPU, once the event has come."""
        with torch.cuda.stream(self._stream):
            there = host.to(self._device, non_blocking=True)
            self._copied[self._turn].record(self._stream)
            return there, self._copied[self._turn]
