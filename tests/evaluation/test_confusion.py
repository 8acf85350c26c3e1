"""The confusion matrix: every image is in its row once, and the picture shows the counts where it should."""

from __future__ import annotations

import csv
import io
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.datasets.ilsvrc import ilsvrc_classes
from alexnet_infer.errors import UsageError
from alexnet_infer.evaluation import confusion_image
from alexnet_infer.evaluation.confusion import UNREADABLE, ConfusionMatrix
from alexnet_infer.evaluation.confusion_image import cell_side, cells, colours
from alexnet_infer.evaluation.tally import Tally
from alexnet_infer.manifest import ClassName
from tests.evaluation.results import CLASSES, GUESSES, WNIDS, tally


def rows(path: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(path.read_text("utf-8"), newline="")))


def test_rows_are_those_counted_by_hand(tmp_path):
    ConfusionMatrix.of(tally(GUESSES["first"]), CLASSES, CLASSES).save(tmp_path / "matrix.csv")
    table = rows(tmp_path / "matrix.csv")
    assert table[0] == ["class", *WNIDS, UNREADABLE]
    assert table[1:] == [
        [WNIDS[0], "1", "0", "1", "0", "0", "0", "0", "0"],
        [WNIDS[1], "1", "1", "0", "0", "0", "0", "0", "0"],
        [WNIDS[2], "0", "0", "1", "1", "0", "0", "0", "0"],
        [WNIDS[3], "0", "0", "0", "1", "0", "0", "0", "1"],
        *([WNIDS[i], *["0"] * 8] for i in (4, 5, 6)),
    ]


def test_every_row_adds_up_to_the_images_of_its_class_even_if_the_net_has_other_classes(tmp_path):
    """Seven classes of data, four outputs of which two are classes of the data."""
    rng = np.random.default_rng(1)
    guesses = [ClassName(wnid=wnid, name=wnid) for wnid in ("n00000001", "n00000002", "n10000000", "n20000000")]
    counted, pairs = Tally(7), Counter()
    for _ in range(300):
        label, guess = int(rng.integers(7)), int(rng.integers(-1, 4))
        pairs[label, guess] += 1
        if guess < 0:
            counted.add_unreadable(label)
        else:
            counted.add(np.eye(4)[[guess]], np.array([label]), np.array([label if label < 2 else -1]))
    matrix = ConfusionMatrix.of(counted, CLASSES, guesses)
    matrix.save(tmp_path / "matrix.csv")
    table = rows(tmp_path / "matrix.csv")
    assert table[0] == ["class", *(guess.wnid for guess in guesses), UNREADABLE]
    for label, row in enumerate(table[1:]):
        assert [int(cell) for cell in row[1:]] == [pairs[label, guess] for guess in (0, 1, 2, 3, -1)]
    assert matrix.counts.sum(1).tolist() == counted.per_class().tolist()
    assert matrix.counts[:, -1].sum() > 20


def test_names_that_a_spreadsheet_would_run_are_quoted(tmp_path):
    classes = [ClassName(wnid=wnid, name="x") for wnid in ("+1", "=A1", "cat, a")]
    counted = Tally(3)
    counted.add(np.eye(3), np.arange(3), np.arange(3))
    ConfusionMatrix.of(counted, classes, classes).save(tmp_path / "matrix.csv")
    table = rows(tmp_path / "matrix.csv")
    assert table[0][1:4] == [row[0] for row in table[1:]] == ["'+1", "'=A1", "cat, a"]


def test_a_file_that_cannot_be_replaced_is_a_clear_error(tmp_path):
    for name in ("matrix.csv", "matrix.png"):
        (tmp_path / name).mkdir()
        with pytest.raises(UsageError, match=r"--confusion .*: can't be written"):
            ConfusionMatrix.of(tally(GUESSES["first"]), CLASSES, CLASSES).save(tmp_path / name)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["matrix.csv", "matrix.png"]


# The picture.


def test_colours_get_darker_with_the_share_and_a_rare_guess_can_be_seen():
    light = colours(np.linspace(0, 1, 101)).astype(int).sum(-1)
    assert (np.diff(light) < 0).all()
    assert colours(np.array([0.0, 1.0])).tolist() == [[255, 255, 255], [8, 48, 107]]
    assert light[0] - light[1] > 30  # one per cent


def test_a_cell_has_the_colour_of_its_share_and_a_class_without_images_is_grey():
    picture = cells(np.array([[1, 3], [0, 0], [0, 500]]))
    assert picture[0].tolist() == colours(np.array([0.25, 0.75])).tolist()
    assert {tuple(cell) for cell in picture[1].tolist()} == {confusion_image.EMPTY}
    assert picture[2].tolist() == colours(np.array([0.0, 1.0])).tolist()


