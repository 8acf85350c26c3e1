"""Labels without images and images by position agree with reading everything, in every layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_infer.datasets import LabelledImages, places
from tests.datasets import mini
from tests.datasets.mini import FORMS, WRITERS


@pytest.mark.parametrize(("split", "form"), FORMS)
def test_labels_are_those_of_the_examples_in_order(roots, split, form):
    images = LabelledImages(roots[form], split)
    assert images.labels == [example.label for example in images]
    assert sorted(images.labels) == sorted(label for _, label, _ in mini.expected(split))


@pytest.mark.parametrize("form", [form for form in WRITERS if form != "parquet"])
def test_labels_are_known_without_opening_an_image(roots, form, monkeypatch):
    images = LabelledImages(roots[form], "validation")
    monkeypatch.setattr("os.open", lambda path, *_: pytest.fail(f"{path} was read"))
    monkeypatch.setattr(Path, "open", lambda path, *_: pytest.fail(f"{path} was opened"))
    assert len(images.labels) == 18


def subsets(count: int) -> list[list[int]]:
    """Ascending positions: none, each alone, all, and steps from every start, across Parquet's groups and shards."""
    steps = [list(range(start, count, step)) for step in (1, 2, 3, 5, 9) for start in range(count)]
    return [[], *([i] for i in range(count)), [0, count - 1], *steps]


@pytest.mark.parametrize(("split", "form"), FORMS)
def test_positions_give_the_examples_at_them(roots, split, form):
    images = LabelledImages(roots[form], split)
    examples = list(images)
    for positions in subsets(len(examples)):
        for on_error in ("raise", "yield"):
            assert list(images.at(positions, on_error)) == [examples[i] for i in positions]
        assert list(images.at(iter(positions))) == [examples[i] for i in positions]


@pytest.mark.parametrize("form", ["flat", "folders", "kaggle", "caffe"])
def test_only_the_images_at_the_positions_are_read(roots, form, monkeypatch):
    images = LabelledImages(roots[form], "validation")
    examples, read = list(images), []
    plain = places.read_limited
    monkeypatch.setattr(places, "read_limited", lambda path, most: read.append(Path(path).name) or plain(path, most))
    assert [example.data for example in images.at([2, 11])] == [examples[2].data, examples[11].data]
    assert read == [Path(examples[i].name).name for i in (2, 11)]
