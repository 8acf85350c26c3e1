"""Every image of a set, read and decoded once: what is odd about it, and which are there twice."""

from __future__ import annotations

import hashlib
import os
import tarfile
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from alexnet_infer.artifact import ClassName
from alexnet_infer.datasets import Example, Split
from alexnet_infer.datasets.base import Place, is_image
from alexnet_infer.decode import FORMATS, MAX_PIXELS, printable, read_rgb
from alexnet_infer.doctor.finding import ARCHIVES, LISTED, Finding
from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.progress import counting

AHEAD = 16
"""Images a core that are read before they are decoded."""

_FORMATS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jfif", ".mpo"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm"), "PPM"),
    **{f".{name.lower()}": name for name in ("PNG", "WEBP", "GIF", "BMP")},
}

_TRAITS = {
    "format": ("in another format than their names say", "Read by content, so this does no harm here."),
    "cmyk": ("in CMYK", "Converted without a colour profile; ILSVRC's training set has 22."),
    "grey": ("in shades of grey", "Read with three equal channels."),
    "small": ("with a side below 64 pixels", "They are enlarged, and blurred by it."),
    "huge": (f"of more than {MAX_PIXELS:,} pixels", "Shrunk while they are decoded, which needs plain JPEG."),
    "turned": ("with an EXIF orientation", "Not applied, as the labels of ILSVRC assume."),
}
"""What may be odd about an image that decodes: in words, and what becomes of it."""


@dataclass(frozen=True)
class _Look:
    digest: bytes
    error: str | None = None
    traits: tuple[tuple[str, str], ...] = ()
    """(key of _TRAITS, detail)."""


@dataclass
class Seen:
    """What is known of all images. For 1.28 million: 20 MB of digests and, where no list has them, 100 MB of names."""

    names: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    digests: bytearray = field(default_factory=bytearray)
    """16 bytes an image; where it can't be read, its position."""
    unreadable: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    odd: dict[str, list[str]] = field(default_factory=lambda: {key: [] for key in _TRAITS})

    def add(self, name: str, label: int, look: _Look) -> None:
        self.digests += look.digest or len(self.names).to_bytes(16)
        self.names.append(name)
        self.labels.append(label)
        if look.error is not None:
            self.unreadable.append(printable(look.error))
        for trait, detail in look.traits:
            self.counts[trait] += 1
            if len(self.odd[trait]) < LISTED:
                self.odd[trait].append(printable(f"{name}{detail}"))


def look_at_all(examples: Iterable[Example], total: int) -> Seen:
    """Decodes on all cores; few images at a time are in memory."""
    seen, coming, cores = Seen(), deque(), os.cpu_count() or 1
    with warnings.catch_warnings(), ThreadPoolExecutor(cores) as pool, counting("checking", total) as advance:
        warnings.filterwarnings("ignore", module=r"PIL\.")

        def finish() -> None:
            name, label, look = coming.popleft()
            seen.add(name, label, look.result())
            advance(1)

        try:
            for example in examples:
                coming.append((example.name, example.label, pool.submit(_look, example)))
                if len(coming) > AHEAD * cores:
                    finish()
            while coming:
                finish()
        finally:
            pool.shutdown(cancel_futures=True)
    return seen


def _look(example: Example) -> _Look:
    if example.error is not None:
        return _Look(b"", f"{example.name}: {example.error}")
    try:
        read_rgb(example.data, name=example.name, shrink_to=256, apply_exif=False)
    except UnreadableInputError as error:
        return _Look(b"", str(error))
    traits: list[tuple[str, str]] = []
    # On odd metadata Pillow raises nearly every exception there is; the pixels are sound.
    with suppress(Exception), Image.open(BytesIO(example.data), formats=FORMATS) as image:
        traits.extend(_traits_of(example.name, image))
    return _Look(hashlib.blake2b(example.data, digest_size=16).digest(), None, tuple(traits))


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
    try:
        yield from examples
    except UnreadableInputError as error:
        problems.append(str(error))


def read(image: tuple[str, Place]) -> Example:
    name, place = image
    try:
        return Example(name=name, data=place.read(), label=-1)
    except OSError as error:
        return Example(name=name, data=b"", label=-1, error=error.strerror)


def unlabelled(root: Path, split: Split) -> list[tuple[str, Place]]:
    """The images of a set whose labels can't be known, as far as they can be found."""
    archive = root if root.is_file() else root / next(iter(ARCHIVES[split]))
    if archive.is_file():
        return list(_members(archive))
    others = {"validation": {"train", "test"}, "train": {"validation", "val", "test"}}[split]
    found = []
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in others)
        found += [(str(path := Path(parent) / name), Place(path)) for name in sorted(names) if is_image(name)]
    return found


def _members(path: Path) -> Iterator[tuple[str, Place]]:
    """The images of an archive up to where it is damaged."""
    with suppress(OSError, tarfile.TarError, ValueError), tarfile.open(path, "r:") as archive:
        last = -1
        for member in archive:
            if member.size < 0 or member.offset <= last:  # some of tarfile's versions would go round for ever
                return
            last = member.offset
            if member.isreg() and is_image(member.name.rsplit("/", 1)[-1]):
                yield member.name, Place(path, member.offset_data, member.size)


def unreadable_images(seen: Seen) -> Finding:
    if not seen.unreadable:
        return Finding(level="ok", title="every image decodes", count=len(seen.names))
    return Finding(
        level="error",
        title="unreadable images",
        advice="Copy or unpack them again. In an evaluation each counts as wrong.",
        count=len(seen.unreadable),
        examples=tuple(seen.unreadable[:LISTED]),
    )


def odd_images(seen: Seen) -> Iterator[Finding]:
    for key, (what, advice) in _TRAITS.items():
        if count := seen.counts[key]:
            examples = tuple(seen.odd[key])
            yield Finding(level="note", title=f"images {what}", advice=advice, count=count, examples=examples)


def duplicates(seen: Seen, classes: Sequence[ClassName]) -> Iterator[Finding]:
    """Images with the same bytes as an earlier one."""
    digests = np.frombuffer(bytes(seen.digests), "S16")
    order = np.argsort(digests, kind="stable")
    again = np.flatnonzero(digests[order[1:]] == digests[order[:-1]])
    pairs = sorted((int(order[i + 1]), int(order[i])) for i in again)
    alike = [pair for pair in pairs if seen.labels[pair[0]] == seen.labels[pair[1]]]
    torn = [pair for pair in pairs if seen.labels[pair[0]] != seen.labels[pair[1]]]

    def called(position: int) -> str:
        return f"{printable(seen.names[position])} ({classes[seen.labels[position]].wnid})"

    for level, title, advice, found in (
        ("warning", "images that are there twice, in one class", "One of each counts double; remove it.", alike),
        ("error", "images that are there twice, in different classes", "One of the two labels is wrong.", torn),
    ):
        if found:
            examples = tuple(f"{called(first)} = {called(second)}" for second, first in found[:LISTED])
            yield Finding(level=level, title=title, advice=advice, count=len(found), examples=examples)
    if not pairs:
        yield Finding(level="ok", title="no image is there twice")
