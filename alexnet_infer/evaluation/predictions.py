"""Predictions on disk: the probabilities of each image for each net, averaged over the views.

`eval` appends to them. An interrupted run continues where it stopped, and a run with other nets, or with the same nets
in another ensemble, computes only what is missing. Everything that predictions depend on (weights, preprocessing,
images, views, runtime) is part of their key, and each key has its own folder.

    CACHE/KEY/about.json     the description of the predictions (`About`)
              images.jsonl   one line per image: name, label (position in the data's classes), error or null, CRC-32
              rows.f32       float32 [images, classes of the net], little-endian; zeros for images with an error
              lock           locked while the predictions are written (exclusively) or used (shared)

Nothing in these files is believed. The CRC-32 is that of an image's name, label, error and probabilities, and the
description has a hash of all names and labels. So neither damage, a power loss, two writers nor a changed label
can lead to a wrong figure: what differs is computed again, or refused.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import msgspec
import numpy as np

from alexnet_infer import strict_json
from alexnet_infer.errors import (
    AlexNetInferError,
    SpecError,
    UnreadableInputError,
    UsageError,
    cause_of,
    one_line,
    shown,
)
from alexnet_infer.files import (
    MAX_JSON_BYTES,
    copy_atomically,
    lock,
    open_own,
    open_regular,
    read_limited,
    share,
    write_atomically,
    writing,
)
from alexnet_infer.manifest import ClassName
from alexnet_infer.metrics import are_probabilities
from alexnet_infer.preprocess import Views
from alexnet_infer.strict_json import Sha256, Text

FORMAT = 2
ABOUT, IMAGES, ROWS, LOCK = "about.json", "images.jsonl", "rows.f32", "lock"

CHUNK = 1024
"""Images that are read at once. Their rows take 4 MB for 1,000 classes."""

MISSING = "the rest is missing"
"""What the damage is if the files end before the last image, as after a killed run."""

LONGEST_LINE = 1 << 20
"""Bytes of a line of IMAGES that are read. Paths have at most 4,096."""

Count = Annotated[int, strict_json.whole(0, 2**53)]
Positive = Annotated[int, strict_json.whole(1, 2**53)]


class PredictionsError(AlexNetInferError):
    """Predictions that are damaged, incomplete or from different evaluations."""

    exit_code = UnreadableInputError.exit_code


class AboutNet(strict_json.Record, frozen=True, kw_only=True):
    """The net that made predictions. Raises SpecError if a value is invalid, or if a class occurs twice."""

    name: Text
    sha256: Sha256 | None
    """Of the file, or what a server says of its net. None if it says nothing: these predictions are never kept."""
    backend: Text
    parameters: Count
    classes: tuple[ClassName, ...]
    """Of the outputs, in their order."""
    deviations: tuple[Text, ...]
    """Differences from the paper's nets."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_distinct(self.classes)

    @property
    def wnids(self) -> list[str]:
        return [named.wnid for named in self.classes]

    @property
    def identity(self) -> str:
        """What no other net has. Without a digest, `backend` has the server's address."""
        return self.backend if self.sha256 is None else self.sha256


class AboutData(strict_json.Record, frozen=True, kw_only=True):
    """The data that predictions are for. Raises SpecError if a value is invalid, or if a class occurs twice."""

    name: Text
    layout: Text
    split: Literal["train", "validation"]
    listing: Sha256
    """`LabelledImages.listing`, of the whole set."""
    classes: tuple[ClassName, ...]
    """In the order to which labels refer."""
    images: Positive
    """Images of the set, without those that are left out."""
    sample: Positive | None
    """The number of images of a sample, or None if all are evaluated."""
    left_out: Count
    """Images of classes that the nets don't know."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_distinct(self.classes)
        if self.count > self.images:
            raise SpecError(f"sample={self.sample}: expected at most {self.images}, the number of images")

    @property
    def count(self) -> int:
        """The number of images that are evaluated, by all shards together."""
        return self.images if self.sample is None else self.sample


def _check_distinct(classes: Sequence[ClassName]) -> None:
    if not classes or len({named.wnid for named in classes}) < len(classes):
        raise SpecError(f"has {len(classes)} classes: expected one or more, each once")


class About(strict_json.Record, frozen=True, kw_only=True):
    """The description of predictions. Every field is part of the key. Raises SpecError if a value is invalid."""

    net: AboutNet
    data: AboutData
    views: Views
    batch: Positive
    """Images per call of the net. A different number may change the last digit of a probability."""
    software: Text
    """Versions of the packages that decode images and cut patches. Other versions may give different values."""
    begin: Count
    end: Count
    """The images are at positions `begin` to `end` - 1 of the set or of its sample."""
    images: Sha256
    """`hash_of` their names and labels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.begin < self.end <= self.data.count:
            raise SpecError(f"images {self.begin} to {self.end}: expected a range of 0 to {self.data.count}")

    @property
    def key(self) -> str:
        """The name of the predictions' folder."""
        return hashlib.sha256(self.text()).hexdigest()[:32]

    @property
    def subject(self) -> str:
        """A key without the range. The shards of a run have the same subject."""
        return msgspec.structs.replace(self, begin=0, end=1, images="0" * 64).key

    def text(self) -> bytes:
        """Return the description as JSON."""
        return json.dumps({"format": FORMAT, **msgspec.to_builtins(self)}, sort_keys=True).encode()

    @classmethod
    def load(cls, folder: Path) -> About:
        """Read the description in `folder`. Raises PredictionsError if it is missing or damaged."""
        try:
            _, fields = strict_json.parse_format(read_limited(folder / ABOUT, MAX_JSON_BYTES), "about", FORMAT)
            about = strict_json.build(fields, cls, "about")
            if about.key != folder.name:
                raise SpecError("the folder's name is not the key of its description")
        except (OSError, SpecError) as error:
            raise PredictionsError(
                f"{folder}: no predictions of this version of alexnet-infer ({cause_of(error)}); remove it, or run "
                "eval again"
            ) from None
        return about


