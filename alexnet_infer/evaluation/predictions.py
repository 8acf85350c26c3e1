"""Predictions on disk: the probabilities of each image for each net, averaged over the views.

`eval` appends to them. An interrupted run continues where it stopped, and a run with other nets, or with the same nets
in another ensemble, computes only what is missing. Everything that predictions depend on (weights, preprocessing,
images, views, runtime) is part of their key, and each key has its own folder.

    CACHE/KEY/about.json     the description of the predictions (`About`)
              images.jsonl   one line per image: name, label (position in the data's classes), error or null
              rows.f32       float32 [images, classes of the net], little-endian; zeros for images with an error
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from alexnet_infer import strict_json
from alexnet_infer.errors import AlexNetInferError, UnreadableInputError, UsageError, one_line, shown
from alexnet_infer.files import lock, write_atomically, writing
from alexnet_infer.metrics import are_probabilities

FORMAT = 1
ABOUT, IMAGES, ROWS = "about.json", "images.jsonl", "rows.f32"

CHUNK = 1024
"""Images that are read at once. Their rows take 4 MB for 1,000 classes."""


class PredictionsError(AlexNetInferError):
    """Predictions that are damaged, incomplete or from different evaluations."""

    exit_code = UnreadableInputError.exit_code


class About(msgspec.Struct, frozen=True, kw_only=True):
    """The description of predictions. Every field is part of the key."""

    net: Mapping[str, Any]
    """name, sha256 of the file, backend, parameters, wnids and names of the outputs, departures (deviations from the
    paper)."""
    data: Mapping[str, Any]
    """name, layout, split, listing, classes as [wnid, name], images of the full set, sample size or null."""
    views: str
    batch: int
    """Images per call of the net. A different number may change the last digit of a probability."""
    software: str
    """Versions of the packages that decode images and cut patches. Other versions may give different values."""
    begin: int
    end: int
    """The images are at positions `begin` to `end` - 1 of the set or of its sample."""

    @property
    def key(self) -> str:
        """The name of the predictions' folder."""
        return hashlib.sha256(self._text().encode()).hexdigest()[:32]

    @property
    def subject(self) -> str:
        """The key without the range. The shards of a run have the same subject."""
        return msgspec.structs.replace(self, begin=0, end=0).key

    def _text(self) -> str:
        return json.dumps({"format": FORMAT, **msgspec.structs.asdict(self)}, sort_keys=True)

    def save(self, folder: Path) -> None:
        """Write the description into `folder`. Raises OSError."""
        write_atomically(folder / ABOUT, self._text().encode())

    @classmethod
    def load(cls, folder: Path) -> About:
        """Read the description in `folder`. Raises PredictionsError if it is missing or damaged."""
        try:
            _, fields = strict_json.parse_format((folder / ABOUT).read_bytes(), "about", FORMAT)
            about = strict_json.build(fields, cls, "about")
            if about.key != folder.name:
                raise ValueError("the folder's name is not the key of its description")
        except (OSError, ValueError, RecursionError) as error:
            raise PredictionsError(f"{folder}: no predictions of alexnet-infer ({one_line(error)})") from None
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


_ROW = msgspec.json.Decoder(tuple[str, int, str | None])


