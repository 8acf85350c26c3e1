"""An open Parquet shard: its rows in bounded memory, whatever its row groups and whatever it says about itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO

from alexnet_infer.datasets.parquet_pages import (
    CHUNK,
    CHUNKS,
    GROUPS,
    LARGE,
    MOST,
    PATH,
    Column,
    PageError,
    Record,
    footer,
)
from alexnet_infer.errors import BackendError, SpecError, UnreadableInputError, cause_of, shown
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
        reason = cause_of(error)
        raise UnreadableInputError(f"{path}: can't be read as Parquet ({reason})") from None


class Shard:
    """An open shard."""

    def __init__(self, file: Any, content: BinaryIO, about: Record) -> None:
        """`file` is a `pyarrow.parquet.ParquetFile`, `content` the same as a file, and `about` its footer."""
        self.file, self._content, self._about = file, content, about
        self.schema = file.schema_arrow
        self.counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        """The number of rows of each row group."""
        if min(self.counts, default=0) < 0 or sum(self.counts) > content.seek(0, os.SEEK_END):
            raise PageError(f"its row groups have {shown(self.counts)} rows; expected no more rows than bytes")

    def names(self, *columns: str) -> Iterator[tuple[Image, Label]]:
        """Yield the image without its bytes, and the label, of each row. `columns` ends with the labels'."""
        for group in range(len(self.counts)):
            yield from self._rows(group, self.columns(group), columns)

    def examples(self, group: int, label: str) -> Iterator[tuple[Image, Label]]:
        """Yield the image and the label of each row of a row group. Raises PageError after the last."""
        columns = self.columns(group)
        if _BYTES not in columns:
            raise PageError(f"row group {group} has no images")
        images, names = columns[_BYTES], (_BYTES, _PATH, label)
        most = MOST if images.codec == "SNAPPY" else LARGE
        if images.is_streamed and sizes_of(columns, names)[0] > most:
            streamed = images.images()
            for image, stored in self._rows(group, columns, (_PATH, label)):
                yield {**image, "bytes": next(streamed)}, stored
        else:
            yield from self._rows(group, columns, names)
        raise PageError(f"row group {group} has fewer rows than it says")

    def columns(self, group: int) -> dict[str, Column]:
        """Return the columns of a row group by their paths. pyarrow finds them by their positions."""
        columns: dict[str, Column] = {}
        try:
            chunks = [chunk[CHUNK] for chunk in self._about[GROUPS][group][CHUNKS]]
            for i, chunk in enumerate(chunks):
                leaf, own = self.file.schema.column(i), ".".join(name.decode() for name in chunk[PATH])
                if own != leaf.path or own in columns or len(chunks) != len(self.file.schema):
                    raise PageError(
                        f"column {i} of row group {group} is {shown(own)}; expected {shown(leaf.path)} once"
                    )
                columns[own] = Column(self._content, chunk, leaf.max_definition_level)
        except (KeyError, IndexError, TypeError, AttributeError):
            raise PageError("the footer is damaged") from None
        return columns

    def _rows(self, group: int, columns: dict[str, Column], names: tuple[str, ...]) -> Iterator[tuple[Image, Label]]:
        total, repeated = sizes_of(columns, names)
        if total > MOST:
            raise PageError(
                f"row group {group} takes more than {MOST:,} bytes to read ({', '.join(names)}); write it in smaller "
                "row groups"
            )
        count = max(1, min(512, LARGE // max(1, repeated)))
        for batch in self.file.iter_batches(batch_size=count, row_groups=[group], columns=[*names], use_threads=False):
            images = batch["image"].to_pylist() if "image" in batch.schema.names else repeat(None)
            for image, label in zip(images, batch[names[-1]].to_pylist(), strict=False):
                yield image or {}, label


def sizes_of(columns: dict[str, Column], names: tuple[str, ...]) -> tuple[float, int]:
    """Return the `Column.sizes` of several columns together."""
    totals, repeated = zip((0, 0), *(columns[name].sizes() for name in names if name in columns), strict=True)
    return sum(totals), sum(repeated)
