"""Predictions on disk: for each net, image by image, the probabilities averaged over the views.

A run of `eval` appends to them, so that one that was killed goes on, and one with other nets, or with the same in
another ensemble, has nothing to compute that is there already. What predictions depend on (weights and preprocessing,
images, views, runtime) is part of their key; another value of any of them is another folder.

    CACHE/KEY/about.json     what these are of (`About`)
              images.jsonl   a line an image: name, label (position in the data's classes), error or null
              rows.f32       float32 [images, classes of the net], little-endian; zeros where there is an error
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_infer.errors import AlexNetInferError, UsageError, one_line, shown
from alexnet_infer.files import lock, write_atomically

FORMAT = 1
ABOUT, IMAGES, ROWS = "about.json", "images.jsonl", "rows.f32"

CHUNK = 1024
"""Images that are read at once: 4 MB of rows for 1,000 classes."""


class PredictionsError(AlexNetInferError):
    """Predictions that are damaged, incomplete or don't belong together."""

    exit_code = 4


@dataclass(frozen=True, kw_only=True)
class About:
    """What predictions are of. Everything here is in the key."""

    net: Mapping[str, Any]
    """name, sha256 of the file, backend, parameters, wnids and names of the outputs, departures from the paper."""
    data: Mapping[str, Any]
    """name, layout, split, listing, classes as [wnid, name], images of the whole set, sample size or null."""
    views: str
    batch: int
    """Images that go through the net at once; another number may change a probability's last digit."""
    software: str
    """Versions of what decodes and cuts; another may give other values."""
    begin: int
    end: int
    """The images are those at positions `begin` to `end` - 1 of the set, or of its sample."""

    @property
    def key(self) -> str:
        return hashlib.sha256(self._text().encode()).hexdigest()[:32]

    @property
    def subject(self) -> str:
        """The key without the range: shards of one run have the same."""
        return dataclasses.replace(self, begin=0, end=0).key

    def _text(self) -> str:
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, sort_keys=True)

    def save(self, folder: Path) -> None:
        write_atomically(folder / ABOUT, self._text().encode())

    @classmethod
    def load(cls, folder: Path) -> About:
        """Raises PredictionsError."""
        try:
            fields = json.loads((folder / ABOUT).read_bytes())
            found = fields.pop("format")
            if found != FORMAT:
                raise PredictionsError(f"{folder}: predictions of format {shown(found)}: this version reads {FORMAT}")
            about = cls(**fields)
            if about.key != folder.name:
                raise ValueError("its name is not the key of what it says")
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise PredictionsError(f"{folder}: no predictions of this program ({one_line(error)})") from None
        return about


@dataclass(frozen=True)
class Row:
    """One image of a set, as far as predictions know it."""

    name: str
    """Printable; a path is relative to the set's folder."""
    label: int
    """Position in the data's classes."""
    error: str | None
    """Why it can't be read, without its name."""


