"""The images on which two nets are compared: those of a labelled set, or photos, each whole and in quarters."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from alexnet_infer.datasets import Example, LabelledImages
from alexnet_infer.datasets.sampling import stratified
from alexnet_infer.decode import Squares, read_rgb
from alexnet_infer.digests import image_digest
from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.photos import Photo
from alexnet_infer.preprocess import Rescaling, square_of
from alexnet_infer.reading import decode_ahead, decode_photos

_QUARTERS = ("upper left", "upper right", "lower left", "lower right")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image for both nets."""

    name: str
    squares: Squares = field(default_factory=dict)
    """Empty if it can't be read."""
    label: int = -1
    """Position in the data's classes, or -1 without labels."""
    digest: str = ""
    """The `image_digest` of its file, which a photo's quarters share; empty if it was not asked for."""
    error: str = ""
    """Why it can't be read."""


def pictures(
    images: Iterable[Photo] | LabelledImages,
    rescalings: Collection[Rescaling],
    limit: int | None,
    *,
    digests: bool = False,
) -> Iterator[Picture]:
    """Yield pictures with a square for each of `rescalings`: all, or a stratified sample of `limit` labelled images.

    A photo gives five pictures, itself and its quarters, or one if it can't be read. With `digests`, those that can be
    read have one.

    Raises UsageError if `limit` is out of range or given for photos.
    """
    if isinstance(images, LabelledImages):
        examples = images.at(_positions(images, limit), on_error="yield")
        for image in decode_ahead(examples, partial(_squares, rescalings=rescalings, digests=digests)):
            name, label = image.source.relative_name, image.source.label
            if image.error is None:
                squares, digest = image.image
                yield Picture(name=name, squares=squares, label=label, digest=digest)
            else:
                yield Picture(name=name, label=label, error=image.error.reason)
        return
    if limit is not None:
        raise UsageError(f"--limit {limit}: expected a labelled set to sample from; name it with --data")
    for photo in decode_photos(images, partial(_parts, rescalings=rescalings, digests=digests)):
        if photo.error is None:
            yield from photo.image
        else:
            yield Picture(name=photo.source.printable_name, error=photo.error.reason)


def picture_count(images: Sequence[Photo] | LabelledImages, limit: int | None) -> int:
    """Return how many pictures `pictures` yields if all can be read, for a progress bar."""
    return limit or len(images) * (1 if isinstance(images, LabelledImages) else 1 + len(_QUARTERS))


def _positions(data: LabelledImages, limit: int | None) -> Sequence[int]:
    if limit is None:
        return range(len(data))
    if not 1 <= limit <= len(data):
        raise UsageError(f"--limit {limit}: expected 1 to {len(data)}, the number of images in the set")
    return stratified(data.labels, limit)


def _squares(example: Example, rescalings: Collection[Rescaling], digests: bool) -> tuple[Squares, str]:
    return example.squares(rescalings), image_digest(example.data) if digests else ""


def _parts(photo: Photo, rescalings: Collection[Rescaling], digests: bool) -> list[Picture]:
    """Read a photo: the full photo, then its quarters unless it is only one pixel wide or high."""
    if photo.name == "-":
        raise UnreadableInputError("standard input can't be compared: expected files, folders, patterns or URLs")
    source = photo.encoded() if digests else photo.source()
    image = read_rgb(source, name=photo.name, shrink_to=2 * max(kind.size for kind in rescalings))
    digest = image_digest(source) if digests else ""
    across, down = image.width // 2, image.height // 2
    parts = {photo.printable_name: image}
    if across and down:
        corners = [(x, y) for y in (0, image.height - down) for x in (0, image.width - across)]
        for part, (x, y) in zip(_QUARTERS, corners, strict=True):
            parts[f"{photo.printable_name}, {part}"] = image.crop((x, y, x + across, y + down))
    return [
        Picture(name=name, squares={kind: square_of(part, kind) for kind in rescalings}, digest=digest)
        for name, part in parts.items()
    ]
