"""Features as a Parquet file: one row per image, with its name, label, error and a list of values per layer.

The lists have a fixed length: a map is flattened in (channel, row, column) order. The metadata of the schema has the
description (`About`) under METADATA_KEY. Needs pyarrow.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_infer.datasets.parquet_pages import LARGE, MOST
from alexnet_infer.datasets.parquet_shard import Shard, opened, sizes_of
from alexnet_infer.errors import SpecError, UnreadableInputError, UsageError
from alexnet_infer.features.about import About, AboutLayer
from alexnet_infer.features.table import Damaged, Features, Row, labels_of, text_of
from alexnet_infer.packages import missing_package

METADATA_KEY = b"alexnet_infer"

GROUP_BYTES = 2**26
"""Bytes of values in a row group, unless one row has more."""

MOST_GROUPS = 4000
"""Row groups of one file: with more, its list of them would be too long to be read."""

_TEXTS = ("name", "label", "error")
_TEXTS_AT_ONCE = 1024


def import_pyarrow() -> Any:
    """Return the modules pyarrow and pyarrow.parquet. Raises BackendError if they are missing."""
    try:
        import pyarrow
        from pyarrow import parquet
    except Exception as error:
        raise missing_package(error, "a .parquet file") from None
    return pyarrow, parquet


def check_size(about: About) -> None:
    """Raise UsageError if a file with this description would have too many row groups."""
    if about.images.count > MOST_GROUPS * _rows_per_group(about):
        size = about.images.count * about.row_bytes
        raise UsageError(f"{size:,} bytes are too many for a .parquet file; choose .npz")


def _rows_per_group(about: About) -> int:
    return max(1, GROUP_BYTES // about.row_bytes)


def write(features: Features, path: Path) -> Iterator[int]:
    """Write features to a new file, the same bytes for the same features. Yields the bytes of each block of values."""
    pyarrow, parquet = import_pyarrow()
    about, per_group = features.about, _rows_per_group(features.about)
    item = {"float32": pyarrow.float32(), "float16": pyarrow.float16()}[about.dtype]
    fields = [pyarrow.field(name, pyarrow.string(), nullable=name != "name") for name in _TEXTS]
    fields += [pyarrow.field(layer.name, pyarrow.list_(item, layer.size), nullable=False) for layer in about.layers]
    schema = pyarrow.schema(fields, metadata={METADATA_KEY: about.to_json().encode()})
    rows, blocks = features.rows(), [features.blocks(layer.name, per_group) for layer in about.layers]
    options = {"compression": "zstd", "compression_level": 1, "use_dictionary": False, "write_statistics": False}
    with parquet.ParquetWriter(path, schema, **options) as writer:
        for values in zip(*blocks, strict=True):
            texts = [*zip(*islice(rows, len(values[0])), strict=True)]
            columns: list[Any] = [pyarrow.array(text, pyarrow.string()) for text in texts]
            for layer, block in zip(about.layers, values, strict=True):
                flat = pyarrow.array(np.ascontiguousarray(block).reshape(-1))
                columns.append(pyarrow.FixedSizeListArray.from_arrays(flat, layer.size))
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema), row_group_size=per_group)
            yield sum(block.nbytes for block in values)


class ParquetFeatures(Features):
    """Features in a Parquet file. It is opened again for each reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._shard() as shard:
            text = (shard.schema.metadata or {}).get(METADATA_KEY)
            if text is None:
                raise Damaged("its schema has no description by alexnet-infer")
            about = _about(text)
            _check_columns(shard, about)
            rows = [*_rows(shard)]
        errors = {i: row.error for i, row in enumerate(rows) if row.error is not None}
        super().__init__(path, about, [row.name for row in rows], labels_of([row.label or "" for row in rows]), errors)

    @contextmanager
    def _shard(self) -> Iterator[Shard]:
        import_pyarrow()
        if not os.path.lexists(self.path):
            raise FileNotFoundError(self.path)
        try:
            with opened(self.path) as shard:
                yield shard
        except UnreadableInputError as error:
            raise Damaged(str(error).removeprefix(f"{self.path}: ")) from None

    def _array(self, layer: AboutLayer) -> np.ndarray:
        values = np.empty((len(self), *layer.shape), self.about.numpy_dtype)
        begin = 0
        for block in self.blocks(layer.name):
            values[begin : begin + len(block)] = block
            begin += len(block)
        values.setflags(write=False)
        return values

    def _blocks(self, layer: AboutLayer, rows: int) -> Iterator[np.ndarray]:
        """Yield blocks of `rows` rows. Those of pyarrow end with each row group."""
        with self._shard() as shard:
            waiting: list[np.ndarray] = []
            for part in self._parts(shard, layer, rows):
                while len(part):
                    missing = rows - sum(map(len, waiting))
                    waiting.append(part[:missing])
                    part = part[missing:]
                    if sum(map(len, waiting)) == rows:
                        yield np.concatenate(waiting)
                        waiting = []
            if waiting:
                yield np.concatenate(waiting)

    def _parts(self, shard: Shard, layer: AboutLayer, rows: int) -> Iterator[np.ndarray]:
        seen = 0
        for batch in _batches(shard, (layer.name,), rows):
            column = batch.column(0)
            values = column.flatten()
            if column.null_count or values.null_count or len(values) != len(column) * layer.size:
                raise Damaged(f"{layer.name}: values are missing")
            seen += len(column)
            if seen > len(self):
                break
            yield values.to_numpy(zero_copy_only=False).reshape(-1, *layer.shape)
        if seen != len(self):
            raise Damaged(f"{layer.name}: has {seen:,} rows: expected {len(self):,}")


def _about(text: bytes) -> About:
    try:
        return About.from_json(text)
    except SpecError as error:
        raise Damaged(str(error)) from None


def _check_columns(shard: Shard, about: About) -> None:
    """Raise Damaged unless the columns and the number of rows are those of the description."""
    import pyarrow

    item = {"float32": pyarrow.float32(), "float16": pyarrow.float16()}[about.dtype]
    expected = dict.fromkeys(_TEXTS, pyarrow.string())
    expected |= {layer.name: pyarrow.list_(item, layer.size) for layer in about.layers}
    names = shard.schema.names
    kinds = {name: kind for name, kind in zip(names, shard.schema.types, strict=True)}  # noqa: C416
    if len(names) != len(expected) or kinds != expected or sum(shard.counts) != about.images.count:
        raise Damaged("its columns or rows are not those of its description")


def _batches(shard: Shard, names: tuple[str, ...], rows: int) -> Iterator[Any]:
    """Yield batches of at most `rows` rows. Raises Damaged if a row group would take too much memory."""
    for group in range(len(shard.counts)):
        leaves = {path: column for path, column in shard.columns(group).items() if path.split(".")[0] in names}
        total, repeated = sizes_of(leaves, tuple(leaves))
        if total > MOST:
            raise Damaged(f"row group {group} takes more than {MOST:,} bytes to read ({', '.join(names)})")
        count = max(1, min(rows, LARGE // max(1, repeated)))
        yield from shard.file.iter_batches(batch_size=count, row_groups=[group], columns=[*names], use_threads=False)


def _rows(shard: Shard) -> Iterator[Row]:
    for batch in _batches(shard, _TEXTS, _TEXTS_AT_ONCE):
        for name, label, error in zip(*(batch.column(name).to_pylist() for name in _TEXTS), strict=True):
            yield Row(text_of(name), label and text_of(label), error and text_of(error))
