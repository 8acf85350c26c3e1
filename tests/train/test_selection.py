"""Parts of a data set: some classes, and training images held out."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.errors import UsageError
from tests.train.packing import Counted
from train.packed import open_packed
from train.parts import open_splits
from train.prepare import Preparation, prepare
from train.selection import Selection

WNIDS = [f"n0000000{i}" for i in range(5)]
TRAIN, VALIDATION = 4, 2
"""Images per class."""


def grey(value: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def source(tmp_path) -> Path:
    """Five classes. Every image has a grey level of its own: ten times the class, plus its number."""
    for label, wnid in enumerate(WNIDS):
        for split, count, first in (("train", TRAIN, 0), ("val", VALIDATION, TRAIN)):
            folder = tmp_path / "set" / split / wnid
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i}.png").write_bytes(grey(10 * label + first + i))
    return tmp_path / "set"


def levels(source: Path, selection: Selection, split: str) -> list[tuple[int, int]]:
    """Return the grey level and the label of each selected image."""
    examples = selection.of(open_splits(source))[split]
    found = [(int(np.asarray(Image.open(io.BytesIO(e.data)))[0, 0, 0]), e.label) for e in examples.examples()]
    assert len(found) == len(examples)
    return found


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("::2", [0, 2, 4]),
        ("1::2", [1, 3]),
        (":2", [0, 1]),
        ("-2:", [3, 4]),
        ("1:4", [1, 2, 3]),
        (":", [*range(5)]),
        ("::", [*range(5)]),
        ("3:100:1", [3, 4]),
    ],
)
def test_classes_are_those_of_the_slice_with_labels_from_0(source, text, chosen):
    selection = Selection(classes=text)
    for split, count, first in (("train", TRAIN, 0), ("validation", VALIDATION, TRAIN)):
        expected = [(10 * label + first + i, position) for position, label in enumerate(chosen) for i in range(count)]
        assert levels(source, selection, split) == expected
    assert [c.wnid for c in selection.of(open_splits(source))["train"].classes] == [WNIDS[label] for label in chosen]


def test_the_last_training_images_of_each_class_are_moved_to_validation(source):
    selection = Selection(classes="1:3", hold_out=3)
    assert levels(source, selection, "train") == [(10, 0), (20, 1)]
    held_out = [(11, 0), (12, 0), (13, 0), (21, 1), (22, 1), (23, 1)]
    assert levels(source, selection, "validation") == [*held_out, (14, 0), (15, 0), (24, 1), (25, 1)]


def test_examples_from_any_position_are_the_rest(source):
    validation = Selection(classes="::2", hold_out=2).of(open_splits(source))["validation"]
    everything = [(e.name, e.label) for e in validation.examples()]
    for start in range(len(everything) + 1):
        assert [(e.name, e.label) for e in validation.examples(start)] == everything[start:]


def test_everything_is_the_set_itself(source):
    splits = open_splits(source)
    assert Selection().of(splits) == splits


def test_the_listing_is_that_of_the_selection(source):
    def listing(**options: object) -> str:
        return Selection(**options).of(open_splits(source))["validation"].listing

    values = [listing(classes="::2"), listing(classes="1::2"), listing(classes="::2", hold_out=1), listing()]
    assert len({*values}) == len(values)
    before = listing(classes="::2", hold_out=1)
    (source / "train" / WNIDS[0] / "3.png").write_bytes(grey(99) + b" ")
    assert listing(classes="::2", hold_out=1) != before


def test_a_packed_part_has_the_squares_and_the_mean_of_its_images(source, tmp_path):
    part = Selection(classes="1::2", hold_out=1)
    prepare(Preparation(source=source, out=tmp_path / "packed", size=4, selection=part), Counted())
    packed = open_packed(tmp_path / "packed")
    assert [c.wnid for c in packed.classes] == [WNIDS[1], WNIDS[3]]
    for split in ("train", "validation"):
        squares = np.concatenate(packed.shards(split))
        found = [*zip(squares[:, 0, 0, 0].tolist(), packed.labels(split).tolist(), strict=True)]
        assert found == levels(source, part, split)
    np.testing.assert_allclose(packed.mean, np.mean([10, 11, 12, 30, 31, 32]), rtol=1e-6)


def test_a_folder_with_another_part_is_refused(source, tmp_path):
    def pack(**options: object) -> None:
        job = Preparation(source=source, out=tmp_path / "packed", size=4, selection=Selection(**options))
        prepare(job, Counted())

    pack(classes="::2")
    pack(classes="::2")
    for other in ({"classes": ":3"}, {"classes": "::2", "hold_out": 1}):
        with pytest.raises(UsageError, match=r"contains another packed set|made from a different source"):
            pack(**other)


@pytest.mark.parametrize("text", ["", "2", "a:b", "::0", "::-1", "1:2:3:4", "٣:", ":" * 3, "0::2 ", "1e3:"])
def test_what_is_no_slice_is_refused(text):
    with pytest.raises(UsageError, match=r"--classes .*: expected FIRST:LAST:STEP as in Python"):
        Selection(classes=text)


def test_a_selection_without_classes_or_training_images_is_refused(source):
    with pytest.raises(UsageError, match=r"--classes 7:: selects none of the 5 classes"):
        Selection(classes="7:").of(open_splits(source))
    with pytest.raises(UsageError, match=r"--hold-out 4: .*has 4 training images of n00000000; expected fewer"):
        Selection(hold_out=4).of(open_splits(source))
    with pytest.raises(UsageError, match="--hold-out -1: expected 0 or more"):
        Selection(hold_out=-1)
