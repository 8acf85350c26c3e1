"""Read and decode images ahead of their use: the photos and the labelled sets of every command."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.photos import Photo, fetched

Item = TypeVar("Item")
"""A `Photo` or an `Example`."""
Image = TypeVar("Image")
"""What it is decoded to, such as its squares."""


PHOTOS_PER_CALL = 8
"""Photos per call of a net. With ten views, eight photos are 80 patches: enough to keep two cores busy, and about
500 MB of activations in the full-size net."""


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """An image that can't be read, by a printable name, and the reason."""

    image: str
    reason: str


@dataclass(frozen=True)
class Decoded(Generic[Item, Image]):
    """An image that was read: either `image` or, if that failed, `error` is set."""

    source: Item
    image: Image | None
    error: UnreadableInputError | None = None


def decode_ahead(
    sources: Iterable[Item],
    decode: Callable[[Item], Image],
    *,
    workers: int | None = None,
    ahead: int | None = None,
    chunk: int = 1,
) -> Iterator[Decoded[Item, Image]]:
    """Yield `decode(source)` for each source, in order. An UnreadableInputError that it raises is yielded, too.

    `decode` runs in `workers` threads, by default one per core: more would only hold more decoded images. At most
    `ahead` sources, by default 8 per thread, are read before they are needed, so memory does not grow with their
    number. A thread takes `chunk` sources at a time; more than one pays for small images. `sources` is advanced in the
    caller's thread, and an error that it raises is raised at once.
    """
    workers = workers or os.cpu_count() or 1
    most, rest = max(1, (ahead or 8 * workers) // chunk), iter(sources)
    waiting: deque[Future[list[Decoded[Item, Image]]]] = deque()

    def decoded(sources: list[Item]) -> list[Decoded[Item, Image]]:
        return [_decoded(source, decode) for source in sources]

    with ThreadPoolExecutor(workers) as pool:
        try:
            while part := list(islice(rest, chunk)):
                waiting.append(pool.submit(decoded, part))
                if len(waiting) >= most:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _decoded(source: Item, decode: Callable[[Item], Image]) -> Decoded[Item, Image]:
    try:
        return Decoded(source, decode(source))
    except UnreadableInputError as error:
        return Decoded(source, None, error)


def decode_photos(photos: Iterable[Photo], decode: Callable[[Photo], Image]) -> Iterator[Decoded[Photo, Image]]:
    """Yield `decode(photo)` for each photo, as `decode_ahead` does. URLs are fetched PHOTOS_PER_CALL at a time."""
    # Outside the decoding threads: an interrupted program waits for its threads before it exits.
    ready = (photo for batch in batches(photos, PHOTOS_PER_CALL) for photo in fetched(batch))
    return decode_ahead(ready, decode, ahead=PHOTOS_PER_CALL)


def batches(images: Iterable[Image], size: int) -> Iterator[list[Image]]:
    """Yield `images` in lists of `size`, the last of which may be shorter."""
    rest = iter(images)
    while batch := list(islice(rest, size)):
        yield batch
