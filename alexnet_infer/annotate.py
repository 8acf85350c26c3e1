"""Copies of photos with their labels drawn below them: names of the copies, drawing, writing."""

from __future__ import annotations

import io
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from PIL import Image

from alexnet_infer.decode import MAX_BYTES, read_rgb
from alexnet_infer.errors import UnreadableInputError, UsageError, cause_of
from alexnet_infer.files import safe_name, write_atomically, writing
from alexnet_infer.lettering import can_be_drawn, fitted, lettering
from alexnet_infer.manifest import ClassName
from alexnet_infer.marks import is_marked
from alexnet_infer.photos import Photo, fetched
from alexnet_infer.predict import Result
from alexnet_infer.reading import PHOTOS_PER_CALL, batches, decode_ahead
from alexnet_infer.seen import Seen

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

LONGEST_SIDE = 2048
"""The longer side in pixels to which a larger photo is shrunk."""

MOST_LABELS = 20
"""The most labels that are drawn."""

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".jif")
"""Suffixes, in lower case, of photos whose copies are JPEGs of the same name. All other copies are PNGs."""

COPY_SUFFIXES = (*JPEG_SUFFIXES, ".png")
"""Suffixes, in lower case, that a copy keeps."""

MARK = b"annotated by alexnet-infer"
"""What a copy has in its first KB, as a JPEG's comment or a PNG's text. A file without it is never replaced."""

LONGEST_STEM = 200
"""Bytes of a file's name before its suffix."""

SMALLEST, LARGEST = 14, 56
"""The least and the largest height of text in pixels."""

FRAMED = 32
"""The shorter side in pixels above which a photo gets a frame: it would cover a smaller one."""

PANEL, TRACK, BAR, FIRST_BAR = "#18181b", "#3f3f46", "#a1a1aa", "#fb923c"
INK, DIM = "#ffffff", "#b4b4bd"


def plan(photos: Sequence[Photo], folder: Path) -> list[Path]:
    """Return the path of each photo's copy in `folder`, which need not exist.

    A copy has the file's name. Photos of the same name get numbers: a.jpg, a-2.jpg. A photo that is neither JPEG nor
    PNG by its name gets a name that ends in .png. URLs are named after the last part of their path.

    Raises UsageError if `folder` is not a folder or can't be written to, if a photo is in it, or if a file that
    alexnet-infer didn't write has the name of a copy.
    """
    with writing(f"--annotate {folder}"):  # a name may be too long to be looked for
        there = folder.exists()
    if there and not folder.is_dir():
        raise UsageError(f"--annotate {folder}: expected a folder, or a name for a new one")
    if there:
        _check_apart(photos, folder)
    _check_writable(folder)
    taken: set[str] = set()
    last_numbers: Counter[tuple[str, str]] = Counter()
    paths = []
    for photo in photos:
        stem, suffix = _name(photo)
        name = stem + suffix
        while (key := _key(name)) in taken:
            last_numbers[stem, suffix] += 1
            name = f"{stem}-{last_numbers[stem, suffix] + 1}{suffix}"
        taken.add(key)
        paths.append(folder / name)
        if os.path.lexists(paths[-1]) and not is_marked(paths[-1], MARK):
            raise UsageError(f"{paths[-1]}: exists, and alexnet-infer didn't write it; expected another --annotate DIR")
    return paths


def _check_apart(photos: Iterable[Photo], folder: Path) -> None:
    """Refuse a folder with one of the photos in it, or with the file that a link among them leads to."""
    parents: dict[str, Photo] = {}
    for photo in photos:
        if photo.path is not None:
            for path in (photo.path, os.path.realpath(photo.path)):
                parents.setdefault(os.path.dirname(path) or os.curdir, photo)  # noqa: PTH120 (there may be a million)
    for parent, photo in parents.items():
        try:
            same = folder.samefile(parent)
        except OSError:  # not there
            continue
        if same:
            raise UsageError(f"--annotate {folder}: has the photo {photo.name} in it; expected another folder")


