"""Layout `parquet`: Parquet shards as Hugging Face stores them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, ClassVar

from alexnet_infer.datasets.base import Example, OnError, Source, Split
from alexnet_infer.datasets.classes import check_sorted, class_name, find_table, is_wordnet_id, sorted_classes
from alexnet_infer.errors import BackendError, UnreadableInputError, one_line, shown


class Parquet(Source):
    """Shards `<split>-*.parquet` in `root` or `root/data`, with the columns `image{bytes, path}` and `label`.

    A label is a position in a table of classes in `root` or beside the shards. Without a table, it is a position in the
    class names stored in the shards, which must then be WordNet ids. (Hugging Face's ILSVRC stores English names, which
    are not unique.)

    `examples` starts reading at the row group that contains the position. Raises BackendError if pyarrow is not
    installed.
    """

    layout = "parquet"
    accepts: ClassVar = {
        "train": "train-*.parquet with classes.tsv",
        "validation": "validation-*.parquet with classes.tsv",
    }

    @classmethod
    def detect(cls, root: Path, split: Split) -> bool:
        return bool(_shards(root, split))

    def __init__(self, root: Path, split: Split) -> None:
        self._shards = _shards(root, split)
        if not self._shards:
            raise self.absent(root, split)
        _check_complete(self._shards)
        table, names = find_table(root)
        if not names and self._shards[0].parent != root:
            table, names = find_table(self._shards[0].parent)
        if names:
            check_sorted(table, names)
            self.classes = tuple(class_name(table, wnid, name) for wnid, name in names.items())
            self._labels = list(range(len(names)))
        else:
            wnids = _carried_classes(self._shards[0])
            if not wnids:
                raise UnreadableInputError(
                    f"{root / table.name}: not found; expected lines of WordNet id, tab, class name"
                )
            self.classes = sorted_classes(self._shards[0], {wnid: wnid for wnid in wnids})
            self._labels = [sorted(wnids).index(wnid) for wnid in wnids]
        self._rows = [_count_rows(shard) for shard in self._shards]

    def __len__(self) -> int:
        return sum(self._rows)

    def examples(self, start: int, on_error: OnError) -> Iterator[Example]:
        for shard, rows in zip(self._shards, self._rows, strict=True):
            if start < rows:
                yield from self._shard_examples(shard, start, on_error)
            start = max(0, start - rows)

    def at(self, positions: Iterable[int], on_error: OnError) -> Iterator[Example]:
        positions = list(positions)
        first = positions[0] if positions else 0  # reading starts at its row group and goes on to the last position
        walk, here = self.examples(first, on_error), first - 1
        for position in positions:
            yield from islice(walk, position - here - 1, position - here)
            here = position

    def labels(self) -> Iterator[int]:
        for shard in self._shards:
            with _open(shard) as file:
                row = 0
                for batch in file.iter_batches(columns=["label"]):
                    for label in batch["label"].to_pylist():
                        yield self._label(f"{shard.name}, row {row}", label)
                        row += 1

    def contents(self) -> Iterator[Sequence[str | int | None]]:
        for shard in self._shards:
            yield shard.name, shard.stat().st_size, None
            with _open(shard) as file:
                for batch in file.iter_batches(columns=["image.path", "label"]):
                    for row in batch.to_pylist():
                        yield (row.get("image") or {}).get("path"), None, row["label"]

    def _shard_examples(self, shard: Path, start: int, on_error: OnError) -> Iterator[Example]:
        with _open(shard) as file:
            counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            begins = [0, *accumulate(counts)]
            first = next((i for i, end in enumerate(begins[1:]) if end > start), len(counts))
            row = begins[first]
            groups = range(first, len(counts))
            for batch in file.iter_batches(batch_size=512, row_groups=groups, columns=["image", "label"]):
                for image, label in zip(batch["image"].to_pylist(), batch["label"].to_pylist(), strict=True):
                    if row >= start:
                        yield self._example(shard, row, image or {}, label, on_error)
                    row += 1

    def _example(self, shard: Path, row: int, image: dict[str, Any], label: int | None, on_error: OnError) -> Example:
        where = f"{shard.name}, row {row}"
        position = self._label(where, label)
        error = None if image.get("bytes") else "no image in this row"
        if error and on_error == "raise":
            raise UnreadableInputError(f"{where}: {error}")
        data = image.get("bytes") or b""
        return Example(name=_name(where, image), data=data, label=position, error=error, root=self.root)

    def _label(self, where: str, label: int | None) -> int:
        """The position in `classes` for a row's stored `label`. Raises UnreadableInputError if it is out of range."""
        if label is None or not 0 <= label < len(self._labels):
            raise UnreadableInputError(f"{where}: label {label}: expected 0 to {len(self._labels) - 1}")
        return self._labels[label]


def _shards(root: Path, split: Split) -> list[Path]:
    return sorted(root.glob(f"{split}-*.parquet")) or sorted((root / "data").glob(f"{split}-*.parquet"))


def _name(where: str, image: dict[str, Any]) -> str:
    path = image.get("path")
    return path if isinstance(path, str) and path and path.isprintable() else where


def _count_rows(shard: Path) -> int:
    with _open(shard) as file:
        return file.metadata.num_rows


def _carried_classes(shard: Path) -> list[str]:
    """The class names in the shard's metadata, in label order; [] unless they are distinct WordNet ids."""
    with _open(shard) as file:
        metadata = (file.schema_arrow.metadata or {}).get(b"huggingface", b"null")
    try:
        names = json.loads(metadata)["info"]["features"]["label"]["names"]
        if all(map(is_wordnet_id, names)) and len(set(names)) == len(names):
            return list(names)
    except (ValueError, TypeError, KeyError, RecursionError):  # missing or unexpected metadata
        pass
    return []


def _check_complete(shards: list[Path]) -> None:
    """Raise UnreadableInputError if numbered shards, `...-00001-of-00004.parquet`, are missing."""
    matches = [re.search(r"-(\d+)-of-(\d+)\.parquet$", shard.name) for shard in shards]
    present = {(int(match[1]), int(match[2])) for match in matches if match}
    for total in {total for _, total in present}:
        missing = next((i for i in range(total) if (i, total) not in present), None)
        if missing is not None:
            split = shards[0].name.split("-")[0]
            raise UnreadableInputError(
                f"{shards[0].parent}: {split} shard {missing} of {total} is missing (the first is 0)"
            )


@contextmanager
def _open(shard: Path) -> Iterator[Any]:
    """Open a shard as a `pyarrow.parquet.ParquetFile`, and check that it has the columns that this module reads."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise BackendError("Parquet data needs pyarrow: pip install pyarrow") from None
    try:
        if not shard.is_file():
            raise ValueError("missing, or not a regular file")
        with parquet.ParquetFile(shard) as file:
            if not _has_columns(file.schema_arrow):
                columns = shown([f"{field.name} {field.type}" for field in file.schema_arrow])
                raise UnreadableInputError(
                    f"{shard}: has columns {columns}: expected image (struct of bytes, path) and label (whole number)"
                )
            yield file
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UnreadableInputError(f"{shard}: can't be read as Parquet ({one_line(error)})") from None


def _has_columns(schema: Any) -> bool:
    from pyarrow import types

    image, label = (schema.get_field_index(name) for name in ("image", "label"))
    if image < 0 or label < 0 or not types.is_struct(schema.types[image]):
        return False
    data = schema.types[image].get_field_index("bytes")
    if data < 0 or not types.is_integer(schema.types[label]):
        return False
    kind = schema.types[image][data].type
    return types.is_binary(kind) or types.is_large_binary(kind)
