"""The table of classes: its errors and most frequent wrong guesses are those counted from the records by hand."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from alexnet_infer.errors import UsageError
from alexnet_infer.evaluation.per_class import HEADER, save_per_class
from alexnet_infer.evaluation.result import ClassResult
from alexnet_infer.evaluation.tally import Tally
from alexnet_infer.manifest import ClassName
from tests.evaluation.results import CLASSES, GUESSES, LABELS, WNIDS, result, tally


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def results(counted: Tally, classes=CLASSES) -> list[ClassResult]:
    counts = zip(*(counted.per_class(k).tolist() for k in (None, 1, 5)), strict=True)
    return [
        ClassResult(wnid=c.wnid, name=c.name, images=images, top1=top1, top5=top5)
        for c, (images, top1, top5) in zip(classes, counts, strict=True)
    ]


def test_rows_are_those_counted_by_hand(tmp_path):
    """The mean: images 3 and 5 are wrong, the last image of class 3 can't be read. Classes 4 to 6 have no images."""
    evaluation = result()
    save_per_class(evaluation.classes, tally(GUESSES["mean"]), CLASSES, tmp_path / "classes.csv")
    lines = (tmp_path / "classes.csv").read_text().splitlines()
    assert lines == [
        ",".join(HEADER),
        f'{WNIDS[0]},"ant, pismire",2,0,0,0.00,0.00,,,',
        f'{WNIDS[1]},bee,2,1,0,50.00,0.00,{WNIDS[0]},"ant, pismire",1',
        f"{WNIDS[2]},cat,2,1,0,50.00,0.00,{WNIDS[3]},dog,1",
        f"{WNIDS[3]},dog,2,1,1,50.00,50.00,,,",
        *(f"{WNIDS[i]},{CLASSES[i].name},0,0,0,,,,," for i in (4, 5, 6)),
    ]
    assert LABELS.count(3) == 1


def test_random_guesses_agree_with_a_count_of_their_own(tmp_path):
    rng = np.random.default_rng(0)
    labels, guesses = rng.integers(0, 7, 500), rng.integers(0, 3, 500) * 2  # few classes, so that ties are frequent
    counted = Tally(7)
    counted.add(np.eye(7)[guesses], labels, labels)
    save_per_class(results(counted), counted, CLASSES, tmp_path / "classes.csv")
    rows = read(tmp_path / "classes.csv")
    for label, row in enumerate(rows):
        own = Counter(guess for guess in guesses[labels == label].tolist() if guess != label)
        most = max(own.values())
        guess = min(guess for guess, count in own.items() if count == most)
        assert (row["wrong_guess"], row["wrong_guess_images"]) == (WNIDS[guess], str(most))
        assert int(row["top1_wrong"]) == sum(own.values())
        assert float(row["top1_error"]) == round(100 * sum(own.values()) / int(row["images"]), 2)


def test_of_equally_frequent_guesses_the_lower_index_is_shown(tmp_path):
    counted = Tally(7)
    counted.add(np.eye(7)[[5, 2, 5, 2, 6]], np.zeros(5, int), np.zeros(5, int))
    save_per_class(results(counted), counted, CLASSES, tmp_path / "classes.csv")
    row = read(tmp_path / "classes.csv")[0]
    assert (row["wrong_guess"], row["wrong_guess_images"]) == (WNIDS[2], "2")


def test_names_that_a_spreadsheet_would_run_are_quoted_and_others_are_kept(tmp_path):
    hostile = ['=HYPERLINK("x")', "+1", "-1", "@A1", 'a "b", c', "naïve 猫"]
    classes = [ClassName(wnid=name, name=name) for name in hostile]
    counted = Tally(6)
    counted.add(np.eye(6)[[1, 2, 3, 4, 5, 0]], np.arange(6), np.arange(6))
    save_per_class(results(counted, classes), counted, classes, tmp_path / "classes.csv")
    safe = [f"'{name}" if name[0] in "=+-@" else name for name in hostile]
    rows = read(tmp_path / "classes.csv")
    assert [row["wnid"] for row in rows] == [row["name"] for row in rows] == safe
    assert [row["wrong_guess"] for row in rows] == [*safe[1:], safe[0]]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom permissions stop")
def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match=r"--per-class .*: can't be written"):
        save_per_class([], Tally(0), [], tmp_path / "classes.csv")


def test_a_file_that_cannot_be_replaced_is_a_clear_error(tmp_path):
    (tmp_path / "classes.csv").mkdir()
    with pytest.raises(UsageError, match=r"--per-class .*: can't be written"):
        save_per_class([], Tally(0), [], tmp_path / "classes.csv")
