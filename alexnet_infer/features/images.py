"""The images whose features are computed: photos as `classify` takes them, or a labelled set as `eval` takes it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alexnet_infer.datasets import Example, LabelledImages
from alexnet_infer.decode import Squares, Timed, read_squares
from alexnet_infer.errors import UsageError, printable
from alexnet_infer.evaluation.selection import name_of
from alexnet_infer.features.about import MAX_IMAGES, AboutImages, hash_of
from alexnet_infer.features.table import Row
from alexnet_infer.photos import Photo, fetched
from alexnet_infer.preprocess import Rescaling
from alexnet_infer.reading import PHOTOS_PER_CALL, Decoded, batches


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images in their order, not read yet. Raises UsageError if there are none, or more than MAX_IMAGES."""

    listed: Sequence[tuple[str, str | None]]
    """Name and label of each, as in `Row`."""
    about: AboutImages
    stamp: str | None
    """What is known of their content without reading it. Another stamp means other features. None if they can't be read
    a second time, since one is from standard input."""
    source: Callable[[int], Iterator[Any]]
    """Returns the images from a position on, for `pipeline.run`."""
    row: Callable[[Decoded[Any, Squares]], Row]
    """Returns the row of an image that was read."""

    def __len__(self) -> int:
        return len(self.listed)


def images_of_set(data: LabelledImages, positions: Sequence[int], root: Path) -> Images:
    """Return the images at `positions` of a set, with the WordNet ids of their classes as labels.

    `root` is the set's path as the user named it. The EXIF orientation is ignored, as in `eval`.
    """
    wnids = [known.wnid for known in data.classes]

    def row(image: Decoded[Example, Squares]) -> Row:
        example, error = image.source, image.error
        return Row(utf8(example.relative_name), wnids[example.label], error and printable(error.reason))

    listed = [(utf8(name), wnids[label]) for name, label in data.listed(positions)]
    return Images(
        listed=listed,
        about=_about(
            listed,
            data=printable(name_of(root.resolve())) or "/",
            path=printable(str(root)),
            layout=data.layout,
            split=data.split,
            sample=len(positions) < len(data),
        ),
        stamp=data.listing,
        source=lambda start: data.at(positions[start:], "yield"),
        row=row,
    )


def images_of_photos(photos: Sequence[Photo]) -> Images:
    """Return photos from `photos.expand`. They have no labels, and are turned as their EXIF orientation says."""

    def source(start: int) -> Iterator[_Photo]:
        for part in batches(photos[start:], PHOTOS_PER_CALL):
            yield from map(_Photo, fetched(part))

    def row(image: Decoded[_Photo, Squares]) -> Row:
        return Row(utf8(image.source.photo.name), None, image.error and printable(image.error.reason))

    listed = [(utf8(photo.name), None) for photo in photos]
    about = _about(listed, data="photos", path=None, layout=None, split=None, sample=False)
    return Images(listed=listed, about=about, stamp=_stamp(photos), source=source, row=row)


@dataclass(frozen=True)
class _Photo:
    """A photo for `pipeline.run`."""

    photo: Photo

    @property
    def data(self) -> bytes:
        """What was fetched, which counts as read ahead."""
        return self.photo.content or b""

    def emptied(self) -> _Photo:
        return _Photo(replace(self.photo, content=None))

    def squares(self, rescalings: Collection[Rescaling], timed: Timed = nullcontext) -> Squares:
        return read_squares(self.photo.source(), name=self.photo.name, rescalings=rescalings, timed=timed)


def _about(listed: Sequence[tuple[str, str | None]], **facts: Any) -> AboutImages:
    if not 1 <= len(listed) <= MAX_IMAGES:
        raise UsageError(f"{len(listed):,} images: expected 1 to {MAX_IMAGES:,}")
    return AboutImages(count=len(listed), unreadable=0, listing=hash_of(listed), **facts)


def _stamp(photos: Sequence[Photo]) -> str | None:
    """Return a hash of the sizes and times of files, or None if there is standard input."""
    digest = hashlib.sha256()
    for photo in photos:
        known: list[Any] = [utf8(photo.name)]
        if photo.path is not None:
            try:
                status = os.stat(photo.path)  # noqa: PTH116 (there may be a million)
                known += [status.st_size, status.st_mtime_ns]
            except (OSError, ValueError):
                known.append(None)
        elif photo.url is None and photo.problem is None:
            return None
        digest.update(json.dumps(known).encode() + b"\n")
    return digest.hexdigest()


def utf8(text: str) -> str:
    """Return a text that every form of file can hold: bytes that aren't UTF-8 are escaped, as in "\\udcff"."""
    return text.encode("utf-8", "backslashreplace").decode()
