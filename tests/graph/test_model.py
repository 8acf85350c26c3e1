"""The exported model against the NumPy reference: views, several nets and half precision in one graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from msgspec.structs import replace

from alexnet_infer.artifact import Artifact
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.errors import SpecError, UsageError
from alexnet_infer.graph.info import Batch, ExportInfo, Member
from alexnet_infer.graph.model import build_model
from alexnet_infer.manifest import ClassName, Manifest, MeasuredError
from alexnet_infer.preprocess import Preprocessing, patches
from tests.nets import TINY, random_artifact

ort = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

MEMBER = Member(name="a", sha256="0" * 64)
SQUARES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
PER_PIXEL = np.random.default_rng(1).uniform(90, 150, (64, 64, 3)).astype(np.float32)
PREPROCESSING = {
    "a mean per channel": {},
    "a mean per pixel": {"mean": PER_PIXEL},
    "BGR": {"channel_order": "BGR"},
    "0 to 1": {"value_range": "0-1", "mean": np.array([0.5, 0.4, 0.3])},
    "an odd border": {"size": 64, "mean": PER_PIXEL, "channel_order": "BGR"},
}


def described(count: int = 1, **given) -> ExportInfo:
    return ExportInfo(members=(MEMBER,) * count, **given)


def preprocessed(artifact: Artifact, **changes) -> Artifact:
    manifest = artifact.manifest
    return Artifact(replace(manifest, preprocessing=replace(manifest.preprocessing, **changes)), dict(artifact.tensors))


def session(model: onnx.ModelProto):
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, squares: np.ndarray, preprocessing: Preprocessing | None = None) -> np.ndarray:
    """The model's output for the squares, or for the ten views of each if it takes patches."""
    own = session(model)
    if own.get_inputs()[0].name == "images":
        return own.run(None, {"images": squares})[0]
    return own.run(None, {"patches": np.concatenate([patches(s, preprocessing) for s in squares])})[0]


def reference(artifact: Artifact, squares: np.ndarray, views: str) -> np.ndarray:
    cut = np.stack([patches(s, artifact.manifest.preprocessing, views) for s in squares])
    scores = ReferenceBackend(artifact).infer(cut.reshape(-1, *cut.shape[2:]))
    return scores.reshape(len(squares), cut.shape[1], -1).mean(1)


@pytest.mark.parametrize("views", ["center", "ten"])
@pytest.mark.parametrize("name", PREPROCESSING)
def test_views_in_the_graph_match_preprocess_for_every_preprocessing(name, views):
    artifact = preprocessed(random_artifact(), **PREPROCESSING[name])
    expected = reference(artifact, SQUARES, views)
    assert np.abs(expected[0] - expected[1]).max() > 1e-4, "the images must differ"
    actual = run(build_model([artifact], described(views=views)), SQUARES)
    np.testing.assert_allclose(actual, expected, atol=2e-6)


def test_a_wrong_view_changes_the_result():
    """The central view, mirrored squares and a mirrored mean are far outside the tolerance above."""
    artifact = preprocessed(random_artifact(), mean=PER_PIXEL)
    expected = reference(artifact, SQUARES, "ten")
    for wrong in (
        reference(artifact, SQUARES, "center"),
        reference(artifact, SQUARES[:, :, ::-1, ::-1], "ten"),
        reference(preprocessed(artifact, mean=PER_PIXEL[:, ::-1]), SQUARES, "ten"),
    ):
        assert np.abs(wrong - expected).max() > 1e-4


@pytest.mark.parametrize("lrn", ["op", "conv", "plugin"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-6), ("fp16", 3e-3)])
def test_each_precision_and_form_of_lrn_is_the_same_net(precision, tolerance, lrn):
    artifact = random_artifact()
    model = build_model([artifact], described(views="ten", precision=precision, lrn=lrn))
    onnx.checker.check_model(model, full_check=True)
    difference = np.abs(run(model, SQUARES) - reference(artifact, SQUARES, "ten")).max()
    assert difference < tolerance
    if precision == "fp16":
        assert difference > 1e-6, "it was computed in float32"


def test_half_precision_holds_every_weight_in_two_bytes_and_normalises_in_four():
    """Squares of values of 256 or more overflow float16. The activations of these pixels are far larger."""
    artifact = random_artifact()
    model = build_model([artifact], described(precision="fp16"))
    weights = [t for t in model.graph.initializer if t.name.endswith((".weight", ".bias"))]
    assert len(weights) == len(artifact.tensors)
    assert {t.data_type for t in weights} == {onnx.TensorProto.FLOAT16}
    inferred = onnx.shape_inference.infer_shapes(model)
    kinds = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    assert {kinds[node.input[0]] for node in model.graph.node if node.op_type in ("LRN", "Softmax")} == {1}
    assert {kinds[node.output[0]] for node in model.graph.node if node.op_type == "Conv"} == {10}


