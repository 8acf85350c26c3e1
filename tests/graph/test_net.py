"""The ONNX graph against the NumPy reference, ONNX's checker and the AlexNet in the onnx package."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec import structs
from onnx import numpy_helper

from alexnet_infer.architecture import LRN, Architecture, MaxPool
from alexnet_infer.artifact import Artifact
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.backends.reference import lrn as reference_lrn
from alexnet_infer.graph.net import INPUT, OUTPUT, band_weights, build_onnx
from alexnet_infer.manifest import METADATA_KEY, Manifest
from alexnet_infer.presets import PRESETS, variant
from tests.nets import TINY, large_patches, random_artifact

ort = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

VARIANTS = {
    "two columns": TINY,
    "one column": replace(TINY, columns=1),
    "caffe's LRN": replace(TINY, lrn_constants=(2e-5, 1.0), lrn_columns=1),
    "pool before LRN": replace(TINY, pool_first=True),
    "tanh": replace(TINY, activation="tanh"),
    "batch norm": replace(TINY, normalization="batchnorm"),
    "no normalisation": replace(TINY, normalization="none"),
    "pool 2/2": replace(TINY, pool_size=2),
    "sixth convolution": replace(TINY, sixth_conv=32),
    "dropout first": replace(TINY, dropout_first=True),
}


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(
        None, feeds
    )[0]


@pytest.mark.parametrize("form", ["op", "conv"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_switch_matches_the_reference_in_both_lrn_forms(name, form):
    artifact = random_artifact(VARIANTS[name])
    patches = large_patches(VARIANTS[name])
    expected = ReferenceBackend(artifact).infer(patches)
    assert 0.02 < expected.max() < 0.98, "a saturated softmax would hide differences"
    np.testing.assert_allclose(run(build_onnx(artifact, form), {INPUT: patches}), expected, atol=1e-5)


@pytest.mark.parametrize("form", ["op", "conv"])
@pytest.mark.parametrize("wrong", [{"alpha": 5e-4}, {"alpha": 2e-5}, {"groups": 1}, {"k": 1.0}, {"beta": 0.5}])
def test_a_wrong_lrn_constant_or_a_missing_column_split_changes_the_result(wrong, form):
    """The test above is meaningful only if such mistakes are far outside its tolerance."""
    artifact = random_artifact()
    patches = large_patches()
    spec = artifact.manifest.architecture
    changed = tuple(structs.replace(o, **wrong) if isinstance(o, LRN) else o for o in spec.operations)
    mistaken = Artifact(
        structs.replace(artifact.manifest, architecture=structs.replace(spec, operations=changed)),
        dict(artifact.tensors),
    )
    difference = run(build_onnx(mistaken, form), {INPUT: patches}) - ReferenceBackend(artifact).infer(patches)
    assert np.abs(difference).max() > 1e-3


@pytest.mark.parametrize("form", ["op", "conv"])
@pytest.mark.parametrize("beta", [0.75, 0.6])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_lrn_alone_agrees_to_1e_5_on_activations_in_the_hundreds(groups, beta, form):
    spec = LRN(name="norm", groups=groups, beta=beta)
    x = np.random.default_rng(2).normal(0, 400, (2, 12, 5, 6)).astype(np.float32)
    model = _lrn_model(spec, 12, form)
    expected = reference_lrn(x.astype(np.float64), spec)
    assert np.median(expected / x) < 0.3, "the sum of squares must matter"
    np.testing.assert_allclose(run(model, {"x": x}), expected, rtol=1e-5, atol=1e-5)


def _lrn_model(spec: LRN, channels: int, form: str) -> onnx.ModelProto:
    """A model of only the nodes that the builder makes for one LRN."""
    from onnx import TensorProto, helper

    from alexnet_infer.architecture import Step
    from alexnet_infer.graph.net import Graph, _Builder

    graph = Graph()
    shape = (channels, 5, 6)
    output = _Builder(graph, random_artifact(), Step(spec, shape, shape, {}, 0), form, False, "").add("x")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]) for name in ("x", output)]
    return helper.make_model(
        helper.make_graph(graph.nodes, "lrn", ends[:1], ends[1:], graph.initializers),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def test_band_weights_are_alpha_inside_window_and_column_and_zero_elsewhere():
    weights = band_weights(LRN(name="n", size=3, alpha=0.5, groups=2), 8)[:, :, 0, 0]
    column = [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    assert (weights / 0.5).tolist() == column + column


@pytest.mark.parametrize("form", ["op", "conv"])
def test_the_graph_passes_the_full_check_and_takes_any_batch(form):
    model = build_onnx(random_artifact(), form)
    onnx.checker.check_model(model, full_check=True)
    for count in (1, 3):
        assert run(model, {INPUT: large_patches(count=count)}).shape == (count, TINY.classes)
    assert [i.name for i in model.graph.input] == [INPUT]
    assert [o.name for o in model.graph.output] == [OUTPUT]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_a_graph_that_passes_the_full_check(name):
    narrow = replace(variant(name), width=0.125, hidden=16, classes=5)
    onnx.checker.check_model(build_onnx(random_artifact(narrow)), full_check=True)


def test_the_metadata_holds_the_complete_manifest():
    artifact = random_artifact()
    properties = {p.key: p.value for p in build_onnx(artifact).metadata_props}
    manifest = Manifest.from_json(properties[METADATA_KEY])
    assert json.loads(manifest.to_json()) == json.loads(artifact.manifest.to_json())
    assert manifest.architecture == artifact.manifest.architecture


LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"


def light_architecture() -> Architecture:
    """The published Caffe net as in the ONNX Model Zoo: 224 x 224 patches, and a pool5 that rounds up."""
    published = replace(variant("caffe"), name="light_bvlc_alexnet", patch=224).build()
    operations = tuple(
        structs.replace(o, ceil=True) if isinstance(o, MaxPool) and o.name == "pool5" else o
        for o in published.operations
    )
    return structs.replace(published, operations=operations)


def light_artifact(tensors: dict[str, np.ndarray]) -> Artifact:
    base = random_artifact(replace(TINY, patch=224, classes=1000, conv1=(11, 4, 0)))
    return Artifact(structs.replace(base.manifest, architecture=light_architecture()), tensors)


@pytest.mark.skipif(not LIGHT.exists(), reason="this onnx package does not ship its light test models")
@pytest.mark.parametrize("form", ["op", "conv"])
def test_onnxs_own_bvlc_alexnet_and_its_expected_output_are_reproduced(form):
    """First as shipped, with nearly constant weights and the expected output, then with random weights."""
    light = onnx.load(LIGHT / "light_bvlc_alexnet.onnx")
    shapes = light_architecture().tensors
    constants = {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t).item()
        for node in light.graph.node
        if node.op_type == "ConstantOfShape"
    }
    names = {f"{name.split('.')[0]}_{name.split('.')[1][0]}_0": name for name in shapes}
    assert names.keys() == constants.keys()
    filled = {our_name: np.full(shapes[our_name], constants[name], np.float32) for name, our_name in names.items()}
    expected = numpy_helper.to_array(onnx.load_tensor(LIGHT / "light_bvlc_alexnet_output_0.pb"))
    x = np.ones((1, 3, 224, 224), np.float32)
    np.testing.assert_allclose(run(build_onnx(light_artifact(filled), form), {INPUT: x}), expected, rtol=1e-4)

    rng = np.random.default_rng(3)
    tensors = {
        name: (
            rng.standard_normal(shape, np.float32) * (2 / np.prod(shape[1:])) ** 0.5
            if len(shape) > 1
            else np.float32(5) * rng.standard_normal(shape, np.float32)
        ).astype(np.float32)
        for name, shape in shapes.items()
    }
    tensors["fc8.weight"] *= np.float32(0.1)
    kept = [node for node in light.graph.node if node.op_type != "ConstantOfShape"]
    del light.graph.node[:]
    light.graph.node.extend(kept)
    light.graph.initializer.extend(numpy_helper.from_array(tensors[our_name], name) for name, our_name in names.items())
    x = rng.normal(0, 200, x.shape).astype(np.float32)
    expected = run(light, {"data_0": x})
    assert 2e-3 < expected.max() < 0.98
    np.testing.assert_allclose(run(build_onnx(light_artifact(tensors), form), {INPUT: x}), expected, atol=1e-5)