def _check_writable(folder: Path) -> None:
    """Make a file without a name in the folder, or in the nearest one above it that exists."""
    with writing(f"--annotate {folder}", "name another folder"):
        parent = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        with TemporaryFile(dir=parent):
            pass


def _name(photo: Photo) -> tuple[str, str]:
    """Return the name of a photo's copy without its suffix, and its suffix."""
    if photo.path is not None:
        name = photo.path.name
    elif photo.url is not None:
        return _name_of_url(photo.url)
    else:
        name = "standard-input"
    stem, suffix = os.path.splitext(name)  # noqa: PTH122
    while len(os.fsencode(stem)) > LONGEST_STEM:
        stem = stem[:-1]
    return stem or "photo", suffix if suffix.lower() in COPY_SUFFIXES else ".png"


def _name_of_url(url: str) -> tuple[str, str]:
    """Return the last part of a URL's path, or its whole host, as a stem that is allowed everywhere and a suffix."""
    try:
        parts = urlsplit(url)
        last, host = parts.path.rstrip("/").rpartition("/")[2], parts.hostname or ""
    except ValueError:  # not a URL, which is reported when it is fetched
        last = host = ""
    if not last:
        return safe_name(host, 100, "photo"), ".png"
    stem, dot, suffix = last.rpartition(".")
    stem, suffix = (stem, f".{suffix}") if dot and suffix.isalnum() else (last, "")
    return safe_name(stem, 100, "photo"), suffix if suffix.lower() in COPY_SUFFIXES else ".png"


def _key(name: str) -> str:
    """Return the same text for two names that are one file on some systems."""
    return unicodedata.normalize("NFC", name).casefold()


def held(photos: Iterable[Photo]) -> Iterator[Photo]:
    """Yield the photos. Those from URLs and standard input have their `content`, since they are decoded twice."""
    for batch in batches(photos, PHOTOS_PER_CALL):
        for photo in fetched(batch):
            has_source = photo.path is not None or photo.content is not None or photo.problem is not None
            yield photo if has_source else _standard_input(photo)


def _standard_input(photo: Photo) -> Photo:
    try:
        return replace(photo, content=photo.source().read(MAX_BYTES + 1))
    except UnreadableInputError as error:
        return replace(photo, problem=error.reason)
    except OSError as error:
        return replace(photo, problem=f"can't be read ({cause_of(error)})")


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """The result of a photo, and of writing its copy."""

    result: Result
    copy: Path | None = None
    """The copy, if it was written."""
    error: str | None = None
    """Why the copy could not be drawn, though the photo could be classified."""
    replaced_names: bool = False
    """Whether the copy has WordNet ids of classes in place of names that can't be drawn here."""


@dataclass(frozen=True, kw_only=True)
class Annotator:
    """Draws copies for one net or ensemble."""

    classes: Sequence[ClassName]
    sizes: Sequence[int]
    """The side in pixels of each net's square."""
    seen: Seen | None
    """The part of a photo that the nets see, if it is one rectangle."""
    footer: str
    """The line below the labels, such as the net's name."""

    def annotate(self, results: Iterable[Result], paths: Iterable[Path]) -> Iterator[Annotated]:
        """Write the copy of each photo to its path, several at a time, and yield the results in order.

        The photos' sources are read again, so those of URLs and standard input must be `held`. Raises UsageError if a
        copy can't be written.
        """
        for done in decode_ahead(zip(results, paths, strict=True), self._written, ahead=2 * (os.cpu_count() or 1)):
            yield done.image or Annotated(result=done.source[0], error=str(done.error))

    def _written(self, item: tuple[Result, Path]) -> Annotated:
        result, path = item
        if result.error is not None:
            return Annotated(result=result)
        named = [self.classes[label.index] for label in result.labels]
        labels = [(_text(n), label.probability) for n, label in zip(named, result.labels, strict=True)]
        photo = read_rgb(result.photo.source(), name=result.photo.name, shrink_to=max(self.sizes))
        copy = draw(photo, labels, footer=self.footer, seen=self.seen)
        with writing(path, "name another --annotate DIR"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _encoded(copy, path))
        drawn = labels[:MOST_LABELS]
        replaced = any(text != n.short for n, (text, _) in zip(named, drawn, strict=False))
        return Annotated(result=result, copy=path, replaced_names=replaced)


