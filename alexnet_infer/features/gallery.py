"""The pictures of neighbours, read again from where a file of features says that they are.

A picture is shown only if it is the image that was found: its name and label are those of the row, and so are its
features.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_infer.datasets import LabelledImages, detected, open_images
from alexnet_infer.errors import AlexNetInferError, UsageError, one_line
from alexnet_infer.features.images import Images, images_of_photos, images_of_set, utf8
from alexnet_infer.features.search import Neighbour, rows_of
from alexnet_infer.features.similar import Answer, ImageFeatures, Index, features_of
from alexnet_infer.photos import Photo, named
from alexnet_infer.progress import counting
from alexnet_infer.published.get import set_at
from alexnet_infer.web import is_http

_TOLERANCE = 0.01
"""How far a picture's features may be from those of its row, as a fraction of their norm. Another runtime or device
changes them by less."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """The square of an image, uint8 [S, S, 3] RGB, or the reason why it is not shown."""

    square: np.ndarray | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the images of a file of features are: a labelled set, photos, or nowhere, for a reason."""

    data: LabelledImages | None = None
    root: Path | None = None
    """The set's path, or the folder to which the names of photos are relative. None for the current one."""
    reason: str = ""


def find_place(index: Index, given: Path | None) -> Place:
    """Find the images: the labelled set at `given` or at the path in the file, or photos by their names.

    For photos, `given` is the folder in which `features` was run. If the set is not at the path in the file, the place
    has the reason. Raises UsageError if it is not a folder, and the errors of `open_images` for a set at `given`.
    """
    images = index.features.about.images
    if images.path is None or images.split is None:
        if given is not None and not os.path.isdir(given):  # noqa: PTH112 (no error for a name too long)
            raise UsageError(f"--data {given}: expected the folder in which `features` was run for these photos")
        return Place(root=given)
    root = set_at(given or Path(images.path))
    try:
        layout = detected(root, images.split, images.layout)
        data = open_images(root, images.split, layout, numbered=index.net.classes)
    except AlexNetInferError as error:
        if given is not None:
            raise
        return Place(reason=one_line(error))
    return Place(data=data, root=root)


def pictures_of(index: Index, answers: Sequence[Answer], place: Place) -> dict[int, Picture]:
    """Return the picture of each row among the answers' neighbours."""
    wanted = {neighbour.row: neighbour for answer in answers for neighbour in answer.neighbours}
    if place.reason:
        return {row: Picture(reason=f"the images were not found: {place.reason}") for row in wanted}
    found, pictures = _of_set(index, wanted, place) if place.data is not None else _of_photos(index, wanted, place.root)
    stored = rows_of(index.features, index.layer, found)
    for row, image in found.items():
        pictures[row] = _checked(image, stored[row])
    return pictures


_Found = tuple[dict[int, ImageFeatures], dict[int, Picture]]
"""Rows whose image was read, and rows without."""


def _of_photos(index: Index, wanted: Mapping[int, Neighbour], root: Path | None) -> _Found:
    photos: dict[int, Photo] = {}
    pictures: dict[int, Picture] = {}
    for row, neighbour in wanted.items():
        if is_http(neighbour.name):  # a file from somebody else may name any address
            pictures[row] = Picture(reason="from the web, so not fetched again")
        elif neighbour.name == "-":
            pictures[row] = Picture(reason="from standard input")
        else:
            photos[row] = named(str(_path(neighbour.name, root or Path())))
    images = _read(index, images_of_photos([*photos.values()])) if photos else []
    return dict(zip(photos, images, strict=True)), pictures


def may_be_elsewhere(name: str, place: Place) -> bool:
    """Whether a photo of this name is a missing file, for which another folder may be named as the place."""
    if place.data is not None or place.root is not None or is_http(name) or name == "-":
        return False
    path = _path(name, Path())
    return not (path.is_absolute() or os.path.lexists(path))


def _path(name: str, root: Path) -> Path:
    """Return the file of a photo of this name. Its bytes that aren't UTF-8 may be escaped, as in "\\udcff"."""
    path = root / name
    if os.path.lexists(path):
        return path
    return root / re.sub(r"\\udc([89a-f][0-9a-f])", lambda found: chr(0xDC00 + int(found[1], 16)), name)


def _of_set(index: Index, wanted: Mapping[int, Neighbour], place: Place) -> _Found:
    data, root = place.data, place.root
    at = _positions(data, wanted)
    pictures = {row: Picture(reason="not in the set, or not once") for row in wanted if row not in at}
    positions = sorted({*at.values()})
    images = _read(index, images_of_set(data, positions, root)) if positions else []
    by_position = dict(zip(positions, images, strict=True))
    return {row: by_position[position] for row, position in at.items()}, pictures


def _read(index: Index, images: Images) -> list[ImageFeatures]:
    with counting("reading the pictures", len(images)) as advance:
        return features_of(index, images, keep=True, on_images=advance)


def _positions(data: LabelledImages, wanted: Mapping[int, Neighbour]) -> dict[int, int]:
    """Return row -> position of the images with the name and the label of a row: its own, or the only one."""
    rows: dict[tuple[str, str | None], list[int]] = defaultdict(list)
    for row, neighbour in wanted.items():
        rows[neighbour.name, neighbour.label].append(row)
    candidates: dict[int, list[int]] = defaultdict(list)
    for position, image in enumerate(_listed(data)):
        for row in rows.get(image, ()):
            candidates[row].append(position)
    return {row: row if row in at else at[0] for row, at in candidates.items() if row in at or len(at) == 1}


def _listed(data: LabelledImages) -> Iterable[tuple[str, str]]:
    wnids = [known.wnid for known in data.classes]
    return ((utf8(name), wnids[label]) for name, label in data.listed(range(len(data))))


def _checked(image: ImageFeatures, stored: np.ndarray) -> Picture:
    """Return the picture of an image that was read, unless it has changed since its features were stored."""
    if image.error is not None:
        return Picture(reason=image.error)
    if np.linalg.norm(image.values - stored) > _TOLERANCE * np.linalg.norm(stored):
        return Picture(reason="another image than the one whose features were computed")
    return Picture(square=image.square)
