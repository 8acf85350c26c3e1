"""Read and decode images ahead of their use: the photos and the labelled sets of every command."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Generic, TypeVar

from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.photos import Photo, fetched

Item = TypeVar("Item")
"""Such as a `Photo` or an `Example`."""
Value = TypeVar("Value")
"""What it is decoded to, such as its squares."""


PHOTOS_PER_CALL = 8
"""Photos per call of a net. With ten views, eight photos are 80 patches: enough to keep two cores busy, and about
500 MB of activations in the full-size net."""


AHEAD_BYTES = 2**28
"""The bytes of encoded images that are read ahead. Common photos never reach it: 16 of 5 MB have 80 MB."""


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """An image that can't be read, by a printable name, and the reason."""

    image: str
    reason: str


@dataclass(frozen=True)
class Decoded(Generic[Item, Value]):
    """An image that was read: either `image` or, if that failed, `error` is set."""

    source: Item
    """An example is without its encoded bytes: an image that waits to be used holds only what it was decoded to."""
    image: Value | None
    error: UnreadableInputError | None = None


def decode_ahead(
    sources: Iterable[Item], decode: Callable[[Item], Value], *, workers: int | None = None, ahead: int | None = None
) -> Iterator[Decoded[Item, Value]]:
    """Yield `decode(source)` for each source, in order. An UnreadableInputError that it raises is yielded, too.

    `decode` runs in `workers` threads, by default one per core: more would only hold more decoded images. At most
    `ahead` sources, by default 8 per thread, are read before they are needed, and none while the examples that were
    read have more than AHEAD_BYTES, so memory does not grow with their number. `sources` is advanced in the caller's
    thread: an error that it raises is raised at once, and what it waits for delays images that are already decoded.
    """
    workers = workers or os.cpu_count() or 1
    waiting: deque[tuple[Future[Decoded[Item, Value]], int]] = deque()
    held = 0
    pool = ThreadPoolExecutor(workers)
    try:
        for source in sources:
            size = len(getattr(source, "data", b""))
            waiting.append((pool.submit(_decoded, source, decode), size))
            held += size
            del source  # its bytes are no longer needed when it is decoded
            while waiting and (len(waiting) >= (ahead or 8 * workers) or held > AHEAD_BYTES):
                future, size = waiting.popleft()
                held -= size
                yield future.result()
        while waiting:
            yield waiting.popleft()[0].result()
    finally:  # not waiting: an unfinished generator may be collected in one of these threads, which can't join itself
        pool.shutdown(wait=False, cancel_futures=True)


def _decoded(source: Item, decode: Callable[[Item], Value]) -> Decoded[Item, Value]:
    emptied = getattr(source, "emptied", None)  # an `Example`, whose room `classify` need not import
    kept = emptied() if emptied else source
    try:
        return Decoded(kept, decode(source))
    except UnreadableInputError as error:
        # The frames of a traceback hold the image's bytes for as long as somebody keeps the error.
        error.__cause__ = error.__context__ = None
        return Decoded(kept, None, error.with_traceback(None))


def decode_photos(photos: Iterable[Photo], decode: Callable[[Photo], Value]) -> Iterator[Decoded[Photo, Value]]:
    """Yield `decode(photo)` for each photo, as `decode_ahead` does, PHOTOS_PER_CALL at a time.

    URLs are fetched first. The sources are the photos as given, without what was fetched.
    """
    for batch in batches(photos, PHOTOS_PER_CALL):
        # Fetched outside the decoding threads: an interrupted program waits for its threads before it exits.
        for photo, image in zip(batch, decode_ahead(fetched(batch), decode), strict=True):
            yield replace(image, source=photo)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield `items` in lists of `size`, the last of which may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