def _text(named: ClassName) -> str:
    return named.short if can_be_drawn(named.short) else named.wnid


def draw(photo: Image.Image, labels: Sequence[tuple[str, float]], *, footer: str, seen: Seen | None) -> Image.Image:
    """Return a copy of an RGB photo with a panel of labels (name, probability) below it, which hides nothing of it.

    The photo's longer side becomes at most LONGEST_SIDE, and a narrow one gets margins. At most MOST_LABELS are drawn.
    With `seen`, a thin frame shows that part, unless it is the whole photo within 3 % or the photo's shorter side is at
    most FRAMED.
    """
    from PIL.ImageDraw import Draw

    if (scale := LONGEST_SIDE / max(photo.size)) < 1:
        sides = [max(1, round(side * scale)) for side in photo.size]
        photo = photo.resize(sides, Image.Resampling.LANCZOS, reducing_gap=3)
    box = seen.box(*photo.size) if seen is not None and min(photo.size) > FRAMED else None
    lines = [footer, *(["The net sees the part in the frame."] if box is not None else [])]
    size = min(max(round(0.032 * math.sqrt(photo.width * photo.height)), SMALLEST), LARGEST)
    row, width = round(1.6 * size), max(photo.width, 24 * size)
    labels = labels[:MOST_LABELS]
    height = photo.height + size + row * len(labels) + round(1.3 * size) * len(lines) + size
    canvas = Image.new("RGB", (width, height), PANEL)
    pen = Draw(canvas)
    left = (width - photo.width) // 2
    canvas.paste(photo, (left, 0))
    if box is not None:
        _frame(pen, left, box, max(1, size // 14))
    y = photo.height + size
    for i, (name, probability) in enumerate(labels):
        _label(pen, name, probability, box=(size, y, width - size, y + row), size=size, first=i == 0)
        y += row
    y += size // 4
    for line in lines:
        text, font = lettering(line, max(round(0.8 * size), 11))
        pen.text((size, y), fitted(text, font, width - 2 * size), DIM, font)
        y += round(1.3 * size)
    return canvas


def _frame(pen: ImageDraw, left: int, box: tuple[int, int, int, int], line: int) -> None:
    """Draw a white frame with dark edges just inside `box` of the photo, whose left side is at `left`."""
    x, y, right, bottom = left + box[0], box[1], left + box[2] - 1, box[3] - 1
    pen.rectangle((x, y, right, bottom), outline="black", width=3 * line)
    pen.rectangle((x + line, y + line, right - line, bottom - line), outline="white", width=line)


def _label(
    pen: ImageDraw,
    name: str,
    probability: float,
    *,
    box: tuple[int, int, int, int],
    size: int,
    first: bool,
) -> None:
    """Draw a row in `box`: the name, a bar and the probability."""
    left, top, right, bottom = box
    middle = (top + bottom) // 2
    ink = INK if first else DIM
    percent, font = lettering(f"{probability:.1%}", size)
    pen.text((right, middle), percent, ink, font, anchor="rm")
    bar_left, bar_right = left + round(0.55 * (right - left)), right - round(4 * size)
    thick = max(2, size // 5)
    pen.rectangle((bar_left, middle - thick, bar_right, middle + thick), TRACK)
    if length := round(probability * (bar_right - bar_left)):
        colour = FIRST_BAR if first else BAR
        pen.rectangle((bar_left, middle - thick, bar_left + length, middle + thick), colour)
    text, font = lettering(name, size)
    pen.text((left, middle), fitted(text, font, bar_left - left - size // 2), ink, font, anchor="lm")


def _encoded(image: Image.Image, path: Path) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    file = io.BytesIO()
    if path.suffix.lower() in JPEG_SUFFIXES:
        image.save(file, "JPEG", quality=92, comment=MARK)
    else:
        info = PngInfo()
        info.add_text("Software", MARK.decode())
        image.save(file, "PNG", pnginfo=info)
    return file.getvalue()
