"""The layers inside every kind of file, patch by patch, against the NumPy reference."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

from alexnet_infer.artifact import Artifact
from alexnet_infer.backends.inner import InnerLayers, distinct_layers
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.errors import UsageError
from alexnet_infer.export.quantize import QuantizationOptions, quantize
from alexnet_infer.graph.file import read_model, save_model
from alexnet_infer.graph.info import Batch, ExportInfo, Member
from alexnet_infer.graph.model import build_model
from alexnet_infer.nets import load
from alexnet_infer.preprocess import patches
from tests.nets import TINY, random_artifact

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

MEMBER = Member(name="a", sha256="0" * 64)
SQUARES = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
ARTIFACT = random_artifact()
LAYERS = [
    *("conv1", "norm1", "pool1", "conv2", "norm2", "pool2", "conv3", "conv4", "conv5", "pool5", "fc6", "fc7", "fc8"),
    "probabilities",
]


def write(path: Path, artifact: Artifact = ARTIFACT, **given) -> Path:
    """Export a net as an ONNX file, int8 with ranges of the squares themselves."""
    info = ExportInfo(members=(MEMBER,), **given)
    weights: dict[str, np.ndarray] = {}
    int8 = info.precision == "int8"
    model = build_model([artifact], info, None if int8 else weights)
    if int8:
        own = SQUARES if info.takes_squares else inputs(artifact, "ten")
        model = quantize(model, [own], QuantizationOptions(method="minmax", int8_for=info.int8_for))
    save_model(path, model, weights)
    return path


def inputs(artifact: Artifact, views: str) -> np.ndarray:
    return np.concatenate([patches(square, artifact.manifest.preprocessing, views) for square in SQUARES])


@cache
def expected_of_tiny(views: str) -> dict[str, np.ndarray]:
    return expected(ARTIFACT, views)


def expected(artifact: Artifact, views: str) -> dict[str, np.ndarray]:
    names = [layer.name for layer in distinct_layers(artifact.manifest.architecture)]
    return ReferenceBackend(artifact, names).activations(inputs(artifact, views))


def relative(actual: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(actual - reference) / np.linalg.norm(reference))


def test_the_layers_are_each_value_once_in_order_without_those_before_an_activation():
    assert [layer.name for layer in distinct_layers(ARTIFACT.manifest.architecture)] == LAYERS


@pytest.mark.parametrize("views", ["center", "ten"])
def test_a_model_file_gives_the_layers_of_each_patch(tmp_path, views):
    ARTIFACT.save(tmp_path / "net.safetensors", np.float32)
    net = InnerLayers(tmp_path / "net.safetensors", views)
    actual = net.activations(SQUARES)
    assert list(actual) == LAYERS
    for name, values in expected_of_tiny(views).items():
        assert actual[name].shape == values.shape
        assert relative(actual[name], values) < 1e-5, name


def test_the_central_patch_is_the_default():
    assert InnerLayers(_bundled()).views == "center"


def _bundled() -> Path:
    from alexnet_infer.artifact import embedded_model

    return embedded_model()


@pytest.mark.parametrize("outputs", ["fc7:pre,act1,conv1,pool5,probabilities", "act_fc6,norm2"])
@pytest.mark.parametrize(
    ("precision", "views"), [("fp32", "none"), ("fp32", "ten"), ("fp16", "none"), ("fp16", "center"), ("fp16", "ten")]
)
def test_a_file_gives_its_inner_layers_whatever_it_returns(tmp_path, precision, views, outputs):
    names = tuple(outputs.split(","))
    path = write(tmp_path / "net.onnx", precision=precision, views=views, outputs=names, lrn="conv")
    net = InnerLayers(path)
    assert net.views == ("center" if views == "none" else views)
    actual, known = net.activations(SQUARES), expected_of_tiny(net.views)
    last = "fc6" if outputs == "act_fc6,norm2" else "probabilities"  # the file ends there
    assert list(actual) == LAYERS[: LAYERS.index(last) + 1]
    for name, values in actual.items():
        assert values.dtype == np.float32
        assert values.shape == known[name].shape
        assert relative(values, known[name]) < (1e-5 if precision == "fp32" else 0.01), name
    if precision == "fp16":
        inner = actual["conv3"]
        np.testing.assert_array_equal(inner, inner.astype(np.float16).astype(np.float32))
        assert relative(inner, known["conv3"]) > 1e-5


@pytest.mark.parametrize("changes", [{"normalization": "batchnorm"}, {"activation": "tanh"}, {"pool_first": True}])
def test_variants_of_the_net_have_their_layers_too(tmp_path, changes):
    artifact = random_artifact(replace(TINY, **changes))
    actual = InnerLayers(write(tmp_path / "net.onnx", artifact, views="center")).activations(SQUARES)
    known = expected(artifact, "center")
    assert actual.keys() == known.keys()
    for name, values in known.items():
        assert relative(actual[name], values) < 1e-5, name


@pytest.mark.parametrize(("int8_for", "views"), [("cpu", "none"), ("cpu", "ten"), ("tensorrt", "center")])
def test_a_layer_of_an_int8_file_is_what_the_next_layer_reads(tmp_path, int8_for, views):
    path = write(tmp_path / "net.onnx", precision="int8", int8_for=int8_for, views=views, lrn="conv")
    net = InnerLayers(path)
    actual, known = net.activations(SQUARES), expected_of_tiny(net.views)
    assert list(actual) == LAYERS
    for name, values in actual.items():
        assert values.shape == known[name].shape
        assert 1e-4 < relative(values, known[name]) < 0.3, name
    for name in ("conv3", "pool1", "fc6"):  # the inputs of conv4, conv2 and fc7
        assert len(np.unique(actual[name])) <= 256
        assert actual[name].min() == 0, "after the ReLU"
    assert len(np.unique(actual["norm1"])) > 1000, "LRN stays in float"


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_last_layer_is_what_the_file_returns(tmp_path, precision):
    given = {"int8_for": "cpu"} if precision == "int8" else {}
    path = write(tmp_path / "net.onnx", precision=precision, views="ten", **given)
    actual = InnerLayers(path).activations(SQUARES)["probabilities"].reshape(2, 10, -1).mean(1)
    own = load(path, device="cpu", backend="onnxruntime").probabilities(SQUARES)
    np.testing.assert_allclose(actual, own, atol=1e-6 if precision == "fp16" else 0.01)


def test_a_fixed_batch_and_weights_beside_the_file_make_no_difference(tmp_path, monkeypatch):
    plain = InnerLayers(write(tmp_path / "a.onnx", views="center")).activations(SQUARES)
    monkeypatch.setattr("alexnet_infer.graph.file.MAX_WEIGHTS", 10_000)
    path = write(tmp_path / "b.onnx", views="center", batch=Batch.parse("4"))
    assert read_model(path).data
    other = InnerLayers(path).activations(SQUARES)
    for name, values in plain.items():
        np.testing.assert_array_equal(other[name], values)


def test_files_whose_layers_cannot_be_read_are_named(tmp_path):
    several = ExportInfo(members=(MEMBER, MEMBER))
    weights: dict[str, np.ndarray] = {}
    save_model(tmp_path / "two.onnx", build_model([ARTIFACT, random_artifact(seed=1)], several, weights), weights)
    (tmp_path / "net.engine").write_bytes(b"plan")
    write(tmp_path / "center.onnx", views="center")
    other = onnx.load(write(tmp_path / "other.onnx"))
    inner = {name for node in other.graph.node for name in node.output} - {"probabilities"}
    for node in other.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = f"{name}_1" if name in inner else name
    onnx.save(other, tmp_path / "other.onnx")
    for name, views, words in (
        ("two.onnx", None, "two.onnx: has 2 nets: expected a file of one net"),
        ("net.engine", None, "net.engine: an engine, whose layers can't be read; compare the .onnx"),
        ("center.onnx", "ten", "center.onnx: cuts views=center itself; export it again with --views ten"),
        ("other.onnx", None, "other.onnx: its layers can't be told; expected a file that `export` wrote"),
    ):
        with pytest.raises(UsageError, match=words):
            InnerLayers(tmp_path / name, views)
