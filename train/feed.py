"""Squares on their way to the device: from its own memory where the set fits, else loaded ahead by a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from train.data import PackedImages

AHEAD = 2
"""Batches that are loaded while one is worked on."""

SHARE = 0.4
"""Of a GPU's free memory, what each of the two sets may take to be kept there: the net needs the rest."""


class Feed:
    """A set's squares for a device. On a GPU the set is copied there once if it fits; on a CPU a decoded set is used
    where it lies. Otherwise a thread reads the coming batches from the memory map, and on a GPU copies them over
    beside the computation."""

    def __init__(self, images: PackedImages, device: torch.device) -> None:
        self.device = device
        fits = device.type != "cuda" or images.bytes < SHARE * torch.cuda.mem_get_info(device)[0]
        self.resident = fits and not (images.mapped and device.type == "cpu")
        self.images = images.to(device) if self.resident else images
        self.labels = images.labels.to(device)
        self._stream = torch.cuda.Stream(device) if not self.resident and device.type == "cuda" else None

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Tensor]:
        """For each `rows` (int64 [B], positions in the set) its squares, uint8 [B, S, S, 3] on the device."""
        if self.resident:
            yield from map(self.images.squares, rows)
            return
        coming: deque = deque()
        with ThreadPoolExecutor(1) as thread:
            try:
                for batch in rows:
                    coming.append(thread.submit(self._load, batch))
                    if len(coming) > AHEAD:
                        yield self._arrived(*coming.popleft().result())
                while coming:
                    yield self._arrived(*coming.popleft().result())
            finally:
                for task in coming:
                    task.cancel()

    def _load(self, rows: Tensor) -> tuple[Tensor, torch.Event | None]:
        squares = self.images.squares(rows)
        if self._stream is None:
            return squares.to(self.device), None
        with torch.cuda.stream(self._stream):
            on_device = squares.pin_memory().to(self.device, non_blocking=True)
            return on_device, self._stream.record_event()

    def _arrived(self, squares: Tensor, ready: torch.Event | None) -> Tensor:
        if ready is not None:
            here = torch.cuda.current_stream(self.device)
            here.wait_event(ready)
            squares.record_stream(here)  # so that its memory is not given away while this stream reads it
        return squares
