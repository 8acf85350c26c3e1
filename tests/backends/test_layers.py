"""The values of every layer in every backend, against the NumPy reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs

from alexnet_infer.artifact import Artifact
from alexnet_infer.backends.onnxruntime import OnnxRuntimeBackend
from alexnet_infer.backends.openvino import OpenVinoBackend
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.errors import ModelFileError, SpecError, UsageError
from alexnet_infer.graph.file import OnnxFile, read_model, save_model
from alexnet_infer.graph.info import Batch, ExportInfo, Member
from alexnet_infer.graph.model import build_model, build_on_squares
from alexnet_infer.layers import all_layers
from alexnet_infer.preprocess import patches
from alexnet_infer.presets import PRESETS, Variant, variant
from tests.nets import TINY, large_patches, random_artifact

ort = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
pytest.importorskip("openvino", reason="needs OpenVINO: pip install openvino")

BACKENDS = {
    "onnxruntime": lambda net, outputs: OnnxRuntimeBackend(net, "cpu", outputs=outputs),
    "openvino": OpenVinoBackend,
}
MEMBER = Member(name="a", sha256="0" * 64)


def small(name: str) -> Variant:
    """A preset with few kernels and units: its layers, patch and constants stay."""
    preset = variant(name)
    sixth = 32 if preset.sixth_conv else 0
    return replace(preset, kernels=(16, 32, 32, 32, 32), hidden=24, classes=7, sixth_conv=sixth)


NETS = {name: small(name) for name in PRESETS} | {
    "batch norm": replace(TINY, normalization="batchnorm"),
    "tanh": replace(TINY, activation="tanh"),
    "pool first": replace(TINY, pool_first=True),
}


def exported(artifact: Artifact, tmp_path, **info) -> OnnxFile:
    weights: dict[str, np.ndarray] = {}
    model = build_model([artifact], ExportInfo(members=(MEMBER,), **info), weights)
    save_model(tmp_path / "net.onnx", model, weights)
    return read_model(tmp_path / "net.onnx")


def assert_near(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float = 1e-5) -> None:
    """Compare values of any size: by the largest value of their layer."""
    assert actual.keys() == expected.keys()
    for name in expected:
        assert actual[name].dtype == np.float32
        scale = np.abs(expected[name]).max()
        assert expected[name].std() > 0, name
        np.testing.assert_allclose(actual[name], expected[name], rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("net", NETS)
def test_every_layer_of_every_preset_has_the_values_of_the_reference(net, backend):
    artifact, inputs = random_artifact(NETS[net]), large_patches(NETS[net])
    names = [layer.name for layer in all_layers(artifact.manifest.architecture)]
    expected = ReferenceBackend(artifact, names).activations(inputs)
    assert {layer.name: (2, *layer.shape) for layer in all_layers(artifact.manifest.architecture)} == {
        name: value.shape for name, value in expected.items()
    }
    tolerance = 1e-4 if net == "tanh" else 1e-5  # tanh of sums in the hundreds
    assert_near(BACKENDS[backend](artifact, names).activations(inputs), expected, tolerance)


def test_the_values_before_and_after_the_activation_differ():
    values = ReferenceBackend(random_artifact(), ["fc7:pre", "fc7", "conv1:pre", "conv1"]).activations(large_patches())
    for name in ("fc7", "conv1"):
        assert values[f"{name}:pre"].min() < 0
        np.testing.assert_array_equal(values[name], np.maximum(values[f"{name}:pre"], 0))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "outputs", [["conv1", "conv1:pre"], ["conv1:pre", "act1", "conv1"], ["drop6", "fc6", "act_fc6"]]
)
def test_names_may_come_in_any_order_and_mean_the_same_value(outputs, backend):
    artifact, inputs = random_artifact(), large_patches()
    expected = ReferenceBackend(artifact, outputs).activations(inputs)
    actual = BACKENDS[backend](artifact, outputs).activations(inputs)
    assert list(actual) == outputs
    assert_near(actual, expected)


OPERATIONS = ["conv1", "act1", "norm1", "fc7", "act_fc7", "fc8"]
OWN_NAMES = ["softmax", "half", "logits", "pixels", "ten", "five", "planes", "patch1", "fc7x"]
"""Names of values that a graph may need itself. Each operation gets each of them once."""


@pytest.mark.parametrize("rotation", range(len(OWN_NAMES)))
def test_operations_may_have_any_name_even_of_a_value_that_the_graph_needs_itself(tmp_path, rotation):
    new = {name: OWN_NAMES[(rotation + i) % len(OWN_NAMES)] for i, name in enumerate(OPERATIONS)}
    artifact = random_artifact()
    own = artifact.manifest.architecture
    assert {*OPERATIONS} <= {o.name for o in own.operations}
    operations = [structs.replace(o, name=new.get(o.name, o.name)) for o in own.operations]
    tensors = {}
    for key, value in artifact.tensors.items():
        name, _, kind = key.rpartition(".")
        tensors[f"{new.get(name, name)}.{kind}"] = value
    architecture = structs.replace(own, operations=tuple(operations))
    renamed = Artifact(structs.replace(artifact.manifest, architecture=architecture), tensors)
    outputs = tuple(layer.name for layer in all_layers(architecture))
    inputs = large_patches()
    expected = ReferenceBackend(artifact).infer(inputs)
    assert_near(OpenVinoBackend(renamed).activations(inputs), {"probabilities": expected})
    all_values = ReferenceBackend(renamed, outputs).activations(inputs)
    assert_near(OnnxRuntimeBackend(renamed, "cpu", outputs=outputs).activations(inputs), all_values)
    squares = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    cut = patches(squares[0], renamed.manifest.preprocessing)
    file = exported(renamed, tmp_path, outputs=outputs, views="ten", precision="fp16")
    values = ReferenceBackend(renamed, outputs).activations(cut)
    assert_near(
        OnnxRuntimeBackend(file, "cpu").activations(squares), {k: v.mean(0)[None] for k, v in values.items()}, 2e-2
    )


@pytest.mark.parametrize("name", ["patches", "images", "probabilities"])
def test_no_operation_may_have_the_name_of_an_input_or_of_the_output(name):
    architecture = random_artifact().manifest.architecture
    operations = (structs.replace(architecture.operations[0], name=name), *architecture.operations[1:])
    with pytest.raises(SpecError, match=f"{name}: an operation's name: expected none of patches, images"):
        structs.replace(architecture, operations=operations)


def test_a_net_computes_no_further_than_its_last_layer():
    from alexnet_infer.graph.net import build_onnx

    def operators(*outputs: str) -> int:
        return len(build_onnx(random_artifact(), outputs=outputs).graph.node)

    assert operators("conv1:pre") == 1
    assert operators("pool5") < operators("fc6:pre") < operators("fc8") < operators("probabilities")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 2e-2)])
@pytest.mark.parametrize("lrn", ["op", "conv", "plugin"])
def test_an_exported_file_returns_the_layers_it_was_exported_with(tmp_path, backend, precision, tolerance, lrn):
    outputs = ("norm1", "fc7:pre", "fc7", "probabilities")
    file = exported(random_artifact(), tmp_path, outputs=outputs, precision=precision, lrn=lrn)
    opened = BACKENDS[backend](file, None)
    assert opened.outputs == outputs
    expected = ReferenceBackend(random_artifact(), outputs).activations(large_patches())
    assert_near(opened.activations(large_patches()), expected, tolerance)
    np.testing.assert_allclose(opened.infer(large_patches()), expected["probabilities"], atol=tolerance)
    some = BACKENDS[backend](file, ["fc7"]).activations(large_patches())
    assert_near(some, {"fc7": expected["fc7"]}, tolerance)


@pytest.mark.parametrize("batch", ["1,8,64", "2"])
@pytest.mark.parametrize("views", ["center", "ten"])
def test_a_file_that_cuts_its_views_returns_the_mean_of_each_layer_over_them(tmp_path, views, batch):
    artifact, outputs = random_artifact(), ("pool5", "fc7", "probabilities")
    squares = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    cut = np.stack([patches(square, artifact.manifest.preprocessing, views) for square in squares])
    each = ReferenceBackend(artifact, outputs).activations(cut.reshape(-1, *cut.shape[2:]))
    expected = {name: value.reshape(3, cut.shape[1], *value.shape[1:]).mean(1) for name, value in each.items()}
    file = exported(artifact, tmp_path, outputs=outputs, views=views, batch=Batch.parse(batch))
    assert_near(OnnxRuntimeBackend(file, "cpu").activations(squares), expected)
    weights: dict[str, np.ndarray] = {}
    model = build_on_squares(artifact, views, "op", weights, outputs)  # what runs on a GPU
    options = ort.SessionOptions()
    options.add_external_initializers(list(weights), [ort.OrtValue.ortvalue_from_numpy(w) for w in weights.values()])
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert_near(dict(zip(outputs, session.run(list(outputs), {"images": squares}), strict=True)), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_layer_that_a_file_does_not_return_is_refused_with_the_fix(tmp_path, backend):
    file = exported(random_artifact(), tmp_path)
    with pytest.raises(
        UsageError, match=r"net.onnx: returns only probabilities: export the net again with --outputs fc7"
    ):
        BACKENDS[backend](file, ["fc7"])


def test_a_layer_that_overflows_float16_is_refused_and_not_returned_as_infinity(tmp_path):
    artifact = random_artifact()
    artifact.tensors["fc6.weight"] *= 3000
    artifact.tensors["fc7.weight"] /= 3000
    file = exported(artifact, tmp_path, outputs=("fc6", "probabilities"), precision="fp16")
    with pytest.raises(ModelFileError, match="returns values that are not finite"):
        OnnxRuntimeBackend(file, "cpu").activations(large_patches())
