"""A net on a server of the Open Inference Protocol: Triton, KServe, or `alexnet-infer serve`.

The server's metadata is checked against the net's manifest when it is opened, and each answer when it comes. A failure
is an error of one line; nothing stands for an answer that did not come.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from queue import SimpleQueue
from time import monotonic
from typing import Any, TypeVar

import numpy as np

from alexnet_infer.backends.remote.address import ServerAddress
from alexnet_infer.backends.remote.client import Answer, BusyError, Client, connect
from alexnet_infer.backends.remote.model import Model, asking, told
from alexnet_infer.errors import BackendError, ModelFileError, one_line, shown
from alexnet_infer.layers import PROBABILITIES
from alexnet_infer.manifest import Manifest
from alexnet_infer.metrics import are_probabilities

IN_FLIGHT = 4
"""Requests at a time, each on its own connection."""
LONGEST_WAIT = 30.0
"""Seconds after which a request to a busy server is not sent again."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds before a busy server is asked again, if it doesn't say when. Each pause is twice the one before."""

T = TypeVar("T")


class RemoteBackend:
    """A net on a server.

    A batch is divided into requests, IN_FLIGHT at a time, whose answers are put in order. Only a 503 is tried again
    (gRPC: UNAVAILABLE, while the server says that it is live), for at most LONGEST_WAIT seconds in total.

    Raises BackendError if the server can't be reached, is slow or busy, or the model is not ready, and ModelFileError
    if there is no such model or it contradicts its manifest.
    """

    runtime, device = "server", "server"
    outputs = (PROBABILITIES,)

    def __init__(self, address: ServerAddress, manifest: Manifest | None = None) -> None:
        self._address = address
        self._lanes = [_Lane(address) for _ in range(IN_FLIGHT)]
        self._finalizer = weakref.finalize(self, _close, self._lanes)
        self._finalizer.atexit = False  # `_end` does it
        self.model = _first(self._lanes[0], asking(address, manifest))
        self._version: str | None = None
        served = self.model.served
        self.takes_squares = self.model.views is not None
        self.sha256 = None if served is None else served.sha256
        # Without a digest, a server may say what an earlier version was: Triton's configuration is that of the first.
        self.precision = "fp32" if served is None or served.sha256 is None else served.info.precision
        precision = "" if self.precision == "fp32" else f", {self.precision}"
        runs = f"{self.model.server}{precision}" if served is None or served.backend is None else served.backend
        # Predictions are cached by digest and description, which may come from another address later.
        self.description = f"served by {one_line(runs)}" + ("" if self.sha256 else f" at {address}")

    def infer(self, inputs: np.ndarray) -> np.ndarray:
        """Return class probabilities, float32 [N, classes].

        `inputs` are squares, uint8 [N, S, S, 3], if `takes_squares`, else patches, float32 [N, 3, patch, patch].

        Raises BackendError if the server fails or doesn't answer, and ModelFileError if an answer is not the
        probabilities of these inputs, or comes from another model.
        """
        batch = _Batch(self._address, self.model, self.sha256, inputs)
        try:
            lanes = [lane.call(batch.work) for lane in self._lanes[: len(batch.parts)]]
            wait(lanes)
        finally:
            batch.stop.set()  # after Ctrl-C, no more requests are sent
        if batch.error is not None:
            raise batch.error
        for lane in lanes:
            lane.result()  # raises what kept it from connecting
        for answer in batch.answers:
            if self._version is None:
                self._version = answer.version
            if answer.version != self._version:
                one = answer.version or self._version
                raise ModelFileError(
                    f"{self._address}: version {shown(answer.version)} answers, and before it was "
                    f"{shown(self._version)}: name one, as in .../versions/{one_line(one)[:40]}"
                )
        return np.concatenate([answer.values for answer in batch.answers])

    def activations(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Return the probabilities by their name. Inputs and errors are those of `infer`."""
        return {PROBABILITIES: self.infer(inputs)}

    def check_unchanged(self) -> None:
        """Raise ModelFileError if the server no longer has the net that was opened, as far as it tells.

        Raises BackendError if it can't be asked, or stays busy.
        """
        if self.model.served is None:
            return
        address, stop = self._address, threading.Event()
        try:
            config = self._lanes[0].call(lambda client: _patient(client.config, address, stop)).result()
        finally:
            stop.set()  # after Ctrl-C, the server is not asked again
        if told(config) != self.model.told:
            raise ModelFileError(f"{self._address}: the server's model has changed since it was opened: run it again")

    def close(self) -> None:
        """Close the connections. The net can't be used any more. Otherwise they are closed with this object."""
        self._finalizer()


class _Lane:
    """A thread with a client of its own: tritonclient's HTTP client belongs to the thread that made it."""

    def __init__(self, address: ServerAddress) -> None:
        self._address, self._client = address, None
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[Client], Any]] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._work, daemon=True)  # as others, it would be joined before `_end`
        self._starting = threading.Lock()
        self._closed = False

    def call(self, work: Callable[[Client], T]) -> Future[T]:
        """Return the result of `work` in the thread. Raises BackendError if the thread has ended, or is to end."""
        if self._closed:
            raise BackendError(f"{self._address}: the net was closed: load it again")
        if self.thread.ident is not None and not self.thread.is_alive():
            raise BackendError(f"{self._address}: the net was loaded in another process: load it again in this one")
        future: Future[T] = Future()
        self._jobs.put((future, work))
        with self._starting:
            if self.thread.ident is None:
                _running.add(self)
                self.thread.start()
        return future

    def close(self) -> None:
        """End the thread after what it is doing. Needs no lock."""
        self._closed = True
        self._jobs.put(None)

    def abort(self) -> None:
        """Break off what the thread is doing."""
        if (client := self._client) is not None:
            client.abort()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, work = job
            try:
                if self._client is None:
                    self._client = connect(self._address)
                future.set_result(work(self._client))
            except Exception as error:
                client, self._client = self._client, self._client if isinstance(error, BusyError) else None
                try:
                    if client is not None and self._client is None:
                        client.close()  # it may still wait for the rest of an answer
                finally:
                    future.set_exception(error)
            del job, future, work  # what they refer to may be what closes this thread
        if self._client is not None:
            client, self._client = self._client, None
            client.end()
        _running.discard(self)


