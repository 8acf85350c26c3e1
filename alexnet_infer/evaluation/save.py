"""The predictions for each image as a table: `eval --save-predictions`. The check of all names of files to write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from alexnet_infer.csv_text import csv_lines
from alexnet_infer.errors import BackendError, UsageError
from alexnet_infer.evaluation.assemble import display_names
from alexnet_infer.evaluation.scoring import Scores
from alexnet_infer.files import write_atomically, writing
from alexnet_infer.metrics import highest

TOP = 5
"""Guesses per image."""


FORMS = {"--save-predictions": (".csv", ".parquet"), "--per-class": (".csv",), "--confusion": (".csv", ".png")}
"""Option -> the suffixes that its file may have."""


def check_file(option: str, path: Path) -> None:
    """Raise UsageError if the file `path` of an option can't have this name or be in this folder.

    Its suffix must be one of FORMS, its folder must exist, and it must not be a folder itself. Raises BackendError if a
    package that writes it is missing.
    """
    if path.suffix not in FORMS[option]:
        raise UsageError(f"{option} {path}: expected a file name that ends in {' or '.join(FORMS[option])}")
    if not path.parent.is_dir():
        raise UsageError(f"{option} {path}: no such folder; create {path.parent} first")
    if path.is_dir():
        raise UsageError(f"{option} {path}: is a folder; expected a file name")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise BackendError("Parquet output needs pyarrow: pip install pyarrow, or choose .csv") from None
    if path.suffix == ".png":
        from PIL import features

        if not features.check("freetype2"):
            raise BackendError(
                "PNG output needs Pillow with FreeType: pip install --force-reinstall pillow, or choose .csv"
            )


def save_table(scores: Scores, path: Path) -> None:
    """Write one row per image.

    A row has the image's name, label and error, the five best guesses of the ensemble or of the only net with their
    probabilities, and the first guess of each net. Classes are WordNet ids. An unreadable image has no guesses.

    Raises UsageError if the file can't be written.
    """
    rows = _rows(scores)
    data = _parquet(rows) if path.suffix == ".parquet" else csv_lines(_with_header(rows))
    with writing(f"--save-predictions {path}"):
        write_atomically(path, data)


def _rows(scores: Scores) -> Iterator[dict[str, Any]]:
    wnids, names = [output.wnid for output in scores.outputs], display_names(scores.nets)
    for chunk in scores.chunks():
        best = chunk.mean
        order = highest(best, TOP)
        firsts = [values.argmax(1) for values in chunk.probabilities]
        for i, row in enumerate(chunk.rows):
            fields: dict[str, Any] = {"image": row.name, "label": scores.classes[row.label].wnid, "error": row.error}
            read = row.error is None
            for k in range(TOP):
                guess = int(order[i, k]) if read and k < order.shape[1] else None
                fields[f"guess_{k + 1}"] = None if guess is None else wnids[guess]
                fields[f"p_{k + 1}"] = None if guess is None else float(best[i, guess])
            for name, first in zip(names, firsts, strict=True):
                fields[f"{name}: guess"] = wnids[first[i]] if read else None
            yield fields


def _with_header(rows: Iterator[dict[str, Any]]) -> Iterator[Iterable[object]]:
    for i, row in enumerate(rows):
        if i == 0:
            yield row
        yield row.values()


def _parquet(rows: Iterator[dict[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    table = list(rows)
    numbers = {f"p_{k + 1}" for k in range(TOP)}
    kinds = [(name, pyarrow.float64() if name in numbers else pyarrow.string()) for name in table[0]]
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(table, pyarrow.schema(kinds)), sink)
    return sink.getvalue().to_pybytes()
