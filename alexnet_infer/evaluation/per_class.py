"""The errors of each class as a table: `eval --per-class`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from alexnet_infer.csv_text import csv_lines
from alexnet_infer.evaluation.result import ClassResult
from alexnet_infer.evaluation.tally import Tally
from alexnet_infer.files import write_atomically, writing
from alexnet_infer.manifest import ClassName

HEADER = (
    *("wnid", "name", "images", "top1_wrong", "top5_wrong", "top1_error", "top5_error"),
    *("wrong_guess", "wrong_guess_name", "wrong_guess_images"),
)


def save_per_class(classes: Sequence[ClassResult], headline: Tally, guesses: Sequence[ClassName], path: Path) -> None:
    """Write one row per class of the data, in order of WordNet ids: its errors and its most frequent wrong guess.

    `classes` and `headline` are those of the same result. `guesses` are the classes that the nets choose among. Errors
    are in per cent with two digits, and empty for a class without images. Of guesses that are equally frequent, the one
    with the lower index is shown. An unreadable image is wrong but has no guess.

    Raises UsageError if the file can't be written.
    """
    with writing(f"--per-class {path}"):
        write_atomically(path, csv_lines(_rows(classes, headline, guesses)))


def _rows(
    classes: Sequence[ClassResult], headline: Tally, guesses: Sequence[ClassName]
) -> Iterator[Sequence[str | int]]:
    yield HEADER
    most = _most_frequent(headline)
    for label, counts in enumerate(classes):
        guess, images = most.get(label, (None, 0))
        named = ("", "") if guess is None else (guesses[guess].wnid, guesses[guess].name)
        errors = [f"{100 * wrong / counts.images:.2f}" if counts.images else "" for wrong in (counts.top1, counts.top5)]
        yield [counts.wnid, counts.name, counts.images, counts.top1, counts.top5, *errors, *named, images or ""]


def _most_frequent(headline: Tally) -> dict[int, tuple[int, int]]:
    """The most frequent wrong guess of each class that has one: label -> (guess, images)."""
    most: dict[int, tuple[int, int]] = {}
    for (label, guess), images in headline.confusions().items():  # in order of guesses
        if images > most.get(label, (0, 0))[1]:
            most[label] = guess, images
    return most
