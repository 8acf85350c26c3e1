"""Layout `parquet`: Parquet shards as Hugging Face stores them."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, groupby, pairwise
from pathlib import Path
from typing import ClassVar

from alexnet_infer.datasets.base import Example, OnError, Source
from alexnet_infer.datasets.parquet_labels import Labels, describe
from alexnet_infer.datasets.parquet_shard import Image, opened
from alexnet_infer.datasets.tree import SPLIT_FOLDERS, Folder, Split
from alexnet_infer.decode import MAX_BYTES
from alexnet_infer.errors import UnreadableInputError, UsageError, shown


class Parquet(Source):
    """Shards `<split>-*.parquet` in `root` or `root/data`, with a column `image{bytes, path}` and one for the label.

    The classes of the labels are those of `alexnet_infer.datasets.parquet_labels`. `examples` starts reading at the row
    group that contains the position. Raises BackendError if pyarrow is not installed.
    """

    layout = "parquet"
    accepts: ClassVar = {
        "train": "train-*.parquet",
        "validation": "validation-*.parquet",
    }

    @classmethod
    def detect(cls, root: Folder, split: Split) -> bool:
        return isinstance(root, Path) and bool(_shards(root, split))

    def __init__(self, root: Folder, split: Split) -> None:
        self._shards = _shards(root, split) if isinstance(root, Path) else []
        if not self._shards:
            raise self.absent(root, split)
        _check_complete(self._shards, split)
        described = []
        self._rows = []
        for shard in self._shards:
            with opened(shard) as file:
                described.append(describe(shard, file.schema))
                self._rows.append(sum(file.counts))
        _check_different(self._shards, self._rows)
        self._labels = Labels.of(described, (root, self._shards[0].parent))
        self.notes = self._labels.notes
        self.classes = self._labels.classes

    def __len__(self) -> int:
        return sum(self._rows)

    def examples(self, start: int, on_error: OnError) -> Iterator[Example]:
        return self.at(range(start, len(self)), on_error)

    def at(self, positions: Iterable[int], on_error: OnError) -> Iterator[Example]:
        for i, those, begin in _parts(positions, self._rows):
            with opened(self._shards[i]) as shard:
                for group, rows, first in _parts((position - begin for position in those), shard.counts):
                    wanted = next(rows)
                    for row, (image, label) in enumerate(shard.examples(group, self._labels.column), first):
                        if row == wanted:
                            yield self._example(self._shards[i], row, image, label, on_error)
                            wanted = next(rows, None)
                            if wanted is None:
                                break

    def labels(self) -> Iterator[int]:
        for path in self._shards:
            with opened(path) as shard:
                for row, (_, label) in enumerate(shard.names(self._labels.column)):
                    yield self._label(f"{path.name}, row {row}", label)

    def names(self) -> Iterator[str]:
        for path in self._shards:
            with opened(path) as shard:
                for row, (image, _) in enumerate(shard.names("image.path", self._labels.column)):
                    yield _name(f"{path.name}, row {row}", image)

    def contents(self) -> Iterator[Sequence[str | int | None]]:
        for path in self._shards:
            yield path.name, path.stat().st_size, None
            with opened(path) as shard:
                for row, (image, label) in enumerate(shard.names("image.path", self._labels.column)):
                    name = image.get("path")  # bytes, in a shard of unusual columns
                    position = self._label(f"{path.name}, row {row}", label)
                    yield name if isinstance(name, str) else None, None, position

    def _example(self, shard: Path, row: int, image: Image, label: int | str | None, on_error: OnError) -> Example:
        where = f"{shard.name}, row {row}"
        position = self._label(where, label)
        data = image.get("bytes") or b""
        error = "no image in this row" if data == b"" else None
        if isinstance(data, int):
            data, error = b"", f"too large: expected at most {MAX_BYTES:,} bytes; shrink it first"
        if error and on_error == "raise":
            raise UnreadableInputError(f"{where}: {error}")
        return Example(name=_name(where, image), data=data, label=position, error=error, root=self.root)

    def _label(self, where: str, label: int | str | None) -> int:
        """The position in `classes` for a row's stored `label`. Raises UnreadableInputError if it is unknown."""
        position = self._labels.positions.get(label)
        if position is None:
            raise UnreadableInputError(f"{where}: label {shown(label)}: expected {self._labels.expected}")
        return position