_running: set[_Lane] = set()


@atexit.register
def _end() -> None:
    """End all threads before Python ends: it would free what belongs to their event loops, and crash."""
    for lane in (lanes := [*_running]):
        lane.close()
        lane.abort()
    for lane in lanes:
        lane.thread.join(5)


def _close(lanes: Sequence[_Lane]) -> None:
    """Close the lanes. Garbage collection may call this in the middle of anything, so it must not wait for a lock."""
    for lane in lanes:
        lane.close()


def _first(lane: _Lane, work: Callable[[Client], T]) -> T:
    """Return what `work` returns. A server that is busy when it is asked about its model is not ready."""
    try:
        return lane.call(work).result()
    except BusyError as busy:
        raise BackendError(f"{lane._address}: the server is not ready ({busy}): try again later") from None


def _patient(ask: Callable[[], T], address: ServerAddress, stop: threading.Event) -> T:
    """Return what `ask` returns. While the server is busy, ask again, for at most LONGEST_WAIT seconds.

    Raises BackendError after that, or if `stop` is set.
    """
    end, growing, tries = monotonic() + LONGEST_WAIT, FIRST_PAUSE, 0
    while True:
        try:
            return ask()
        except BusyError as busy:
            pause, tries = max(FIRST_PAUSE, busy.retry_after or growing), tries + 1
            if monotonic() + pause > end:
                raise BackendError(
                    f"{address}: the server is too busy: {tries} times 503 ({busy}); try again later, or with a "
                    "smaller --batch"
                ) from None
            if stop.wait(pause):
                raise BackendError(f"{address}: the server is busy ({busy})") from None
            growing = min(2 * growing, LONGEST_PAUSE)


class _Batch:
    """The requests of one call of `infer`, shared by the lanes. It has no reference to the backend: see `_close`."""

    def __init__(self, address: ServerAddress, model: Model, sha256: str | None, inputs: np.ndarray) -> None:
        self._address, self._model, self._sha256 = address, model, sha256
        size = model.size if model.fixed else min(model.size, max(-(-len(inputs) // IN_FLIGHT), model.least))
        self.parts = [inputs[begin : begin + size] for begin in range(0, max(len(inputs), 1), size)]
        self._given: list[Answer | None] = [None] * len(self.parts)
        self._next = iter(range(len(self.parts)))
        self._lock = threading.Lock()
        self.stop = threading.Event()
        self.error: Exception | None = None

    @property
    def answers(self) -> Iterator[Answer]:
        for answer in self._given:
            assert answer is not None
            yield answer

    def work(self, client: Client) -> None:
        """Send the requests that no lane has sent yet, until one fails."""
        try:
            while not self.stop.is_set():
                with self._lock:
                    i = next(self._next, None)
                if i is None:
                    return
                self._given[i] = self._checked(self._ask(client, self.parts[i]), len(self.parts[i]))
        except Exception as error:
            with self._lock:
                self.error = self.error or error
            self.stop.set()
            raise  # the lane replaces its client

    def _ask(self, client: Client, part: np.ndarray) -> Answer:
        missing = self._model.size - len(part) if self._model.fixed else 0
        inputs = np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)]) if missing else part
        inputs = np.ascontiguousarray(inputs)
        return _patient(lambda: client.infer(self._model.source, self._model.output, inputs), self._address, self.stop)

    def _checked(self, answer: Answer, count: int) -> Answer:
        """Return the answer for `count` inputs, if it can be one. Raises ModelFileError otherwise."""
        model, values = self._model, answer.values
        sent = model.size if model.fixed else count
        expected = (sent, len(model.manifest.classes))
        if answer.model != self._address.name or (self._sha256 and answer.sha256 not in (None, self._sha256)):
            raise ModelFileError(f"{self._address}: another model answers than the one that was opened: run it again")
        if values.dtype != np.float32 or values.shape != expected:
            raise ModelFileError(
                f"{self._address}: returns {values.dtype} {list(values.shape)} for {sent} inputs: expected float32 "
                f"{list(expected)}, as its metadata says"
            )
        if not are_probabilities(values).all() or (abs(values.sum(1, dtype=np.float64) - 1) > 0.01).any():
            raise ModelFileError(
                f"{self._address}: returns values that are not probabilities: expected numbers from 0 to 1 that add up "
                "to 1 for each input; is the softmax missing, or the precision too low?"
            )
        return Answer(values=values[:count], model=answer.model, version=answer.version, sha256=answer.sha256)