class Predictions:
    """The predictions of one net for a range of images, in a folder of `cache`.

    If the folder does not exist, it is created without images. If a run was killed, predictions continue after its last
    complete batch. Until `close`, no other process can open incomplete predictions for writing.

    Raises UsageError if the cache can't be written, or if another process is writing to these predictions.
    """

    def __init__(self, cache: Path, about: About) -> None:
        self.about, self.folder, self._lock = about, cache / about.key, None
        self._row_bytes = 4 * len(about.net["wnids"])
        finished = self._size(ROWS) == len(self) * self._row_bytes and self._count() == len(self)
        if finished and (self.folder / ABOUT).exists():  # no process writes to these any more
            self.done = len(self)
            return
        with writing(self.folder, "choose another --cache"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self.folder / "lock")
            if self._lock is None:
                raise UsageError(f"{self.folder}: another eval is using it; wait for it, or choose another --cache")
            try:
                if not (self.folder / ABOUT).exists():
                    about.save(self.folder)
                self.done = self._mend()
            except BaseException:
                self.close()
                raise

    @staticmethod
    def forget(cache: Path, about: About) -> None:
        """Remove these predictions, so that they are computed again. Raises UsageError if they can't be removed."""
        with writing(cache / about.key, "choose another --cache"):
            for name in (ABOUT, IMAGES, ROWS):
                (cache / about.key / name).unlink(missing_ok=True)

    @classmethod
    def open(cls, folder: Path) -> Predictions:
        """Open the predictions in `folder` for reading. Raises PredictionsError if they are damaged or incomplete."""
        about = About.load(folder)
        self = cls.__new__(cls)
        self.about, self.folder, self._lock = about, folder, None
        self._row_bytes = 4 * len(about.net["wnids"])
        self.done = self._count()
        if not self.complete:
            raise PredictionsError(
                f"{folder}: has {self.done} of {len(self)} images; complete that part of the evaluation first"
            )
        return self

    def __len__(self) -> int:
        return self.about.end - self.about.begin

    def close(self) -> None:
        """Allow other processes to write to these predictions."""
        if self._lock is not None:
            self._lock.close()

    @property
    def complete(self) -> bool:
        return self.done == len(self)

    def append(self, rows: Sequence[ImageRow], probabilities: np.ndarray) -> None:
        """Append the next images and their `probabilities`, float32 [len(rows), classes].

        Raises UsageError if they can't be written, for example because the disk is full.
        """
        lines = "".join(json.dumps([row.name, row.label, row.error]) + "\n" for row in rows)
        with writing(self.folder, "choose another --cache"):
            for name, data in ((IMAGES, lines.encode()), (ROWS, probabilities.astype("<f4").tobytes())):
                with (self.folder / name).open("ab") as file:
                    file.write(data)
        self.done += len(rows)

    def chunks(self) -> Iterator[tuple[list[ImageRow], np.ndarray]]:
        """Yield all images in order, at most CHUNK at a time: rows, and probabilities float32 [images, classes].

        Raises PredictionsError if the files are damaged.
        """
        try:
            with (self.folder / IMAGES).open("rb") as images, (self.folder / ROWS).open("rb") as rows:
                for begin in range(0, len(self), CHUNK):
                    count = min(CHUNK, len(self) - begin)
                    listed = [self._row(images.readline()) for _ in range(count)]
                    values = np.frombuffer(rows.read(count * self._row_bytes), "<f4")
                    values = values.reshape(count, len(self.about.net["wnids"]))
                    if not are_probabilities(values).all():
                        raise ValueError("values are not probabilities")
                    if (values.any(1) != [row.error is None for row in listed]).any():  # possible after a power loss
                        raise ValueError("probabilities are missing")
                    yield listed, values
        except (OSError, ValueError, RecursionError) as error:
            raise PredictionsError(f"{self.folder}: damaged ({one_line(error)}); remove it") from None

    def _row(self, line: bytes) -> ImageRow:
        row = ImageRow(*_ROW.decode(line))
        labels = range(len(self.about.data["classes"]))
        if row.label not in labels or not (row.name + (row.error or "")).isprintable():
            raise ValueError(f"not an image of this set: {shown(row)}")
        return row

    def _count(self) -> int:
        """The number of images that are complete in both files."""
        rows = self._size(ROWS) // self._row_bytes
        images = sum(1 for line in self._lines() if line.endswith(b"\n"))
        return min(rows, images, len(self))

    def _mend(self) -> int:
        """Truncate the files of a killed run after the last complete batch. Returns the number of images left."""
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
