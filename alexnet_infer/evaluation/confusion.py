"""The confusion matrix of an evaluation, as CSV or as a picture: `eval --confusion`."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_infer.csv_text import csv_lines
from alexnet_infer.evaluation.tally import Tally
from alexnet_infer.files import write_atomically, writing
from alexnet_infer.manifest import ClassName

UNREADABLE = "(unreadable)"
"""The heading of the last column."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ConfusionMatrix:
    """How often the images of each class were classified as each class, by the ensemble or by the only net."""

    title: str
    counts: np.ndarray
    """int32 [classes, guesses + 1]. The last column counts images that can't be read, so a row adds up to the images of
    its class."""
    classes: tuple[ClassName, ...]
    """The data's classes."""
    guesses: tuple[ClassName, ...]
    """The classes that the nets choose among."""

    @classmethod
    def of(
        cls, headline: Tally, classes: Sequence[ClassName], guesses: Sequence[ClassName], title: str = ""
    ) -> ConfusionMatrix:
        """Count the images of the headline's tally."""
        counts = np.zeros((len(classes), len(guesses) + 1), np.int32)
        records = headline.records
        np.add.at(counts, (records["label"], records["guess"]), 1)  # the guess -1 is the last column
        return cls(title=title, counts=counts, classes=tuple(classes), guesses=tuple(guesses))

    def save(self, path: Path) -> None:
        """Write the matrix as CSV with WordNet ids or, if the name ends in .png, as a picture.

        Raises UsageError if the file can't be written.
        """
        if path.suffix == ".png":
            from alexnet_infer.evaluation.confusion_image import draw

            file = io.BytesIO()
            draw(self).save(file, "PNG", optimize=True)
            data: bytes | Iterator[bytes] = file.getvalue()
        else:
            data = csv_lines(self._rows())
        with writing(f"--confusion {path}"):
            write_atomically(path, data)

    def _rows(self) -> Iterator[list[str | int]]:
        """Yield the rows: a header with the guesses, then one row per class."""
        yield ["class", *(guess.wnid for guess in self.guesses), UNREADABLE]
        for named, counts in zip(self.classes, self.counts.tolist(), strict=True):
            yield [named.wnid, *counts]