class Predictions:
    """The predictions of one net for a range of images, in `cache`. Made empty where there are none.

    Raises UsageError when the cache can't be written, PredictionsError when what is there is damaged.
    """

    def __init__(self, cache: Path, about: About) -> None:
        self.about, self.folder, self._lock = about, cache / about.key, None
        self._row_bytes = 4 * len(about.net["wnids"])
        whole = self._size(ROWS) == len(self) * self._row_bytes and self._count() == len(self)
        if whole and (self.folder / ABOUT).exists():  # nobody writes to these any more
            self.done = len(self)
            return
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self.folder / "lock")
            if self._lock is None:
                raise UsageError(f"{self.folder}: another eval is at work here; wait for it, or choose another --cache")
            try:
                if not (self.folder / ABOUT).exists():
                    about.save(self.folder)
                self.done = self._mend()
            except BaseException:
                self.close()
                raise

    @staticmethod
    def forget(cache: Path, about: About) -> None:
        """Removes what is there, so that it is computed again."""
        with _writing(cache / about.key):
            for name in (ABOUT, IMAGES, ROWS):
                (cache / about.key / name).unlink(missing_ok=True)

    @classmethod
    def open(cls, folder: Path) -> Predictions:
        """Those in `folder`, which must be complete. Raises PredictionsError."""
        about = About.load(folder)
        self = cls.__new__(cls)
        self.about, self.folder, self._lock = about, folder, None
        self._row_bytes = 4 * len(about.net["wnids"])
        self.done = self._count()
        if not self.complete:
            raise PredictionsError(
                f"{folder}: has {self.done} of {len(self)} images; run that part of the evaluation to its end"
            )
        return self

    def __len__(self) -> int:
        return self.about.end - self.about.begin

    def close(self) -> None:
        """Lets other processes write here."""
        if self._lock is not None:
            self._lock.close()

    @property
    def complete(self) -> bool:
        return self.done == len(self)

    def append(self, rows: Sequence[Row], probabilities: np.ndarray) -> None:
        """The next images; `probabilities` float32 [len(rows), classes]. Raises UsageError when the disk is full."""
        lines = "".join(json.dumps([row.name, row.label, row.error]) + "\n" for row in rows)
        with _writing(self.folder):
            for name, data in ((IMAGES, lines.encode()), (ROWS, probabilities.astype("<f4").tobytes())):
                with (self.folder / name).open("ab") as file:
                    file.write(data)
        self.done += len(rows)

    def chunks(self) -> Iterator[tuple[list[Row], np.ndarray]]:
        """All images in order: rows, and probabilities float32 [chunk, classes]. Raises PredictionsError."""
        try:
            with (self.folder / IMAGES).open("rb") as images, (self.folder / ROWS).open("rb") as rows:
                for begin in range(0, len(self), CHUNK):
                    count = min(CHUNK, len(self) - begin)
                    listed = [self._row(images.readline()) for _ in range(count)]
                    values = np.frombuffer(rows.read(count * self._row_bytes), "<f4")
                    values = values.reshape(count, len(self.about.net["wnids"]))
                    if not ((values >= 0) & (values < 1.001)).all():  # as `Tally.add` wants them
                        raise ValueError("these are no probabilities")
                    if (values.any(1) != [row.error is None for row in listed]).any():  # as after a loss of power
                        raise ValueError("probabilities are missing")
                    yield listed, values
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise PredictionsError(f"{self.folder}: damaged ({one_line(error)}); remove it") from None

    def _row(self, line: bytes) -> Row:
        row = Row(*json.loads(line))
        labels = range(len(self.about.data["classes"]))
        if not (type(row.name) is str and type(row.label) is int and isinstance(row.error, str | None)):
            raise TypeError(f"expected name, label and error: {shown(row)}")
        if row.label not in labels or not (row.name + (row.error or "")).isprintable():
            raise ValueError(f"no image of this set: {shown(row)}")
        return row

    def _count(self) -> int:
        """Images that are there whole."""
        rows = self._size(ROWS) // self._row_bytes
        images = sum(1 for line in self._lines() if line.endswith(b"\n"))
        return min(rows, images, len(self))

    def _mend(self) -> int:
        """Cuts off what a killed run left in part, back to the last whole batch; returns the number of images left."""
        done = self._count()
        if done < len(self):
            done -= done % self.about.batch
        keep = sum(len(line) for line, _ in zip(self._lines(), range(done), strict=False))
        for name, size in ((IMAGES, keep), (ROWS, done * self._row_bytes)):
            if self._size(name) != size:
                os.truncate(self.folder / name, size)
        return done

    def _size(self, name: str) -> int:
        path = self.folder / name
        return path.stat().st_size if path.exists() else 0

    def _lines(self) -> Iterator[bytes]:
        path = self.folder / IMAGES
        if path.exists():
            with path.open("rb") as file:
                yield from file


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = "free some space, or " if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""
        reason = error.strerror or error
        raise UsageError(f"{folder}: can't be written ({reason}); {full}choose another --cache") from None
