"""The graph of a web page against the NumPy reference: every layer, and the switches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs

from alexnet_infer.architecture import LRN
from alexnet_infer.artifact import Artifact
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.graph.web import build_web_model, halved, web_layers
from alexnet_infer.layers import all_layers
from alexnet_infer.presets import PRESETS, Variant, preset, variant
from tests.nets import TINY, large_patches, random_artifact

ort = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")


def small(net: Variant) -> Variant:
    """Return a net like `net`, with few kernels and units."""
    kernels = (16, 32, 32, 32, 32)[: len(net.kernels)]
    sizes = {"sixth_conv": 32 * bool(net.sixth_conv), "hidden": 24 * bool(net.hidden)}
    return replace(net, kernels=kernels, classes=7, **sizes)


NETS = {
    **{name: small(variant(name)) for name in PRESETS},
    "tiny": TINY,
    "batch norm": replace(TINY, normalization="batchnorm"),
    "tanh": replace(TINY, activation="tanh"),
    "pool first": replace(TINY, pool_first=True),
}
IN_COLUMNS = ("conv1", "conv2", "conv3", "conv4", "conv5")
"""The layers that the paper's Figure 2 divides between two GPUs and that do not see everything."""


def in_half(artifact: Artifact) -> Artifact:
    """Return a net whose weights are float16, as bundled files have them."""
    return Artifact(artifact.manifest, {name: t.astype(np.float16) for name, t in artifact.tensors.items()})


def run(artifact: Artifact, patches: np.ndarray, *, half: bool = True, **switches) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    content = build_web_model(artifact, half=half).SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    default = {"switch.lrn": np.array(True), "switch.columns": np.ones(2, np.float32)}
    feeds = {"patches": patches, **default, **{f"switch.{name}": value for name, value in switches.items()}}
    inputs = {value.name for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, {k: v for k, v in feeds.items() if k in inputs}), strict=True))


def assert_same(actual: dict[str, np.ndarray], artifact: Artifact, patches: np.ndarray) -> None:
    """Compare every layer with the reference, by the layer's largest value."""
    tanh = any(getattr(o, "kind", None) == "tanh" for o in artifact.manifest.architecture.operations)
    tolerance = 1e-4 if tanh else 1e-5  # tanh of sums in the hundreds
    layers = [layer.name for layer in web_layers(artifact.manifest.architecture)]
    expected = ReferenceBackend(artifact, layers).activations(patches)
    assert list(actual) == layers
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, atol=tolerance * np.abs(values).max(), err_msg=name)


@pytest.mark.parametrize("name", NETS)
def test_every_layer_of_every_net_is_that_of_the_reference(name):
    artifact, patches = in_half(random_artifact(NETS[name])), large_patches(NETS[name], 1)
    actual = run(artifact, patches)
    assert all(values.std() > 0 for values in actual.values())
    assert_same(actual, artifact, patches)


def test_the_layers_are_all_different_values_once():
    architecture = preset("alexnet")
    names = [layer.name for layer in web_layers(architecture)]
    assert names[:4] == ["conv1:pre", "conv1", "norm1", "pool1"]
    assert names[-4:] == ["fc7:pre", "fc7", "fc8", "probabilities"]
    computed = {layer.operation for layer in all_layers(architecture) if not layer.operation.startswith("drop")}
    assert {layer.operation for layer in web_layers(architecture)} == computed


@pytest.mark.parametrize("name", ["tiny", "caffe", "caffenet", "alexnet-6conv"])
def test_lrn_off_is_the_net_without_lrn(name):
    artifact, patches = in_half(random_artifact(NETS[name])), large_patches(NETS[name], 1)
    actual = run(artifact, patches, lrn=np.array(False))
    spec = artifact.manifest.architecture
    without = structs.replace(spec, operations=tuple(o for o in spec.operations if not isinstance(o, LRN)))
    plain = Artifact(structs.replace(artifact.manifest, architecture=without), dict(artifact.tensors))
    same = {k: v for k, v in actual.items() if not k.startswith("norm")}
    assert len(same) == len(actual) - 2
    assert_same(same, plain, patches)
    assert np.abs(actual["probabilities"] - run(artifact, patches)["probabilities"]).max() > 1e-3


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("name", ["tiny", "caffe", "batch norm", "tanh", "alexnet-6conv"])
def test_a_column_that_is_off_is_the_net_with_its_kernels_zeroed(name, column):
    """And the layers that see both columns go on."""
    artifact, patches = in_half(random_artifact(NETS[name])), large_patches(NETS[name], 1)
    factors = np.ones(2, np.float32)
    factors[column] = 0
    actual = run(artifact, patches, columns=factors)
    tensors = {key: value.copy() for key, value in artifact.tensors.items()}
    for key, value in tensors.items():
        layer, part = key.split(".")
        if layer in IN_COLUMNS or (layer.startswith("bn") and part in ("weight", "bias")):
            width = len(value) // 2
            value[column * width : (column + 1) * width] = 0
    assert_same(actual, Artifact(artifact.manifest, tensors), patches)
    for conv in IN_COLUMNS:
        halves = np.split(actual[conv], 2, axis=1)
        assert not halves[column].any()
        assert halves[1 - column].any()


@pytest.mark.parametrize("name", ["alexnet-onecol", "owt"])
def test_a_net_of_one_column_has_no_switch_for_columns(name):
    artifact = random_artifact(NETS[name])
    inputs = [value.name for value in build_web_model(artifact).graph.input]
    assert inputs == (["patches", "switch.lrn"] if name == "alexnet-onecol" else ["patches"])


def test_float16_halves_the_file_and_its_probabilities_stay_within_a_thousandth():
    artifact, patches = random_artifact(), large_patches()
    sizes = [len(build_web_model(artifact, half=half).SerializeToString()) for half in (True, False)]
    assert sizes[0] < 0.55 * sizes[1]
    exact = run(artifact, patches, half=False)["probabilities"]
    difference = np.abs(run(artifact, patches)["probabilities"] - exact).max()
    assert 0 < difference < 1e-3


def test_a_weight_beyond_float16_keeps_its_tensor_in_float32():
    artifact, patches = random_artifact(), large_patches()
    artifact.tensors["fc8.weight"][0, 0] = 1e6
    assert_same(run(halved_except(artifact, "fc8.weight"), patches), halved_except(artifact, "fc8.weight"), patches)


@pytest.mark.parametrize(
    ("scale", "stored"), [(1e-2, True), (1e-5, False), (1e-9, False)], ids=["normal", "few bits", "rounded to 0"]
)
def test_weights_that_are_too_small_for_float16_stay_in_float32(scale, stored):
    artifact = random_artifact()
    weight = np.random.default_rng(0).normal(0, scale, artifact.tensors["fc8.weight"].shape).astype(np.float32)
    tensors = {**artifact.tensors, "fc8.weight": weight}
    assert ("fc8.weight" in halved(Artifact(artifact.manifest, tensors))) == stored


def test_weights_that_are_zero_or_float16_are_stored_as_float16():
    artifact = random_artifact()
    tiny = np.full_like(artifact.tensors["fc7.weight"], 2.0**-24)  # the smallest value of float16
    tensors = {**artifact.tensors, "fc8.weight": np.zeros_like(artifact.tensors["fc8.weight"]), "fc7.weight": tiny}
    assert {"fc7.weight", "fc8.weight"} <= halved(Artifact(artifact.manifest, tensors))


def halved_except(artifact: Artifact, name: str) -> Artifact:
    tensors = {k: t if k == name else t.astype(np.float16) for k, t in artifact.tensors.items()}
    return Artifact(artifact.manifest, tensors)
