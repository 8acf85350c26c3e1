"""The page's sentences: true of the net at hand, and nothing is explained twice."""

from __future__ import annotations

import pytest

from alexnet_infer.explain.words import about, against_paper, describe, exact, size
from alexnet_infer.presets import PRESETS, preset
from tests.explain.explained import VARIANTS

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
    assert {against_paper(step) for step in preset("alexnet").steps} == {"The paper's net has the same."}


def test_the_paper_is_quoted_where_a_net_differs():
    steps = {step.operation.name: step for step in preset("alexnet-64").steps}
    assert against_paper(steps["conv1"]).endswith("96 kernels of 11 \u00d7 11 \u00d7 3, stride 4.")
    steps = {step.operation.name: step for step in preset("caffe").steps}
    assert "k = 2, n = 5, \u03b1 = 0.0001" in against_paper(steps["norm1"])
    assert "k = 1, n = 5, \u03b1 = 0.00002" in describe(steps["norm1"])
    steps = {step.operation.name: step for step in preset("alexnet-6conv").steps}
    assert against_paper(steps["conv6"]) == "The paper's net has no conv6."


def test_columns_are_mentioned_only_of_nets_that_have_them():
    def texts(architecture):
        said: dict[str, str] = {}
        words = [about(o, architecture, said)[0] for o in architecture.operations]
        return " ".join(w.what for w in words if w is not None)

    assert "column" in texts(preset("alexnet"))
    assert "column" not in texts(preset("owt"))


@pytest.mark.parametrize(("value", "text"), [(1e-4 / 5, "0.00002"), (2.0, "2"), (0.75, "0.75"), (1e-4, "0.0001")])
def test_constants_have_no_exponent(value, text):
    assert exact(value) == text
