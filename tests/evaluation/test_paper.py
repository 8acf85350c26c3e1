"""The published tables against the page that quotes them, and the differences between a run and the paper."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet_infer.artifact import embedded_model, load_manifest
from alexnet_infer.datasets.ilsvrc import identify
from alexnet_infer.evaluation import paper
from alexnet_infer.evaluation.paper import PUBLISHED, deviations, deviations_of_net, is_papers_validation_set
from alexnet_infer.presets import PRESETS, Variant, preset

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
TINY = [class_.wnid for class_ in load_manifest(embedded_model()).classes]


def published(data: str, net: str) -> tuple:
    (row,) = [row for row in PUBLISHED if (row.data, row.net) == (data, net)]
    return row.top1, row.top5, row.views


def test_the_papers_figures():
    """Copied a second time from the paper's tables 1 and 2 and its section 6."""
    validation, test = "ILSVRC-2012 validation", "ILSVRC-2012 test"
    assert published(validation, "1 CNN") == (40.7, 18.2, "ten")
    assert published(validation, "5 CNNs") == (38.1, 16.4, "ten")
    assert published(validation, "1 CNN*") == (39.0, 16.6, "ten")
    assert published(validation, "7 CNNs*") == (36.7, 15.4, "ten")
    assert published(test, "5 CNNs") == (None, 16.4, "ten")
    assert published(test, "7 CNNs*") == (None, 15.3, "ten")
    assert published(test, "SIFT + FVs") == (None, 26.2, None)
    assert published("ILSVRC-2010 test", "sparse coding") == (47.1, 28.2, None)
    assert published("ILSVRC-2010 test", "SIFT + FVs") == (45.7, 25.7, None)
    assert published("ILSVRC-2010 test", "CNN") == (37.5, 17.0, "ten")
    assert published("ILSVRC-2010 test", "CNN, one view") == (39.0, 18.3, "center")


def test_caffes_errors_are_100_minus_its_accuracies():
    top1, top5, views = published("ILSVRC-2012 validation", "BVLC AlexNet")
    assert (top1, top5) == (pytest.approx(100 - 57.1), pytest.approx(100 - 80.2))
    assert views == "center"


def test_figures_for_tiny_imagenet_are_top_1_of_its_test_images():
    rows = [row for row in PUBLISHED if row.data_set == "Tiny ImageNet"]
    assert [(row.split, row.top1, row.top5) for row in rows] == [("test", 58.2, None), ("test", 56.7, None)]


def test_every_figure_is_on_the_page():
    figures = {f"{value:.1f}" for row in PUBLISHED for value in (row.top1, row.top5) if value is not None}
    assert figures <= set(re.findall(r"\b\d\d\.\d\b", PAGE))


def test_a_row_is_an_ensemble_if_its_name_is_a_plural_and_neither_if_it_is_not_a_net():
    for row in PUBLISHED:
        no_net = row.net in ("SIFT + FVs", "sparse coding")
        assert row.ensemble is (None if no_net else "CNNs" in row.net or row.net == "ensemble"), row


def test_rows_differ_in_data_or_net_and_name_the_training_data():
    assert len({(row.data, row.net) for row in PUBLISHED}) == len(PUBLISHED)
    for row in PUBLISHED:
        assert row.trained_on
        assert ("2011" in row.trained_on) == ("*" in row.net)


def test_tiny_imagenet_is_known_by_its_classes():
    assert len(TINY) == 200
    assert identify(TINY) == "Tiny ImageNet"
    assert identify(TINY[:-1]) is None
    assert identify([*TINY[:-1], "n99999999"]) is None
    assert not is_papers_validation_set(TINY, 50_000)


def test_ilsvrc_2012_is_known_by_its_classes():
    spec = importlib.util.find_spec("timm")  # only located: importing timm would import torch
    if spec is None:
        pytest.skip("timm, which has a list of the 1,000 classes, is not installed")
    wnids = (Path(spec.origin).parent / "data" / "_info" / "imagenet_synsets.txt").read_text().split()
    assert (len(wnids), wnids[0], wnids[-1]) == (1000, "n01440764", "n15075141")
    assert identify(wnids) == "ILSVRC-2012"


