"""The page's sentences: true of the net at hand, and nothing is explained twice."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from alexnet_infer.explain.words import about, against_paper, describe, size
from alexnet_infer.presets import PRESETS, preset
from tests.explain.explained import VARIANTS
from tests.nets import TINY

ARCHITECTURES = {name: preset(name) for name in PRESETS} | {name: v.build() for name, v in VARIANTS.items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=list(ARCHITECTURES))
def test_every_operation_is_described_and_explained_once(architecture):
    said: dict[str, str] = {}
    paragraphs = []
    for step in architecture.steps:
        assert describe(step)
        assert size(step.output)
        paragraph, where = about(step.operation, architecture, said)
        if paragraph is None:
            assert where in [o.name for o in architecture.operations]
            assert where != step.operation.name
        else:
            assert where == step.operation.name
            paragraphs.append(paragraph)
    assert len(set(paragraphs)) == len(paragraphs)


def test_the_papers_net_is_the_paper():
    paper = preset("alexnet")
    assert {against_paper(step, paper) for step in paper.steps} == {"The paper's net has the same."}


def compared(architecture) -> dict[str, str]:
    return {step.operation.name: against_paper(step, architecture) for step in architecture.steps}


def test_the_paper_is_quoted_where_a_net_differs():
    assert compared(preset("alexnet-64"))["conv1"].endswith("96 kernels of 11 \u00d7 11 \u00d7 3, stride 4.")
    said = compared(preset("caffe"))
    assert "k = 2, n = 5, \u03b1 = 0.0001" in said["norm1"]
    assert "k = 1, n = 5, \u03b1 = 0.00002" in describe(
        next(step for step in preset("caffe").steps if step.operation.name == "norm1")
    )
    assert "1 CNN* has one" in compared(preset("alexnet-6conv"))["conv6"]


def test_an_operation_at_another_place_is_not_the_same():
    said = compared(replace(TINY, pool_first=True, dropout_first=True).build())
    assert said["pool1"] != "The paper's net has the same." != said["drop6"]


def test_a_renamed_operation_is_found_by_its_place():
    paper = preset("alexnet")
    renamed = tuple(msgspec.structs.replace(o, name=f"my_{i}") for i, o in enumerate(paper.operations))
    assert set(compared(msgspec.structs.replace(paper, operations=renamed)).values()) == {
        "The paper's net has the same."
    }


def test_columns_are_mentioned_only_of_nets_that_have_them():
    def texts(architecture):
        said: dict[str, str] = {}
        words = [about(o, architecture, said)[0] for o in architecture.operations]
        return " ".join(w.what for w in words if w is not None)

    assert "column" in texts(preset("alexnet"))
    assert "column" not in texts(preset("owt"))
