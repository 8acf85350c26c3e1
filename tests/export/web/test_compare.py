"""The comparison of a page's net with the NumPy reference."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_infer.artifact import Artifact
from alexnet_infer.commands.compare import example_photos
from alexnet_infer.export.web.compare import largest_difference
from alexnet_infer.graph.web import build_web_model
from tests.nets import random_artifact

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")


def difference(artifact: Artifact, changed: Artifact) -> float:
    net = build_web_model(changed, half=False).SerializeToString()
    return largest_difference(artifact, net, example_photos())


def test_the_same_net_has_no_difference():
    artifact = random_artifact()
    assert difference(artifact, artifact) < 1e-5


def test_another_net_has_one():
    artifact = random_artifact()
    weight = artifact.tensors["fc8.weight"].copy()
    weight[0] += 0.1
    assert difference(artifact, Artifact(artifact.manifest, {**artifact.tensors, "fc8.weight": weight})) > 1e-3


def test_a_net_whose_sums_overflow_is_not_within_any_tolerance():
    artifact = random_artifact()
    weight = np.full_like(artifact.tensors["fc8.weight"], 3e38)
    assert not difference(artifact, Artifact(artifact.manifest, {**artifact.tensors, "fc8.weight": weight})) <= 1
