"""The requests in a batcher's queue, and their parts in a batch."""

from __future__ import annotations

from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

Prepared = TypeVar("Prepared")


@dataclass(eq=False)
class Job:
    """The images of one request."""

    images: np.ndarray
    end: float
    """When its rows must be ready, in the time of the batcher's clock."""
    future: Future[np.ndarray] = field(default_factory=Future)
    taken: int = 0
    """Images that are in a batch already. Only a request of more images than a batch has is divided."""
    rows: list[np.ndarray] = field(default_factory=list)
    """The results of its first parts."""

    @property
    def left(self) -> int:
        return len(self.images) - self.taken

    def add(self, rows: np.ndarray) -> None:
        self.rows.append(rows)
        if sum(map(len, self.rows)) == len(self.images):
            with suppress(InvalidStateError):  # the client has left, or another part failed
                self.future.set_result(np.concatenate(self.rows))

    def fail(self, error: Exception) -> None:
        with suppress(InvalidStateError):
            self.future.set_exception(error)


@dataclass(frozen=True)
class Part(Generic[Prepared]):
    """Some images of a job, prepared."""

    job: Job
    count: int
    prepared: Prepared