def drawn(counts: np.ndarray, classes=None, guesses=None, title: str = "a set: a net") -> np.ndarray:
    classes = classes or CLASSES
    guesses = guesses or classes
    matrix = ConfusionMatrix(
        title=title, counts=counts.astype(np.int32), classes=tuple(classes), guesses=tuple(guesses)
    )
    return np.asarray(confusion_image.draw(matrix))


def blocks(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (picture == np.array(colour)).all(-1)


DARK = (8, 48, 107)


@pytest.mark.parametrize("count", [3, 7, 60, 1000])
def test_cells_are_in_their_rows_and_columns_at_every_size(count):
    """Only one cell per row is full: its dark pixels are one square, as far from the first row's as it should be."""
    classes = ilsvrc_classes()[:count]
    side = cell_side(count + 1)
    order = np.random.default_rng(0).permutation(count)
    counts = np.zeros((count, count + 1))
    counts[np.arange(count), order] = 10
    picture = drawn(counts, classes)
    without = drawn(np.zeros_like(counts), classes)
    dark = blocks(picture, DARK) & ~blocks(without, DARK)
    ys, xs = np.nonzero(dark)
    left, top = xs.min(), ys.min()
    assert len({*((ys - top) // side).tolist()}) == count
    for row in {0, 1, count // 2, count - 1}:
        own = xs[(ys - top) // side == row]
        assert {*((own - left) // side).tolist()} == {order[row]}
    full = side * side * count
    assert 0.6 * full < dark.sum() <= full


def test_unreadable_images_are_apart_from_the_guesses():
    counts = np.zeros((7, 8))
    counts[:, 7] = 5
    side = cell_side(8)
    dark = blocks(drawn(counts), DARK)
    unreadable = np.nonzero(dark.sum(0) > side)[0]
    counts[:, 7], counts[:, 6] = 0, 5
    last = np.nonzero(blocks(drawn(counts), DARK).sum(0) > side)[0]
    assert unreadable.min() - last.min() > side
    assert unreadable.max() - unreadable.min() < side


def test_the_picture_has_names_where_they_fit_and_a_colour_bar():
    few, plain = drawn(np.zeros((7, 8))), [ClassName(wnid=w, name="." * i) for i, w in enumerate(WNIDS, start=1)]
    ink, without = ((picture.max(-1) < 110).sum() for picture in (few, drawn(np.zeros((7, 8)), plain)))
    assert ink > without + 200
    bar = {tuple(pixel) for pixel in few[:, -110:].reshape(-1, 3).tolist()}
    assert len(bar & {tuple(c) for c in colours(np.linspace(0, 1, 2000)).tolist()}) > 100


@pytest.mark.parametrize("count", [6, 200])
def test_a_picture_is_at_most_a_few_thousand_pixels_wide(count):
    picture = drawn(np.eye(count, count + 1), ilsvrc_classes()[:count])
    assert max(picture.shape[:2]) < 3400
    assert min(picture.shape[:2]) > 300


def test_names_do_not_touch_each_other():
    for count in (6, 60, 200, 500, 1000):
        side = cell_side(count + 1)
        drawing = confusion_image._Drawing.__new__(confusion_image._Drawing)
        drawing.side = side
        shown = list(drawing._shown(count))
        assert shown[0] == 0
        assert all((b - a) * side > confusion_image.FONT for a, b in itertools.pairwise(shown))
        assert len(shown) >= min(count, 60)


@pytest.mark.parametrize(
    "name", ["x" * 500, "猫" * 80, "\u202etxt.exe", "a\nb", "<b>", "", "\N{CAT FACE}", "e\u0301" * 90]
)
def test_any_name_can_be_drawn(name):
    classes = [ClassName(wnid=wnid, name=name) for wnid in ("a", "b")] if name and name.isprintable() else CLASSES[:2]
    picture = drawn(np.array([[3, 1, 0], [0, 0, 2]]), classes, title=name)
    assert picture.shape[1] < 1000


def test_a_net_with_more_classes_than_the_data_and_one_with_fewer_can_be_drawn():
    many = ilsvrc_classes()[:40]
    assert drawn(np.ones((2, 41)), many[:2], many).shape[1] > drawn(np.ones((40, 3)), many, many[:2]).shape[1]


def test_the_file_is_a_png(tmp_path):
    ConfusionMatrix.of(tally(GUESSES["first"]), CLASSES, CLASSES, "zoo").save(tmp_path / "matrix.png")
    with Image.open(tmp_path / "matrix.png") as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
    first = (tmp_path / "matrix.png").read_bytes()
    ConfusionMatrix.of(tally(GUESSES["first"]), CLASSES, CLASSES, "zoo").save(tmp_path / "matrix.png")
    assert (tmp_path / "matrix.png").read_bytes() == first
