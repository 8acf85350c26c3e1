"""The Model Zoo's graph, quantized by ONNX Runtime: the imported file gives bitwise the same results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from onnx import helper

from alexnet_infer import load
from alexnet_infer.errors import SpecError
from alexnet_infer.graph.file import read_model
from alexnet_infer.importing.quantized import adopt_quantized, input_side
from alexnet_infer.manifest import ClassName, Manifest, Provenance
from alexnet_infer.preprocess import Preprocessing
from alexnet_infer.presets import variant
from tests.importing.zoo import patches, quantized_zoo, run, zoo_graph


@pytest.fixture(scope="module", params=["QOperator", "QDQ", "QOperator, MatMul and Add"])
def quantized(request, tmp_path_factory) -> bytes:
    pytest.importorskip("onnxruntime.quantization")
    form, _, products = request.param.partition(", ")
    return quantized_zoo(
        tmp_path_factory.mktemp("quantized"), zoo_graph(), form=form, matmuls=bool(products)
    ).read_bytes()


def manifest(classes: int = 10, patch: int = 224) -> Manifest:
    architecture = replace(variant("caffe"), hidden=32, classes=classes, patch=patch, ceil_pools=(5,)).build()
    return Manifest(
        name="int8",
        architecture=architecture,
        preprocessing=Preprocessing(
            size=patch, patch=patch, fit="stretch", channel_order="BGR", mean=np.array([103.939, 116.779, 123.68])
        ),
        classes=tuple(ClassName(wnid=f"n{i:08}", name=f"class {i}") for i in range(classes)),
        provenance=Provenance(data="none", recipe={}, seed=None, date=None, software="tests"),
    )


@pytest.fixture
def path(tmp_path, quantized) -> Path:
    path = tmp_path / "zoo.onnx"
    path.write_bytes(quantized)
    return path


def refused(path: Path, model: onnx.ModelProto | bytes, *parts: str, expected: Manifest | None = None) -> None:
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    with pytest.raises(SpecError) as caught:
        adopt_quantized(path, expected or manifest())
    assert str(caught.value).isprintable()
    for part in parts:
        assert part in str(caught.value)


def test_the_imported_graph_gives_bitwise_the_same_results(path, quantized):
    adopted = adopt_quantized(path, manifest())
    expected = run(quantized, patches(4))
    assert 0.2 < expected.max() < 0.99
    assert np.array_equal(run(adopted, patches(4)), expected)


def test_microsofts_operators_are_accepted_without_their_import(path, quantized):
    """ONNX Runtime also accepts such a file."""
    model = onnx.load_model_from_string(quantized)
    kept = [opset for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    path.write_bytes(model.SerializeToString())
    assert np.array_equal(run(adopt_quantized(path, manifest()), patches(1)), run(quantized, patches(1)))


def test_it_is_read_as_an_exported_file_with_its_manifest(path, tmp_path):
    imported = tmp_path / "imported.onnx"
    imported.write_bytes(adopt_quantized(path, manifest()))
    file = read_model(imported)
    assert file.manifest.to_json() == manifest().to_json()
    assert (file.info.precision, file.info.views, file.info.batch.max) == ("int8", "none", 1)


def test_it_can_be_loaded_and_classifies_in_bgr(path, tmp_path, quantized):
    imported = tmp_path / "imported.onnx"
    imported.write_bytes(adopt_quantized(path, manifest()))
    net = load(imported, device="cpu", backend="onnxruntime", views="center")
    square = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    mean = np.array([103.939, 116.779, 123.68], np.float32)
    bgr = (square[:, :, ::-1].astype(np.float32) - mean).transpose(2, 0, 1)
    assert np.array_equal(net.probabilities([square]), run(quantized, bgr[None]))


def test_a_float_graph_is_refused(path):
    refused(path, zoo_graph(), "is not quantized")


def test_a_different_patch_or_number_of_classes_is_refused(path, quantized):
    refused(path, quantized, "its input has shape [1, 3, 224, 224]", expected=manifest(patch=227))
    assert input_side(path) == 224
    refused(path, quantized, "its output has shape [1, 10]: expected [1, 9], of floats", expected=manifest(classes=9))
    refused(path, quantized, "expected [1, 11], of floats", expected=manifest(classes=11))


@pytest.mark.parametrize("domain", ["evil", "com.example"])
def test_operators_of_unknown_domains_are_refused(path, quantized, domain):
    model = onnx.load_model_from_string(quantized)
    model.graph.node[3].domain = domain
    refused(path, model, f"of '{domain}'")


def test_functions_subgraphs_and_external_weights_are_refused(path, quantized):
    model = onnx.load_model_from_string(quantized)
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    refused(path, model, "has weights outside the file")
    model = onnx.load_model_from_string(quantized)
    model.functions.append(onnx.FunctionProto(name="f", domain="com.microsoft"))
    refused(path, model, "defines the functions ['f']")
    model = onnx.load_model_from_string(quantized)
    model.graph.node[0].attribute.append(helper.make_attribute("body", helper.make_graph([], "g", [], [])))
    refused(path, model)


def test_an_external_constant_is_refused(path, quantized):
    model = onnx.load_model_from_string(quantized)
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.bin")
    (path.parent / "w.bin").write_bytes(bytes(4))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["unused"], value=tensor))
    refused(path, model, "has weights outside the file")


def test_a_net_that_differs_from_the_manifests_is_refused(path, quantized):
    caffenet = structs.replace(
        manifest(), architecture=replace(variant("caffenet"), hidden=32, classes=10, patch=224).build()
    )
    refused(path, quantized, "lrn size=5", "expected maxpool size=3 stride=2, pool1 of caffenet", expected=caffenet)
    changes = [
        ("LRN", "alpha", 0.5, "alpha=0.1"),
        ("MaxPool", "strides", [3, 3], "stride=3"),
        ("Conv", "pads", [9, 9, 9, 9], "pad=9"),
    ]
    for kind, name, value, message in changes:
        model = onnx.load_model_from_string(quantized)
        node = next(node for node in model.graph.node if node.op_type in (kind, f"QLinear{kind}"))
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])
        refused(path, model, message)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, 1, [1, 3, 224, 224]) for name in "xy"]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:])
    refused(path, helper.make_model(graph), "has 0 operations")


def test_outputs_that_are_not_probabilities_are_refused(path, quantized):
    model = onnx.load_model_from_string(quantized)
    softmax = next(node for node in model.graph.node if "Softmax" in node.op_type)
    softmax.op_type = softmax.op_type.replace("Softmax", "Sigmoid")
    refused(path, model, "expected a Softmax")


def test_a_file_cut_anywhere_is_refused(path, quantized):
    for cut in (0, 1, 100, len(quantized) // 2, len(quantized) - 1):
        refused(path, quantized[:cut])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_damaged_bytes_give_a_file_or_a_one_line_error(quantized, tmp_path_factory, data):
    content = bytearray(quantized)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "net.onnx"
    path.write_bytes(content)
    try:
        adopted = adopt_quantized(path, manifest())
    except SpecError as error:
        message = str(error)
        assert message.isprintable()
    else:
        path.write_bytes(adopted)
        assert read_model(path).info.precision == "int8"
