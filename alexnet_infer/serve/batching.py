"""Batches across clients: a bounded queue of images, and the two threads that serve it for one net.

The first thread collects a batch and prepares its images (cuts patches) as they arrive, while the second one runs the
batch before. A batch is run when it is full, or when the net is idle and its first image has waited long enough. While
the net is busy, waiting costs nothing, so batches grow with the load by themselves.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic

import numpy as np

from alexnet_infer.errors import cause_of
from alexnet_infer.predict import finite
from alexnet_infer.serve.jobs import Job, Part, Prepared
from alexnet_infer.serve.limits import RequestError, busy
from alexnet_infer.serve.pace import Pace, check_in_time

PROBE_SECONDS = 5.0
"""How often a net that failed is tried again while no requests come."""


class Batcher(Generic[Prepared]):
    """Runs a net on the images of many requests at the same time.

    `prepare` turns images [n, ...] into what `run` takes a list of. `run` returns one row per image, [N, ...]. They are
    called in different threads, each in one at a time. `on_batch` gets the number of images and the seconds of each
    call of `run`. A row with a value that is not finite fails its request only. If `run` raises an error for a batch of
    several requests, they are run one by one.

    Requests that can't be run by their time limit are refused, when they come or at the latest before they would be in
    a batch. `clock` returns seconds, of which only differences count.
    """

    def __init__(
        self,
        prepare: Callable[[np.ndarray], Prepared],
        run: Callable[[Sequence[Prepared]], np.ndarray],
        *,
        name: str,
        max_batch: int,
        max_delay: float,
        capacity: int,
        on_batch: Callable[[int, float], None] = lambda images, seconds: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prepare, self._run, self._name, self._on_batch, self._clock = prepare, run, name, on_batch, clock
        self._max_batch, self._max_delay, self._capacity = max_batch, max_delay, capacity
        lock = threading.Lock()
        self._changed, self._handed = threading.Condition(lock), threading.Condition(lock)
        self._queue: deque[Job] = deque()
        self._waiting = self._taken = 0
        self._preparing, self._running = Pace(), Pace()
        self._next: list[Part[Prepared]] | None = None
        self._busy = self._closed = False
        self._probe: Prepared | None = None
        self.failure: str | None = None
        """Why the latest batch failed; None if it did not."""
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._collect, self._serve)]

    @property
    def waiting(self) -> int:
        """The images in the queue that are not in a batch yet."""
        return self._waiting

    def start(self, example: np.ndarray) -> None:
        """Run the net once on the images `example`, and start the threads.

        The example is run again from time to time after a failure, until it succeeds. Raises what `run` raises, and
        ModelFileError if its rows are not finite.
        """
        self._probe = self._prepare(example)
        finite(self._run([self._probe]), self._name)
        for thread in self._threads:
            thread.start()

    def submit(self, images: np.ndarray, end: float = math.inf) -> Future[np.ndarray]:
        """Queue the images of a request. The future gets their rows, or RequestError. It may be cancelled.

        `end` is the time, of the batcher's clock, when the rows must be ready. Raises the errors of `check`.
        """
        job = Job(images, end)
        with self._changed:
            self._check(len(images), end)
            self._queue.append(job)
            self._waiting += len(images)
            self._changed.notify()
        job.future.add_done_callback(lambda future: self._forget(job) if future.cancelled() else None)
        return job.future

    def check(self, count: int, end: float) -> None:
        """Raise RequestError if `submit` would now refuse `count` images that must be ready at `end`.

        That is if the batcher is closed, if the queue is full, or if the images before them take too long.
        """
        with self._changed:
            self._check(count, end)

    def _check(self, count: int, end: float) -> None:
        if self._closed:
            raise busy("the server is shutting down: try another one")
        self._check_in_time(count, self._waiting + self._taken, end)
        more = self._waiting + count - self._capacity
        if more > 0:
            raise busy(
                f"the queue of {self._name} is full ({self._waiting} of {self._capacity} images wait): try again "
                "later, or with fewer requests at a time",
                more * self._seconds,
            )

    def _check_in_time(self, count: int, before: int, end: float) -> None:
        check_in_time(count, before, self._seconds, end - self._clock(), name=self._name)

    @property
    def _seconds(self) -> float:
        """The seconds per image of the slower one of the two threads, which work at the same time."""
        return max(self._preparing.seconds, self._running.seconds)

    def _forget(self, job: Job) -> None:
        """Take the job of a client that has left out of the queue."""
        with self._changed:
            if job in self._queue:
                self._queue.remove(job)
                self._waiting -= job.left

    def close(self, timeout: float | None = None) -> None:
        """Refuse new images, run those that wait, and end the threads. After `timeout` seconds, the rest is refused."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        end = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(None if end is None else max(0.0, end - time.monotonic()))
        with self._changed:
            left, self._waiting = [*self._queue], 0
            self._queue.clear()
        for job in left:
            job.fail(busy("the server is shutting down: try another one"))

    def _collect(self) -> None:
        """Make batches, and hand each over when it is due, until the batcher is closed and its queue is empty."""
        while (parts := self._batch()) is not None:
            self._hand_over(parts)
        self._hand_over([])

    def _hand_over(self, parts: list[Part[Prepared]]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
            self._next, self._busy = parts, True
            self._handed.notify()

    def _batch(self) -> list[Part[Prepared]] | None:
        """Collect a batch, and prepare its images as they arrive. Returns None at the end."""
        parts: list[Part[Prepared]] = []
        due = 0.0
        while True:
            with self._changed:
                self._refuse_late()
                room = self._max_batch - _images(parts)
                while not self._fits(room, parts):
                    if not parts:
                        if self._closed and not self._queue:
                            return None
                        self._changed.wait()
                        continue
                    late = due - self._clock()
                    if not self._busy and (late <= 0 or self._queue or room == 0 or self._closed):
                        return parts
                    self._changed.wait(None if self._busy else late)
                job, begin, count = self._take(room)
            began = self._clock()
            if not parts:
                due = began + self._max_delay
            try:
                prepared = self._prepare(job.images[begin : begin + count])
            except Exception as error:  # such as not enough memory
                self._done(count)
                job.fail(self._refusal(error))
            else:
                self._preparing.add(count, self._clock() - began)
                parts.append(Part(job, count, prepared))

    def _refuse_late(self) -> None:
        """Take the first requests of the queue out of it if they can't be ready in time any more, or have failed."""
        while self._queue:
            job = self._queue[0]
            if not job.future.done():
                if job.taken and not job.rows:  # its first part runs in any case, and shows how fast the net is now
                    return
                try:
                    self._check_in_time(job.left, max(self._taken, len(job.rows)), job.end)
                    return
                except RequestError as refused:
                    job.fail(refused)
            self._queue.popleft()
            self._waiting -= job.left

    def _done(self, count: int) -> None:
        """Forget images that were taken from the queue, before their client can know."""
        with self._changed:
            self._taken -= count

    def _fits(self, room: int, parts: Sequence[Part[Prepared]]) -> bool:
        """Whether the first images of the queue can join the batch. A request that fits a batch is not divided."""
        return bool(self._queue) and room > 0 and (not parts or self._queue[0].left <= room)

    def _take(self, room: int) -> tuple[Job, int, int]:
        """Take images from the queue. Returns their job, and the position of the first and the number of them."""
        job = self._queue[0]
        begin, count = job.taken, min(job.left, room)
        job.taken += count
        self._waiting -= count
        self._taken += count
        if not job.left:
            self._queue.popleft()
        return job, begin, count

    def _serve(self) -> None:
        """Run the batches that `_collect` makes. An empty batch is the end."""
        while True:
            with self._handed:
                due = self._handed.wait_for(
                    lambda: self._next is not None, PROBE_SECONDS if self.failure is not None else None
                )
                parts, self._next = self._next, None
            if not due:
                self._try([], [self._probe])
                continue
            if not parts:
                return
            wanted = [part for part in parts if not part.job.future.done()]
            self._done(_images(parts) - _images(wanted))
            self._serve_batch(wanted)
            with self._changed:
                self._busy = False
                self._changed.notify()

    def _serve_batch(self, parts: Sequence[Part[Prepared]]) -> None:
        if not parts or self._try(parts, [part.prepared for part in parts]) or len(parts) == 1:
            return
        for part in parts:
            if part.job.future.done():  # its client has left, or another part failed
                self._done(part.count)
            else:
                self._try([part], [part.prepared])

    def _try(self, parts: Sequence[Part[Prepared]], inputs: Sequence[Prepared]) -> bool:
        """Run some parts, and give their jobs the results. Returns whether it worked.

        If it didn't, a single part's job fails, and others are left to be tried one by one.
        """
        began = self._clock()
        try:
            rows = self._run(inputs)
        except Exception as error:  # of any type: it must not end the thread
            self.failure = cause_of(error)
            if len(parts) == 1:
                self._done(parts[0].count)
                parts[0].job.fail(self._refusal(error))
            return False
        self.failure = None
        if parts:
            seconds = self._clock() - began
            self._running.add(len(rows), seconds)
            self._on_batch(len(rows), seconds)
        self._done(_images(parts))
        begin = 0
        for part in parts:
            own = rows[begin : begin + part.count]
            begin += part.count
            try:
                part.job.add(finite(own, self._name))
            except Exception as error:  # such as not enough memory: it must not end the thread
                part.job.fail(self._refusal(error))
        return True

    def _refusal(self, error: Exception) -> RequestError:
        return busy(f"{self._name} failed: {cause_of(error) or type(error).__name__}")


def _images(parts: Sequence[Part]) -> int:
    return sum(part.count for part in parts)
