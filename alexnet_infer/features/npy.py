"""Features of one layer as an array in a .npy file, with all about them in a text file beside it.

FILE.npy        [N, *shape], as `numpy.load` reads it
FILE.npy.jsonl  JSON, one object per line: the description (`About`), then name, label and error of each image
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from alexnet_infer.errors import SpecError
from alexnet_infer.features.about import About, AboutLayer
from alexnet_infer.features.arrays import mapped, place
from alexnet_infer.features.table import Damaged, Features, Row, labels_of, refusing, text_of
from alexnet_infer.files import MAX_JSON_BYTES, open_regular

MAX_BYTES = 2**30
"""The largest text file that is read. 1.2 million names take 60 to 120 MB."""

_LINE_BYTES = 2**20


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    label: str | None
    error: str | None


_LINE = msgspec.json.Decoder(_Line)


def text_file(path: Path) -> Path:
    """Return the path of the text file beside the array `path`."""
    return path.with_name(f"{path.name}.jsonl")


def lines(features: Features) -> Iterator[bytes]:
    """Yield the lines of the text file."""
    yield features.about.to_json().encode() + b"\n"
    for row in features.rows():
        yield json.dumps(row._asdict()).encode() + b"\n"


class NpyFeatures(Features):
    """Features in a .npy file."""

    def __init__(self, path: Path) -> None:
        about, rows = _read(text_file(path))
        (layer,) = about.layers if len(about.layers) == 1 else (None,)
        with open_regular(path) as file:
            where = place(file)
            expected = layer and (about.numpy_dtype, (about.images.count, *layer.shape))
            if (where.dtype, where.shape) != expected:
                raise Damaged(
                    f"an array of {where.dtype} {list(where.shape)}, which is not what {text_file(path).name} says"
                )
            self._values = mapped(file, where)
        errors = {i: row.error for i, row in enumerate(rows) if row.error is not None}
        labels = labels_of([row.label or "" for row in rows])
        super().__init__(path, about, [row.name for row in rows], labels, errors)

    def _array(self, layer: AboutLayer) -> np.ndarray:
        return self._values


def check_text_file(path: Path) -> None:
    """Raise FeaturesError if beside the missing array `path` there is a text file that isn't about features."""
    with refusing(path):
        if os.path.lexists(text_file(path)):
            _read(text_file(path))


def _read(path: Path) -> tuple[About, list[Row]]:
    try:
        with open_regular(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
                raise SpecError(f"has {size:,} bytes: expected at most {MAX_BYTES:,}")
            about = About.from_json(file.readline(MAX_JSON_BYTES))
            return about, _rows(file, about.images.count)
    except FileNotFoundError:
        raise Damaged(f"the file {path.name}, which describes it, is missing") from None
    except SpecError as error:
        raise Damaged(f"{path.name}: {error}") from None


def _rows(file: BinaryIO, count: int) -> list[Row]:
    rows: list[Row] = []
    for line in iter(lambda: file.readline(_LINE_BYTES), b""):
        try:
            fields = _LINE.decode(line)
        except (ValueError, RecursionError):
            raise SpecError(f"line {len(rows) + 2} is damaged") from None
        if len(rows) >= count:
            raise SpecError(f"has more than {count:,} images")
        rows.append(Row(text_of(fields.name), fields.label, fields.error))
    return rows
