"""Read and decode every image of a set once, to find unreadable, odd and duplicate images."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from alexnet_infer.datasets import Example, Split
from alexnet_infer.datasets.base import reason
from alexnet_infer.datasets.ilsvrc import ARCHIVES
from alexnet_infer.datasets.inside import intact_members, open_archive
from alexnet_infer.datasets.places import Place
from alexnet_infer.datasets.tree import SPLIT_FOLDERS, Folder, Item, children, is_image, place_of
from alexnet_infer.datasets.walk import Walk
from alexnet_infer.decode import FORMATS, MAX_PIXELS, read_rgb
from alexnet_infer.doctor.finding import LISTED, Finding
from alexnet_infer.errors import UnreadableInputError, printable
from alexnet_infer.manifest import ClassName
from alexnet_infer.progress import counting
from alexnet_infer.reading import Decoded, decode_ahead

_FORMATS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jfif", ".mpo"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm"), "PPM"),
    **{f".{name.lower()}": name for name in ("PNG", "WEBP", "GIF", "BMP")},
}

_TRAITS = {
    "format": ("in a different format than their names say", "Harmless here: the format is taken from the content."),
    "cmyk": ("in CMYK", "Converted without a colour profile. ILSVRC's training set has 22 of them."),
    "grey": ("in greyscale", "Read with three equal channels."),
    "small": ("with a side below 64 pixels", "They are enlarged, which blurs them."),
    "huge": (f"of more than {MAX_PIXELS:,} pixels", "Decoded at a smaller size, possible only for single-scan JPEGs."),
    "turned": ("with an EXIF orientation", "The orientation is ignored, as ILSVRC's labels assume."),
}
"""Odd properties of an image that decodes: key -> (words that follow "images" in a title, advice)."""


@dataclass(frozen=True)
class _Look:
    """What is noted of an image that decodes."""

    digest: bytes
    traits: tuple[tuple[str, str], ...]
    """Pairs (key of _TRAITS, detail)."""


@dataclass
class Seen:
    """The results for all images. For 1.28 million images, the digests take 20 MB. The names take 100 MB, unless the
    image set also keeps them."""

    names: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    digests: bytearray = field(default_factory=bytearray)
    """16 bytes per image. For an unreadable image, they are its position."""
    unreadable: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    odd: dict[str, list[str]] = field(default_factory=lambda: {key: [] for key in _TRAITS})

    def add(self, image: Decoded[Example, _Look]) -> None:
        name, look = image.source.name, image.image
        self.digests += look.digest if look else len(self.names).to_bytes(16)
        self.names.append(name)
        self.labels.append(image.source.label)
        if image.error is not None:
            self.unreadable.append(printable(f"{name}: {image.error.reason}"))
        for trait, detail in look.traits if look else ():
            self.counts[trait] += 1
            if len(self.odd[trait]) < LISTED:
                self.odd[trait].append(printable(f"{name}{detail}"))


def look_at_all(examples: Iterable[Example], total: int) -> Seen:
    """Decode all images, on all cores and with only a few in memory at a time."""
    seen = Seen()
    with warnings.catch_warnings(), counting("checking", total) as advance:
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for image in decode_ahead(examples, _look):
            seen.add(image)
            advance(1)
    return seen


def _look(example: Example) -> _Look:
    read_rgb(example.content(), name=example.name, shrink_to=256, apply_exif=False)
    traits: list[tuple[str, str]] = []
    # Pillow can raise almost any exception on odd metadata, although the pixels are sound.
    with suppress(Exception), Image.open(BytesIO(example.data), formats=FORMATS) as image:
        traits.extend(_traits_of(example.name, image))
    return _Look(hashlib.blake2b(example.data, digest_size=16).digest(), tuple(traits))


def _traits_of(name: str, image: Image.Image) -> Iterator[tuple[str, str]]:
    kind = "JPEG" if image.format == "MPO" else image.format
    if _FORMATS.get(Path(name).suffix.lower(), kind) != kind:
        yield "format", f" is {kind}"
    if image.mode == "CMYK":
        yield "cmyk", ""
    if image.mode in ("1", "L", "LA") or image.mode.startswith("I"):
        yield "grey", ""
    width, height = image.size
    if min(width, height) < 64:
        yield "small", f": {width} x {height}"
    if width * height > MAX_PIXELS:
        yield "huge", f": {width} x {height}"
    if (orientation := image.getexif().get(ExifTags.Base.Orientation, 1)) in range(2, 9):
        yield "turned", f": {orientation}"


def until_refused(examples: Iterator[Example], problems: list[str]) -> Iterator[Example]:
    """Yield `examples` until UnreadableInputError is raised, and append its message to `problems`."""
    try:
        yield from examples
    except UnreadableInputError as error:
        problems.append(str(error))


def read(image: Item) -> Example:
    """Return the example for a name and place. Its label is -1."""
    name, place = image
    try:
        return Example(name=name, data=place.read(), label=-1)
    except (OSError, MemoryError) as error:
        return Example(name=name, data=b"", label=-1, error=reason(error))


def unlabelled(root: Path, split: Split) -> list[Item]:
    """The images of a set whose labels are unknown, as far as they can be found, on the disk or in an archive."""
    official = root if root.name in ARCHIVES[split] else root / next(iter(ARCHIVES[split]))
    if official.is_file():  # it may be damaged
        return [
            (member.name, Place(str(official), member.offset_data, member.size))
            for member in intact_members(official)
            if member.isreg() and _may_be_image(member.name.rpartition("/")[2])
        ]
    top: Folder | None = root
    if root.is_file():
        with suppress(UnreadableInputError):  # the error has been reported
            top = open_archive(root)
    others = {name for other, names in SPLIT_FOLDERS.items() if other != split for name in names} | {"test"}
    walk, images = Walk(top or root), []
    for name, is_folder in children(top).items() if top and top.is_dir() else ():
        if is_folder and name not in others:
            with suppress(UnreadableInputError):
                images += [(path, place) for path, place in walk.below(top / name) if _may_be_image(path)]
        elif not is_folder and _may_be_image(name):
            images.append((str(top / name), place_of(top, name)))
    return images


def _may_be_image(path: str) -> bool:
    return is_image(os.path.basename(path)) and not path.endswith((".parquet", ".tar", ".gz", ".tgz", ".zip"))  # noqa: PTH119


def unreadable_images(seen: Seen, total: int) -> Finding:
    """Whether the images decode. `total` is the number of images; fewer were seen if the set was refused meanwhile."""
    count = len(seen.names)
    if not seen.unreadable and (not count or count < total):
        detail = f"{count:,} of {total:,} images were reached" if total else "there is no image"
        title = "not every image was read" if count else "no image was checked"
        return Finding(level="note", title=title, detail=detail)
    if not seen.unreadable:
        return Finding(level="ok", title="every image decodes", count=count)
    return Finding(
        level="error",
        title="unreadable images",
        advice="Copy or unpack them again. Each counts as wrong in an evaluation.",
        count=len(seen.unreadable),
        examples=tuple(seen.unreadable[:LISTED]),
    )


def odd_images(seen: Seen) -> Iterator[Finding]:
    for key, (words, advice) in _TRAITS.items():
        if count := seen.counts[key]:
            examples = tuple(seen.odd[key])
            yield Finding(level="note", title=f"images {words}", advice=advice, count=count, examples=examples)


def duplicates(seen: Seen, classes: Sequence[ClassName]) -> Iterator[Finding]:
    """Images with the same bytes as an earlier one."""
    digests = np.frombuffer(bytes(seen.digests), "S16")
    order = np.argsort(digests, kind="stable")
    repeats = np.flatnonzero(digests[order[1:]] == digests[order[:-1]])
    pairs = sorted((int(order[i + 1]), int(order[i])) for i in repeats)
    consistent = [pair for pair in pairs if seen.labels[pair[0]] == seen.labels[pair[1]]]
    conflicting = [pair for pair in pairs if seen.labels[pair[0]] != seen.labels[pair[1]]]

    def describe(position: int) -> str:
        return f"{printable(seen.names[position])} ({classes[seen.labels[position]].wnid})"

    for level, title, advice, group in (
        ("warning", "duplicate images in one class", "The image counts twice; remove one copy.", consistent),
        ("error", "duplicate images in different classes", "One of the two labels is wrong.", conflicting),
    ):
        if group:
            examples = tuple(f"{describe(first)} = {describe(second)}" for second, first in group[:LISTED])
            yield Finding(level=level, title=title, advice=advice, count=len(group), examples=examples)
    if not pairs:
        yield _no_duplicates(len(seen.names), len(seen.names) - len(seen.unreadable))


def _no_duplicates(images: int, readable: int) -> Finding:
    """The finding that no two of the readable images are the same. Unreadable ones were not compared."""
    if readable == images > 1:
        return Finding(level="ok", title="no duplicate images")
    detail = f"{readable:,} of {images:,} images can be read"
    detail += "; at least 2 are needed" if readable < 2 else ", and have no duplicates; the others were not compared"
    return Finding(level="note", title="not all images were compared with each other", detail=detail)