def test_a_weight_beyond_half_precision_is_refused_by_name():
    tensors = dict(random_artifact().tensors)
    tensors["conv2.bias"] = tensors["conv2.bias"] + 1e6
    with pytest.raises(SpecError, match=r"conv2\.bias has weights too large for float16"):
        build_model([Artifact(random_artifact().manifest, tensors)], described(precision="fp16"))


@pytest.mark.parametrize("views", ["none", "ten"])
def test_an_ensemble_is_the_mean_of_its_nets(views):
    nets = [random_artifact(seed=seed) for seed in (0, 1, 2)]
    singles = [run(build_model([net], described(views=views)), SQUARES, nets[0].manifest.preprocessing) for net in nets]
    assert np.abs(singles[0] - singles[1]).max() > 0.01
    model = build_model(nets, described(3, views=views))
    onnx.checker.check_model(model, full_check=True)
    actual = run(model, SQUARES, nets[0].manifest.preprocessing)
    np.testing.assert_allclose(actual, np.mean(singles, 0), atol=1e-6)


def test_nets_with_different_means_can_share_only_a_file_that_cuts_its_views():
    nets = [random_artifact(), preprocessed(random_artifact(seed=1), mean=PER_PIXEL)]
    expected = np.mean([reference(net, SQUARES, "center") for net in nets], 0)
    np.testing.assert_allclose(run(build_model(nets, described(2, views="center")), SQUARES), expected, atol=2e-6)
    with pytest.raises(UsageError, match=r"differ in \['mean'\].*--views center or ten"):
        build_model(nets, described(2))


@pytest.mark.parametrize("views", ["none", "center", "ten"])
def test_nets_that_take_different_squares_are_refused(views):
    nets = [random_artifact(), preprocessed(random_artifact(seed=1), fit="stretch")]
    with pytest.raises(UsageError, match=r"differ in \['fit'\]: nets in one file need the same input$"):
        build_model(nets, described(2, views=views))


def test_nets_with_the_same_preprocessing_share_their_views():
    nets = [random_artifact(), random_artifact(seed=1)]
    model = build_model(nets, described(2, views="ten"))
    assert [node.op_type for node in model.graph.node].count("Slice") == 6


def test_nets_with_different_classes_are_refused():
    other = random_artifact(seed=1)
    classes = tuple(ClassName(wnid=f"n1{i:07}", name="x") for i in range(len(other.manifest.classes)))
    with pytest.raises(UsageError, match=r"have different classes \(output 0 is 'n00000000' and 'n10000000'\)"):
        build_model(
            [random_artifact(), Artifact(replace(other.manifest, classes=classes), dict(other.tensors))], described(2)
        )


def test_a_fixed_batch_is_a_number_in_the_graph_and_otherwise_it_is_free():
    fixed = build_model([random_artifact()], described(views="center", batch=Batch(min=2, opt=2, max=2)))
    dims = fixed.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [2, 64, 64, 3]
    free = build_model([random_artifact()], described())
    assert [d.dim_value or d.dim_param for d in free.graph.input[0].type.tensor_type.shape.dim] == ["N", 3, 57, 57]


def test_the_plugin_node_has_the_attributes_for_tensorrts_parser_and_the_papers_constants():
    model = build_model([random_artifact()], described(lrn="plugin"))
    nodes = [node for node in model.graph.node if node.op_type == "GroupedLRN"]
    assert [node.domain for node in nodes] == ["alexnet_infer"] * 2
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in nodes[0].attribute}
    assert attributes.pop("alpha") == pytest.approx(1e-4)
    assert attributes == {
        "size": 5, "beta": 0.75, "k": 2.0, "groups": 2, "plugin_version": b"1", "plugin_namespace": b"alexnet_infer",
    }  # fmt: skip


def test_the_metadata_describes_the_model():
    info = described(2, views="ten", batch=Batch(min=1, opt=4, max=16))
    model = build_model([random_artifact(), random_artifact(seed=1)], info)
    properties = {p.key: p.value for p in model.metadata_props}
    assert ExportInfo.from_json(properties["alexnet_infer_export"]) == info
    manifest = Manifest.from_json(properties["alexnet_infer"])
    assert manifest.architecture == TINY.build()


def test_measured_errors_are_kept_for_a_single_net_and_dropped_for_a_mean():
    error = MeasuredError(data="a set", views="ten", images=10, top1=5, top5=2)
    nets = []
    for seed in range(2):
        artifact = random_artifact(seed=seed)
        provenance = replace(artifact.manifest.provenance, errors=(error,))
        nets.append(Artifact(replace(artifact.manifest, provenance=provenance), dict(artifact.tensors)))
    for count, expected in ((1, (error,)), (2, ())):
        model = build_model(nets[:count], described(count))
        manifest = Manifest.from_json(next(p.value for p in model.metadata_props if p.key == "alexnet_infer"))
        assert manifest.provenance.errors == expected