@dataclass(frozen=True)
class ImageRow:
    """One image of a set."""

    name: str
    """A printable path, relative to the set's folder."""
    label: int
    """Position in the data's classes."""
    error: str | None
    """Why the image can't be read, without the image's name, or None if it can."""

    def line(self, probabilities: bytes) -> bytes:
        """Return the image's line in IMAGES, given its bytes in ROWS."""
        fields = _encode([self.name, self.label, self.error])
        return b"%s, %d]\n" % (fields[:-1].encode(), zlib.crc32(probabilities, zlib.crc32(fields.encode())))


Listed = Sequence[tuple[str, int]]
"""The name and the label of each image."""


def hash_of(images: Iterable[tuple[str, int]]) -> str:
    """Return the SHA-256 of the names and labels of images, in hexadecimal."""
    digest = hashlib.sha256()
    _update(digest, images)
    return digest.hexdigest()


def _update(digest: hashlib._Hash, images: Iterable[tuple[str, int]]) -> None:
    for image in images:
        digest.update(b"%s\n" % _encode(image).encode())


_encode = json.JSONEncoder(check_circular=False).encode  # with the same result as json.dumps, in half the time


_LINE = msgspec.json.Decoder(tuple[str, int, str | None, int])


class Predictions:
    """The predictions of one net for a range of images, in a folder of `cache`. See `open_all` and `open`.

    The constructor locks them: exclusively if they are incomplete or to be computed `fresh`, so that no other process
    can open them until they are complete. Those of a net without a digest are in a temporary folder, which is removed
    with this object.

    Raises UsageError if the cache can't be written, or if another process is using these predictions.
    """

    def __init__(self, cache: Path, about: About, *, fresh: bool = False) -> None:
        if about.net.sha256 is None:  # nothing would tell that the server has another net by the next run
            cache = Path(tempfile.mkdtemp(prefix="alexnet-infer-"))
            weakref.finalize(self, shutil.rmtree, cache, ignore_errors=True)
        self._describe(about, cache / about.key)
        with self._writing():
            self._hold(shared=not fresh and self._is_finished())

    def _describe(self, about: About, folder: Path) -> None:
        self.about, self.folder = about, folder
        self.done = 0
        """The number of images that are complete."""
        self.damage: str | None = None
        """Why predictions that were there are computed again, or None."""
        self._row_bytes = 4 * len(about.net.classes)
        self._unlock = self._share = lambda: None
        self._shared = True

    @classmethod
    def open(cls, folder: Path) -> Predictions:
        """Open the predictions in `folder` for reading. Raises PredictionsError if they are damaged or incomplete."""
        self = cls.__new__(cls)
        self._describe(About.load(folder), folder)
        with self._refusing(), self._files() as (images, rows):
            lines = sum(1 for line in islice(_lines(images), len(self)) if line.endswith(b"\n"))
            self.done = min(lines, os.fstat(rows.fileno()).st_size // self._row_bytes)
        if not self.complete:
            raise PredictionsError(
                f"{folder}: has {self.done} of {len(self)} images; complete that part of the evaluation first"
            )
        return self

    def prepare(self, images: Listed, *, fresh: bool = False) -> None:
        """Keep the predictions that are valid for `images`, the images in the range, or none with `fresh`.

        Predictions that are damaged or for other images are discarded, with all after them; so are those after the last
        complete batch. Raises UsageError if the files can't be written, or if another process is using them.
        """
        self._images = images
        with self._writing():
            if self._shared:
                self.done, self.damage = self._valid()
                if self.complete:
                    return
                self._lock_damaged()
            if fresh:
                for name in (ABOUT, IMAGES, ROWS):
                    (self.folder / name).unlink(missing_ok=True)
            if not self._is_described():
                write_atomically(self.folder / ABOUT, self.about.text())
            self._mend()
            if self.complete:
                self._share()

    def __len__(self) -> int:
        return self.about.end - self.about.begin

    def close(self) -> None:
        """Unlock these predictions. Otherwise they stay locked as long as this object is used."""
        self._unlock()

    @property
    def complete(self) -> bool:
        return self.done == len(self)

    def append(self, rows: Sequence[ImageRow], probabilities: np.ndarray) -> None:
        """Append the next images and their `probabilities`, float32 [len(rows), classes].

        Raises UsageError if they can't be written, for example because the disk is full, and UnreadableInputError if
        they aren't the images that were listed: the set has changed.
        """
        expected = self._images[self.done : self.done + len(rows)]
        assert len(rows) == len(expected), "more images than the range has"
        for row, image in zip(rows, expected, strict=True):
            if (row.name, row.label) != image:
                raise UnreadableInputError(
                    f"{shown(row.name)}: expected {shown(image[0])}, as listed before; the set was changed meanwhile"
                )
        values = [row.tobytes() for row in probabilities.astype("<f4")]
        lines = b"".join(row.line(value) for row, value in zip(rows, values, strict=True))
        with self._writing():
            self._add(IMAGES, lines, self._lines_bytes)
            self._add(ROWS, b"".join(values), self.done * self._row_bytes)
            self._lines_bytes += len(lines)
            self.done += len(rows)
            if self.complete:
                self._share()

    def _add(self, name: str, data: bytes, size: int) -> None:
        with open_own(self.folder / name, "ab") as file:
            if os.fstat(file.fileno()).st_size != size:
                raise OSError(errno.EBUSY, f"another program writes to {name}")
            file.write(data)

    def chunks(self) -> Iterator[tuple[list[ImageRow], np.ndarray]]:
        """Yield all images in order, at most CHUNK at a time: rows, and probabilities float32 [images, classes].

        Raises PredictionsError if the files are damaged or, after the last chunk, if the names and labels are not those
        that the description has the hash of.
        """
        digest = hashlib.sha256()
        with self._refusing(), self._files() as files:
            for rows, values, damage in self._read(*files):
                if damage:
                    raise PredictionsError(f"{self.folder}: damaged ({damage}); remove it")
                _update(digest, ((row.name, row.label) for row in rows))
                yield rows, values
        if digest.hexdigest() != self.about.images:
            raise PredictionsError(f"{self.folder}: damaged (names or labels of images were changed); remove it")

    def _read(self, images: BinaryIO, rows: BinaryIO) -> Iterator[tuple[list[ImageRow], np.ndarray, str | None]]:
        """Yield chunks of images up to the first one that is damaged, and with the last chunk what the damage is."""
        lines = _lines(images)
        for begin in range(0, len(self), CHUNK):
            count, listed = min(CHUNK, len(self) - begin), []
            data, damage = rows.read(count * self._row_bytes), None
            for i in range(count):
                line, own = next(lines, b""), data[i * self._row_bytes : (i + 1) * self._row_bytes]
                if not line.endswith(b"\n") or len(own) < self._row_bytes:
                    damage = MISSING
                    break
                try:
                    listed.append(self._row(line, own))
                except (ValueError, RecursionError) as error:
                    damage = f"image {begin + i + 1}: {one_line(error)}"
                    break
            valid = data[: len(listed) * self._row_bytes]
            values = np.frombuffer(valid, "<f4").reshape(-1, len(self.about.net.classes))
            wrong = ~are_probabilities(values).all(1) | (values.any(1) != [row.error is None for row in listed])
            if wrong.any():
                first = int(wrong.argmax())
                listed, values = listed[:first], values[:first]
                damage = f"image {begin + first + 1}: values are not probabilities"
            yield listed, values, damage
            if damage:
                return

    def _row(self, line: bytes, probabilities: bytes) -> ImageRow:
        """Return the image of a line of IMAGES, given its part of ROWS. Raises ValueError."""
        *fields, _ = _LINE.decode(line)
        row = ImageRow(*fields)
        if row.label not in range(len(self.about.data.classes)) or not (row.name + (row.error or "")).isprintable():
            raise ValueError(f"not an image of this set: {shown(row)}")
        if row.line(probabilities) != line:
            raise ValueError("its check sum is wrong")
        return row

    def _valid(self) -> tuple[int, str | None]:
        """Return the number of images up to the first one that is missing, damaged or another, and what the damage is.

        An end of the files is no damage.
        """
        done = 0
        try:
            with self._files() as files:
                for rows, _, damage in self._read(*files):
                    for row in rows:
                        if (row.name, row.label) != self._images[done]:
                            return done, f"image {done + 1}: its name or label is not that of the set"
                        done += 1
                    if damage:
                        return done, None if damage == MISSING else damage
        except FileNotFoundError:
            pass
        return done, None

    def _mend(self) -> None:
        """Truncate the files after the last complete batch of valid images."""
        self.done, self.damage = self._valid()
        if not self.complete:
            self.done -= self.done % self.about.batch
        self._lines_bytes = 0
        if self.done:
            with open_regular(self.folder / IMAGES, follow=False) as images:
                self._lines_bytes = sum(map(len, islice(_lines(images), self.done)))
        for name, size in ((IMAGES, self._lines_bytes), (ROWS, self.done * self._row_bytes)):
            path = self.folder / name
            if os.path.lexists(path):
                if path.lstat().st_nlink > 1:  # a backup shares the file
                    copy_atomically(path, path)
                with open_own(path, "r+b") as file:
                    file.truncate(size)

    def _is_finished(self) -> bool:
        """Whether the files have the sizes of complete predictions."""
        try:
            return (self.folder / ROWS).lstat().st_size == len(self) * self._row_bytes and self._is_described()
        except OSError:
            return False

    def _is_described(self) -> bool:
        text = self.about.text()
        try:
            return read_limited(self.folder / ABOUT, len(text)) == text
        except (OSError, SpecError):
            return False

    def _hold(self, *, shared: bool) -> None:
        """Lock the folder, in place of the lock that is held. It is created for an exclusive lock.

        Raises UsageError if another process has locked it.
        """
        self.close()
        self._shared = shared
        if not shared:
            if self.folder.is_symlink():
                raise OSError(errno.ELOOP, "it is a symbolic link")
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            held = lock(self.folder / LOCK, shared=shared)
        except OSError:
            if shared:  # a cache that can't be written is only read
                return
            raise
        if held is None:
            raise UsageError(f"{self.folder}: another eval is using it; wait for it, or choose another --cache")
        self._unlock = weakref.finalize(self, held.close)
        self._share = partial(share, held)

    def _lock_damaged(self) -> None:
        try:
            self._hold(shared=False)
        except OSError as error:
            damage = f"they are damaged ({self.damage or MISSING})"
            raise OSError(error.errno, f"{error.strerror}, and {damage}", error.filename) from None

    @contextmanager
    def _files(self) -> Iterator[tuple[BinaryIO, BinaryIO]]:
        """Open IMAGES and ROWS for reading. Raises OSError, or SpecError if one is not a regular file."""
        with (
            open_regular(self.folder / IMAGES, follow=False) as images,
            open_regular(self.folder / ROWS, follow=False) as rows,
        ):
            yield images, rows

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn errors of the files into UsageError."""
        with writing(self.folder, "choose another --cache"):
            try:
                yield
            except SpecError as error:
                raise OSError(errno.EINVAL, str(error)) from None

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Turn errors of the files into PredictionsError."""
        try:
            yield
        except (OSError, SpecError) as error:
            raise PredictionsError(f"{self.folder}: damaged ({cause_of(error)}); remove it") from None


def open_all(cache: Path, abouts: Sequence[About], images: Listed, *, fresh: bool = False) -> list[Predictions]:
    """Open the predictions of several nets for `images`, and keep those that are valid, or none with `fresh`.

    All are locked before any is changed, and always in the same order. If the folders do not exist, they are created.
    Raises UsageError if the cache can't be written, or if another process is using one of them.
    """
    ordered = sorted(abouts, key=lambda about: about.key)
    with ExitStack() as stack:
        opened = [stack.enter_context(closing(Predictions(cache, about, fresh=fresh))) for about in ordered]
        for predictions in opened:
            predictions.prepare(images, fresh=fresh)
        stack.pop_all()
    return [opened[ordered.index(about)] for about in abouts]


def _lines(images: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: images.readline(LONGEST_LINE), b"")
