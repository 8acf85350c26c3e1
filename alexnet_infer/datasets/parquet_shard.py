"""An open Parquet shard: its rows in bounded memory, whatever its row groups and whatever it says about itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO

from alexnet_infer.datasets.parquet_pages import LARGE, MOST, Column, PageError, footer
from alexnet_infer.errors import BackendError, SpecError, UnreadableInputError, one_line, shown
from alexnet_infer.files import open_regular

Image = Mapping[str, Any]
"""A row's image: `bytes`, or its size if it has more than MAX_BYTES, and `path`. Each may be missing or None."""
Label = int | str | None

_BYTES, _PATH = "image.bytes", "image.path"


@contextmanager
def opened(path: Path) -> Iterator[Shard]:
    """Open a shard. An error that reading it raises becomes an UnreadableInputError.

    Raises BackendError if pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise BackendError("Parquet data needs pyarrow: pip install pyarrow") from None
    try:
        with open_regular(path) as content:
            about = footer(content)  # before pyarrow reads it
            with parquet.ParquetFile(path) as file:
                yield Shard(file, content, about)
    except SpecError:
        raise UnreadableInputError(f"{path}: can't be read as Parquet (missing, or not a regular file)") from None
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UnreadableInputError(f"{path}: can't be read as Parquet ({one_line(error)})") from None


class Shard:
    """An open shard."""

    def __init__(self, file: Any, content: BinaryIO, about: dict[int, Any]) -> None:
        """`file` is a `pyarrow.parquet.ParquetFile`, `content` the same as a file, and `about` its footer."""
        self._file, self._content, self._about = file, content, about
        self.schema = file.schema_arrow
        self.counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        """The number of rows of each row group."""
        if min(self.counts, default=0) < 0 or sum(self.counts) > content.seek(0, os.SEEK_END):
            raise PageError(f"its row groups have {shown(self.counts)} rows; expected no more rows than bytes")

    def names(self, *columns: str) -> Iterator[tuple[Image, Label]]:
        """Yield the image without its bytes, and the label, of each row. `columns` ends with the labels'."""
        for group in range(len(self.counts)):
            yield from self._rows(group, self._columns(group), columns)

    def examples(self, group: int, label: str) -> Iterator[tuple[Image, Label]]:
        """Yield the image and the label of each row of a row group. Raises PageError after the last."""
        columns = self._columns(group)
        if _BYTES not in columns:
            raise PageError(f"row group {group} has no images")
        if columns[_BYTES].is_streamed and not columns[_BYTES].fits(LARGE):
            images = columns[_BYTES].images()
            for image, stored in self._rows(group, columns, (_PATH, label)):
                yield {**image, "bytes": next(images)}, stored
        else:
            yield from self._rows(group, columns, (_BYTES, _PATH, label))
        raise PageError(f"row group {group} has fewer rows than it says")

    def _columns(self, group: int) -> dict[str, Column]:
        """Return the columns of a row group by their paths."""
        levels = [self._file.schema.column(i).max_definition_level for i in range(len(self._file.schema))]
        try:
            chunks = [chunk[3] for chunk in self._about[4][group][1]]
            return {
                ".".join(name.decode() for name in chunk[3]): Column(self._content, chunk, level)
                for chunk, level in zip(chunks, levels, strict=True)
            }
        except (KeyError, IndexError, TypeError, AttributeError):
            raise PageError("the footer is damaged") from None

    def _rows(self, group: int, columns: dict[str, Column], names: tuple[str, ...]) -> Iterator[tuple[Image, Label]]:
        for name in names:
            most = MOST if name == _BYTES else LARGE
            if name in columns and not columns[name].fits(most):
                raise PageError(
                    f"row group {group} has more than {most:,} bytes in column {name}; write it in smaller row groups"
                )
        for batch in self._file.iter_batches(batch_size=512, row_groups=[group], columns=[*names], use_threads=False):
            images = batch["image"].to_pylist() if "image" in batch.schema.names else repeat(None)
            for image, label in zip(images, batch[names[-1]].to_pylist(), strict=False):
                yield image or {}, label