@pytest.fixture
def ilsvrc(monkeypatch) -> list[str]:
    """A thousand ids that are identified as ILSVRC-2012's."""
    wnids = [f"n{i:08}" for i in range(1000)]
    real = paper.identify
    monkeypatch.setattr(paper, "identify", lambda ids: "ILSVRC-2012" if list(ids) == wnids else real(ids))
    return wnids


@pytest.mark.parametrize(("size", "name"), [(256, "alexnet"), (256, "alexnet-6conv")])
def test_the_papers_nets_have_no_deviations(size, name):
    assert not [*deviations_of_net(preset(name), size)]


def joined(size: int = 256, **switches) -> str:
    return "; ".join(deviations_of_net(replace(Variant(), **switches).build(), size))


@pytest.mark.parametrize(
    ("switches", "clause"),
    [
        ({"size": 64}, "S is 64, not 256"),
        ({"patch": 195}, "patches are 195 x 195"),
        ({"kernels": (48, 128, 192, 192, 128)}, "kernels are 48-128-192-192-128, not 96-256-384-384-256"),
        ({"hidden": 1024}, "units are 1024-1024, not 4096-4096"),
        ({"columns": 1, "lrn_columns": 2}, "one column, not two"),
        ({"normalization": "none"}, "no LRN"),
        ({"normalization": "batchnorm"}, "batch norm, which the paper does not use; no LRN"),
        ({"lrn_constants": (2e-5, 2.0)}, "alpha=2e-05"),
        ({"lrn_constants": (1e-4, 1.0)}, "k=1 "),
        ({"lrn_columns": 1}, "LRN in 2 places, across columns"),
        ({"pool_first": True}, "LRN after pooling"),
        ({"activation": "tanh"}, "tanh, not ReLU"),
        ({"pool_size": 2}, "pooling without overlap"),
    ],
)
def test_each_switch_gives_its_own_clause_and_no_other(switches, clause):
    assert clause in joined(**switches)
    assert joined(**switches).count("; ") == clause.count("; ")


def test_the_number_of_classes_and_dropout_are_not_deviations():
    assert joined(classes=10) == joined(dropout=0.1) == ""


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_described(name):
    clauses = [*deviations_of_net(preset(name), 256)]
    assert all(clause and "\n" not in clause for clause in clauses)
    assert bool(clauses) == (name not in ("alexnet", "alexnet-6conv"))


def test_the_papers_protocol_has_no_deviations(ilsvrc):
    assert not [*deviations(wnids=ilsvrc, images=50_000, views="ten", nets={"a": ()})]


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ({"images": 49_999}, "50,000 images of 1,000 classes): 49,999 images of the same classes"),
        ({"images": 500, "sample_of": 50_000}, "Only a sample of 500 of the 50,000 images"),
        ({"views": "center"}, "Only the central view"),
        ({"nets": {"a": ("one column",), "b": ()}}, "a: one column."),
        ({"nets": {"a": ("one column",), "b": ("one column",)}}, "All nets: one column."),
        ({"nets": {"a": ("one column",)}}, "a: one column."),
    ],
)
def test_each_deviation_is_one_sentence(ilsvrc, run, expected):
    (sentence,) = deviations(**{"wnids": ilsvrc, "images": 50_000, "views": "ten", "nets": {"a": ()}, **run})
    assert expected in sentence
    assert sentence.endswith(".")


def test_another_set_of_as_many_classes_and_images_is_not_the_papers(ilsvrc):
    other = [*ilsvrc[:-1], "n99999999"]
    (sentence,) = deviations(wnids=other, images=50_000, views="ten", nets={"a": ()})
    assert "50,000 images of 1,000 classes." in sentence


def test_the_sentences_on_a_sample_of_another_set_have_both_numbers():
    sentences = [*deviations(wnids=TINY, images=500, sample_of=5000, views="ten", nets={"a": ()})]
    assert "5,000 images of 200 classes" in sentences[0]
    assert sentences[1] == "Only a sample of 500 of the 5,000 images was evaluated."