def _parts(positions: Iterable[int], sizes: Sequence[int]) -> Iterator[tuple[int, Iterator[int], int]]:
    """Split ascending positions in parts that follow one another: yield (number, its positions, its first position)."""
    ends = [*accumulate(sizes)]
    for part, those in groupby(positions, key=lambda position: bisect_right(ends, position)):
        yield part, those, ends[part] - sizes[part]


def _shards(root: Path, split: Split) -> list[Path]:
    """The split's shards, sorted. Raises UsageError if they are in two places, or if there are two kinds of them."""
    groups = {}
    for folder in (root, root / "data"):
        for name in SPLIT_FOLDERS[split]:
            if shards := sorted({*folder.glob(f"{name}-*.parquet"), *folder.glob(f"{name}.parquet")}):
                groups[folder / f"{name}-*.parquet"] = shards
    if len(groups) > 1:
        raise UsageError(
            f"{root}: has {' and '.join(map(str, groups))}, which may both be the {split} split; expected one of them. "
            "Move the others elsewhere"
        )
    return next(iter(groups.values()), [])


def _name(where: str, image: Image) -> str:
    path = image.get("path")
    return path if isinstance(path, str) and path and path.isprintable() else where


_FOOTER = 1 << 16
"""Bytes at the end of a shard that are compared."""

_NUMBERED = re.compile(r"-([0-9]+)(?:-of-([0-9]+)(-[0-9A-Za-z]+)?)?")
"""What follows the split in a shard's name: a number and, as Hugging Face writes it, the total and a hash or none. Each
shard has its own hash."""


def _check_complete(shards: list[Path], split: Split) -> None:
    """Raise UnreadableInputError if a shard is missing, or if images may be present twice.

    Without a total, only a number between two others is known to be missing.
    """
    where, expected = shards[0].parent, f"such as {split}-00000-of-00002.parquet and {split}-00001-of-00002.parquet"
    matches = {
        shard.name: _NUMBERED.fullmatch(shard.stem.removeprefix(shard.stem.partition("-")[0])) for shard in shards
    }
    kinds = {(match[2] and int(match[2]), match[3] is not None): name for name, match in matches.items() if match}
    strange = [name for name, match in matches.items() if not match]
    if strange and (len(shards) > 1 or "-of-" in strange[0]):
        raise UnreadableInputError(
            f"{where}: {shown(strange[0])} is not the name of a shard, so images may be present twice or missing; "
            f"expected numbered shards, {expected}"
        )
    if len(kinds) > 1:
        first, second = [*kinds.values()][:2]
        raise UnreadableInputError(
            f"{where}: {first} and {second} are not of one upload, so images may be present twice; expected the shards "
            f"of one upload, {expected}"
        )
    if strange:
        return
    ((total, _),) = kinds
    present = sorted(int(match[1]) for match in matches.values())
    again = next((a for a, b in pairwise(present) if a == b), None)
    if again is not None:
        names = [name for name, match in matches.items() if int(match[1]) == again]
        raise UnreadableInputError(f"{where}: {names[0]} and {names[1]} have one number; expected each number once")
    numbers = range(total) if total else range(min(present[0], 1), present[-1] + 1)
    if missing := [number for number in numbers if number not in {*present}]:
        of = f" of {total}" if total else ""
        raise UnreadableInputError(
            f"{where}: {split} shard {missing[0]}{of} is missing (the first is {numbers[0]}); expected all shards"
        )
    if present != [*numbers]:
        raise UnreadableInputError(f"{where}: {split} shard {present[-1]} of {total}: expected numbers below {total}")


def _check_different(shards: Sequence[Path], rows: Sequence[int]) -> None:
    """Raise UnreadableInputError if two shards are one file or have the same content: images would count twice."""
    seen: dict[object, Path] = {}
    for shard, images in zip(shards, rows, strict=True):
        status = shard.stat()
        with shard.open("rb") as file:
            file.seek(max(0, status.st_size - _FOOTER))
            tail = hashlib.sha256(file.read()).digest()  # where each column lies, its size and its extremes
        for key in ((status.st_dev, status.st_ino), (status.st_size, images, tail)):
            if (first := seen.setdefault(key, shard)) != shard:
                raise UnreadableInputError(
                    f"{shard.parent}: {first.name} and {shard.name} have the same content; expected each image once"
                )
