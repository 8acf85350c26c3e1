"""The Model Zoo's graph and PyTorch's exports, run by ONNX Runtime, compared with the nets imported from them."""

from __future__ import annotations

import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from alexnet_infer.architecture import MaxPool
from alexnet_infer.artifact import Artifact
from alexnet_infer.backends.onnxruntime import OnnxRuntimeBackend
from alexnet_infer.errors import SpecError
from alexnet_infer.importing.onnx_graph import read_onnx
from alexnet_infer.manifest import ClassName, Manifest, Provenance
from alexnet_infer.preprocess import Preprocessing
from alexnet_infer.presets import variant
from tests.importing.zoo import patches, run, zoo_graph

PRESETS = {name: replace(variant(name), hidden=32, classes=10).build() for name in ("caffe", "caffenet")}


@pytest.fixture(scope="module")
def zoo() -> onnx.ModelProto:
    return zoo_graph()


@pytest.fixture
def graph(zoo) -> onnx.ModelProto:
    """A copy of the zoo's graph to change."""
    copy = onnx.ModelProto()
    copy.CopyFrom(zoo)
    return copy


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "net.onnx"


def written(path: Path, model: onnx.ModelProto | bytes) -> Path:
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def refused(path: Path, model: onnx.ModelProto | bytes, *parts: str, preset: str = "caffe") -> None:
    with pytest.raises(SpecError) as caught:
        read_onnx(written(path, model), PRESETS[preset])
    message = str(caught.value)
    assert message.isprintable()
    for text in parts:
        assert text in message, message


def probabilities(architecture, tensors, inputs: np.ndarray) -> np.ndarray:
    manifest = Manifest(
        name="imported",
        architecture=architecture,
        preprocessing=Preprocessing(size=256, patch=architecture.patch, mean=np.zeros(3)),
        classes=tuple(ClassName(wnid=f"n{i:08}", name=f"class {i}") for i in range(architecture.classes)),
        provenance=Provenance(data="none", recipe={}, seed=None, date=None, software="tests"),
    )
    return OnnxRuntimeBackend(Artifact(manifest, tensors), "cpu").infer(inputs)


@pytest.mark.parametrize("pool_first", [False, True])
def test_the_zoos_graph_and_the_imported_net_agree(path, pool_first):
    model = zoo_graph(pool_first=pool_first)
    expected = run(model, patches(3))
    assert 0.2 < expected.max() < 0.99
    architecture, tensors = read_onnx(written(path, model), PRESETS["caffenet" if pool_first else "caffe"])
    assert architecture.patch == 224
    assert [o.ceil for o in architecture.operations if isinstance(o, MaxPool)] == [False, False, True]
    np.testing.assert_allclose(probabilities(architecture, tensors, patches(3)), expected, rtol=0, atol=1e-5)


def test_weights_are_read_by_role_whatever_their_names(graph, path):
    values = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    for tensor in graph.graph.initializer:  # meaningless names in another order
        rename(graph, tensor.name, f"x{hash(tensor.name) % 1000}_{len(tensor.name)}_{tensor.name[::-1]}")
    initial = sorted(graph.graph.initializer, key=lambda t: t.name)
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(initial)
    _, tensors = read_onnx(written(path, graph), PRESETS["caffe"])
    assert len(tensors) == 16
    for name, tensor in tensors.items():
        layer, part = name.split(".")
        assert np.array_equal(tensor, values[f"{layer}_{'w' if part == 'weight' else 'b'}_0"])


def rename(model: onnx.ModelProto, old: str, new: str) -> None:
    for value in (*model.graph.initializer, *model.graph.input):
        if value.name == old:
            value.name = new
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_weights_of_other_precision_become_float32(graph, path, dtype):
    for i, tensor in enumerate(graph.graph.initializer):
        if tensor.name.endswith("_w_0"):
            values = numpy_helper.to_array(tensor).astype(dtype)
            graph.graph.initializer[i].CopyFrom(numpy_helper.from_array(values, tensor.name))
    _, tensors = read_onnx(written(path, graph), PRESETS["caffe"])
    assert {t.dtype for t in tensors.values()} == {np.dtype(np.float32)}


def test_a_reshape_before_opset_5_has_its_shape_as_an_attribute(zoo, graph, path):
    node = node_of(graph, "Reshape")
    kept = [t for t in graph.graph.initializer if t.name != node.input[1]]
    declared = [v for v in graph.graph.input if v.name != node.input[1]]
    del node.input[1], graph.graph.initializer[:], graph.graph.input[:]
    graph.graph.initializer.extend(kept)
    graph.graph.input.extend(declared)
    set_attribute(node, "shape", [1, 9216])
    graph.opset_import[0].version = 3
    tensors = read_onnx(written(path, graph), PRESETS["caffe"])[1]
    expected = read_onnx(written(path, zoo), PRESETS["caffe"])[1]
    assert all(np.array_equal(tensors[name], expected[name]) for name in expected)


def test_the_window_size_may_follow_from_the_weights(zoo, graph, path):
    node = node_of(graph, "Conv")
    kept = [a for a in node.attribute if a.name != "kernel_shape"]
    del node.attribute[:]
    node.attribute.extend(kept)
    assert read_onnx(written(path, graph), PRESETS["caffe"])[0] == read_onnx(written(path, zoo), PRESETS["caffe"])[0]


def test_matmul_and_add_are_read_as_a_fully_connected_layer(graph, path):
    expected = run(graph, patches(1))
    nodes = []
    for node in graph.graph.node:
        if node.op_type != "Gemm":
            nodes.append(node)
            continue
        name, weights, biases = node.input
        for i, tensor in enumerate(graph.graph.initializer):
            if tensor.name == weights:
                turned = numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(tensor).T), weights)
                graph.graph.initializer[i].CopyFrom(turned)
        nodes.append(helper.make_node("MatMul", [name, weights], [f"{node.output[0]}_m"]))
        nodes.append(helper.make_node("Add", [biases, f"{node.output[0]}_m"], [node.output[0]]))
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    # The declared shapes of the weights are now wrong.
    kept = [v for v in graph.graph.input if not v.name.endswith("_w_0")]
    del graph.graph.input[:]
    graph.graph.input.extend(kept)
    architecture, tensors = read_onnx(written(path, graph), PRESETS["caffe"])
    np.testing.assert_allclose(probabilities(architecture, tensors, patches(1)), expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fold", [True, False])
def test_pytorchs_export_of_torchvisions_net_agrees(path, fold):
    torch = pytest.importorskip("torch")
    from tests.importing.torchvision_net import AlexNet

    torch.manual_seed(0)
    net = AlexNet(classes=10, hidden=32).eval()
    x = torch.from_numpy(patches(2) / 60)
    torch.onnx.export(net, (x[:1],), path, dynamo=False, do_constant_folding=fold, opset_version=17)
    preset = replace(variant("owt"), hidden=32, classes=10).build()
    architecture, tensors = read_onnx(path, preset)
    assert architecture == preset
    with torch.no_grad():
        expected = net(x).softmax(1).numpy()
    np.testing.assert_allclose(probabilities(architecture, tensors, patches(2) / 60), expected, rtol=0, atol=1e-5)


# Refused graphs.


def node_of(model: onnx.ModelProto, kind: str, place: int = 0) -> onnx.NodeProto:
    return [node for node in model.graph.node if node.op_type == kind][place]


def set_attribute(node: onnx.NodeProto, name: str, value) -> None:
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def test_another_width_is_refused_without_naming_a_preset(path):
    refused(path, zoo_graph(hidden=64), "units=64: expected dense units=32, fc6 of caffe; no preset describes this net")


def test_a_graph_of_another_preset_is_refused_with_that_preset(path):
    refused(path, zoo_graph(), "import it with --as caffe", preset="caffenet")
    refused(path, zoo_graph(pool_first=True), "import it with --as caffenet", preset="caffe")


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        ("LRN", "alpha", 2e-4, "alpha=4e-05"),
        ("LRN", "bias", 2.0, "k=2"),
        ("LRN", "beta", 0.5, "beta=0.5"),
        ("LRN", "size", 3, "size=3"),
        ("LRN", "size", 0, "size=0: expected a whole number"),
        ("LRN", "alpha", float("nan"), "alpha=nan: expected a number"),
        ("Conv", "strides", [2, 2], "stride=2 pad=0 groups=1: expected conv kernels=96 size=11 stride=4"),
        ("Conv", "strides", [4, 2], "strides=[4, 2]: expected a square window"),
        ("Conv", "strides", [0, 0], "strides=[0, 0]"),
        ("Conv", "pads", [0, 0, 1, 1], "pads=[0, 0, 1, 1]"),
        ("Conv", "pads", [-1, -1, -1, -1], "pads=[-1, -1, -1, -1]"),
        ("Conv", "group", 3, "groups=3"),
        ("Conv", "group", 0, "group=0"),
        ("Conv", "dilations", [2, 2], "no dilation"),
        ("Conv", "auto_pad", "SAME_UPPER", "expected pads alone"),
        ("MaxPool", "auto_pad", "SAME_LOWER", "expected pads alone"),
        ("Gemm", "transB", "1", "transB 0 or 1"),
        ("MaxPool", "kernel_shape", [2, 2], "size=2"),
        ("MaxPool", "pads", [1, 1, 1, 1], "0 at the upper left"),
        ("MaxPool", "pads", [0, 0, 3, 3], "padding without effect, or that of ceil_mode=1"),
        ("MaxPool", "strides", [0, 0], "strides=[0, 0]"),
        ("Gemm", "alpha", 2.0, "Gemm with alpha 1"),
        ("Gemm", "transB", 0, "units=9216"),
        ("Softmax", "axis", 0, "'Softmax' in this form is not supported"),
    ],
)  # fmt: skip
def test_a_different_constant_is_refused_with_its_name(graph, path, kind, name, value, message):
    set_attribute(node_of(graph, kind), name, value)
    refused(path, graph, message)


@pytest.mark.parametrize("classes", [9, 11])
def test_a_different_number_of_outputs_is_refused(path, classes):
    refused(path, zoo_graph(classes=classes), f"units={classes}", "units=10", "fc8")


def test_a_node_of_another_kind_is_refused(graph, path):
    node_of(graph, "Relu").op_type = "Sigmoid"
    refused(path, graph, "'Sigmoid' in this form is not supported")


def test_a_node_of_an_unknown_domain_is_refused(graph, path):
    node_of(graph, "LRN").domain = "evil"
    refused(path, graph, "'evil': expected ONNX's own operators")


def test_branches_cycles_and_unconnected_nodes_are_refused(zoo, graph, path):
    node_of(graph, "Conv", 2).input[0] = "r3"  # conv3 reads the input of conv2
    refused(path, graph, "'r3' goes to 2 nodes")
    graph.CopyFrom(zoo)
    node_of(graph, "Dropout", 1).output[0] = "r18"
    refused(path, graph)
    graph.CopyFrom(zoo)
    graph.graph.node.append(helper.make_node("Relu", ["nowhere"], ["never"]))
    refused(path, graph, "between its input and output")
    graph.CopyFrom(zoo)
    node_of(graph, "Relu").input[0] = "r1"  # its own output
    refused(path, graph)


def test_a_missing_node_is_refused(graph, path):
    norm = node_of(graph, "LRN")
    node_of(graph, "MaxPool").input[0] = norm.input[0]
    graph.graph.node.remove(norm)
    refused(path, graph, "maxpool", "expected lrn")


def test_missing_weights_are_refused(graph, path):
    kept = [t for t in graph.graph.initializer if t.name != "conv3_b_0"]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)
    refused(path, graph, "2 inputs")
    declared = [v for v in graph.graph.input if v.name != "conv3_b_0"]
    del graph.graph.input[:]
    graph.graph.input.extend(declared)
    refused(path, graph, "'conv3_b_0' is not in the file")


def test_a_tensor_that_no_node_uses_is_refused(graph, path):
    graph.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "conv6_w_0"))
    refused(path, graph, "weights that no node uses: conv6_w_0")


def test_a_name_that_is_not_text_is_shown_safely(graph, path):
    graph.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "conv6_w_0"))
    refused(path, graph.SerializeToString().replace(b"conv6_w_0", b"\xff\xfe\nv6_w_0"), "that no node uses", "6_w_0")


def test_a_constant_without_outputs_is_ignored(zoo, graph, path):
    graph.graph.node.append(helper.make_node("Constant", [], [], value=numpy_helper.from_array(np.ones(3))))
    tensors = read_onnx(written(path, graph), PRESETS["caffe"])[1]
    expected = read_onnx(written(path, zoo), PRESETS["caffe"])[1]
    assert all(np.array_equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.parametrize("shape", [np.int64(-1), np.ones((2, 2), np.int64), np.full(10**6, -1, np.int64)])
def test_a_reshape_with_an_invalid_shape_tensor_is_refused(graph, path, shape):
    node = node_of(graph, "Reshape")
    tensor = next(t for t in graph.graph.initializer if t.name == node.input[1])
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(shape), tensor.name))
    refused(path, graph, "expected an INT64 vector of up to 8 values")


@pytest.mark.parametrize("side", [-1, 0, 9, 2**62])
def test_a_shape_tensor_of_any_length_is_not_read(graph, path, side):
    """NumPy takes a side of -1 for as many values as there are."""
    node = node_of(graph, "Reshape")
    tensor = next(t for t in graph.graph.initializer if t.name == node.input[1])
    tensor.dims[:] = [side]
    tensor.raw_data = bytes(8_000_000)
    refused(path, graph, "expected an INT64 vector of up to 8 values")


@pytest.mark.parametrize(("pads", "how"), [([0, 0, 1, 1], {"ceil_mode": 1}), ([0, 0, 1, 1], {"auto_pad": "VALID"})])
@pytest.mark.parametrize("place", [0, 1])
def test_a_pooling_with_a_larger_output_than_the_presets_is_refused(graph, path, place, pads, how):
    """ONNX Runtime adds the padding and then rounds up. It ignores `pads` if `auto_pad` is VALID."""
    for dim in graph.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = 227
    for name, value in {"pads": pads, **how}.items():
        set_attribute(node_of(graph, "MaxPool", place), name, value)
    refused(path, graph, "pads=[0, 0, 1, 1]")


def test_a_tensor_in_thousands_of_nodes_is_not_read_thousands_of_times(graph, path):
    weights = numpy_helper.from_array(np.ones((512, 512), np.float32), "w")
    biases = numpy_helper.from_array(np.ones(512, np.float32), "b")
    nodes = [helper.make_node("Gemm", [f"v{i}", "w", "b"], [f"v{i + 1}"]) for i in range(2000)]
    head = helper.make_node("Reshape", ["data_0", "OC2_DUMMY_1"], ["v0"])
    sides = numpy_helper.from_array(np.array([1, -1]), "OC2_DUMMY_1")
    output = helper.make_tensor_value_info("v2000", TensorProto.FLOAT, [1, 512])
    inputs = [graph.graph.input[0]]
    model = helper.make_model(helper.make_graph([head, *nodes], "x", inputs, [output], [weights, biases, sides]))
    tracemalloc.start()
    try:
        refused(path, model, "dense units=512: expected conv")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50e6  # 2,000 copies would take 2 GB


def test_inputs_and_outputs_of_other_kinds_are_refused(zoo, graph, path):
    graph.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    refused(path, graph, "takes [1, 1, 224, 224]: expected [N, 3, side, side]")
    graph.CopyFrom(zoo)
    graph.graph.output.append(helper.make_tensor_value_info("r24", TensorProto.FLOAT, [1, 10]))
    refused(path, graph, "2 outputs")
    refused(path, onnx.ModelProto(), "no graph")


@pytest.mark.parametrize("side", [1, 10, 100, 4097, 10**6])
def test_other_patch_sizes_are_refused(graph, path, side):
    for dim in graph.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = side
    refused(path, graph)


@pytest.mark.parametrize("sides", [[2**62], [2**31, 2**31], [-96], [95], [96, 1], []])
def test_a_shape_that_does_not_match_its_values_is_refused(graph, path, sides):
    tensor = next(t for t in graph.graph.initializer if t.name == "conv1_b_0")
    del tensor.dims[:]
    tensor.dims.extend(sides)
    refused(path, graph, "conv1")


@pytest.mark.parametrize("kind", [TensorProto.INT32, TensorProto.STRING, TensorProto.BFLOAT16, 0, 999])
def test_weights_of_another_type_are_refused(graph, path, kind):
    next(t for t in graph.graph.initializer if t.name == "conv1_b_0").data_type = kind
    refused(path, graph, "'conv1_b_0' has type", "expected FLOAT, FLOAT16 or DOUBLE")


# Weights outside the file.


def outside(model: onnx.ModelProto, path: Path, location: str, name: str = "conv1_w_0") -> None:
    """Move a tensor's values to `weights.bin` beside `path`, and make the file refer to `location`."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    (path.parent / "weights.bin").write_bytes(b"1234" + tensor.raw_data)
    length = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", 4), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def test_weights_beside_the_file_are_read(zoo, graph, path):
    outside(graph, path, "weights.bin")
    _, tensors = read_onnx(written(path, graph), PRESETS["caffe"])
    inside = next(t for t in zoo.graph.initializer if t.name == "conv1_w_0")
    assert np.array_equal(tensors["conv1.weight"], numpy_helper.to_array(inside))


@pytest.mark.parametrize(
    "location", ["/etc/hostname", "../weights.bin", "sub/weights.bin", "..", "", "gone.bin", "a\nb"]
)
def test_weights_anywhere_else_are_refused(graph, path, location):
    outside(graph, path, location)
    refused(path, graph)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_weights_behind_a_link_are_refused(graph, path, link):
    outside(graph, path, "link.bin")
    link(path.parent / "weights.bin", path.parent / "link.bin")
    refused(path, graph, "link.bin is a link")


def test_weights_beyond_the_end_of_their_file_are_refused(graph, path):
    outside(graph, path, "weights.bin")
    os.truncate(path.parent / "weights.bin", 1000)
    refused(path, graph, "is outside of it")


@pytest.mark.parametrize(("place", "side"), [(1, 2**40), (1, 4), (1, 0), (1, -3), (0, 2**62)])
def test_weights_whose_length_does_not_match_their_shape_are_refused(graph, path, place, side):
    outside(graph, path, "weights.bin")
    tensor = next(t for t in graph.graph.initializer if t.name == "conv1_w_0")
    tensor.dims[place] = side
    refused(path, graph, "conv1_w_0" if place else "kernels=")


@pytest.mark.parametrize("sides", [[1] * 69 + [96], [0, 2**62]])
def test_biases_outside_the_file_with_an_absurd_shape_are_refused(graph, path, sides):
    outside(graph, path, "weights.bin", "conv1_b_0")
    tensor = next(t for t in graph.graph.initializer if t.name == "conv1_b_0")
    del tensor.dims[:]
    tensor.dims.extend(sides)
    refused(path, graph, "conv1_b_0")


# Damage.


def test_a_file_cut_anywhere_is_refused(zoo, path):
    content = zoo.SerializeToString()
    for cut in (0, 1, 2, 16, 1000, len(content) // 2, len(content) - 1):
        refused(path, content[:cut])


def test_a_file_that_is_not_onnx_is_refused(path):
    for content in (b"<!DOCTYPE html><html>", b"PK\x03\x04" + b"\0" * 100, b"\x89PNG\r\n", bytes(range(256))):
        refused(path, content)


def test_a_file_too_large_for_a_message_is_refused_without_reading_it(path):
    with path.open("wb") as file:
        file.truncate(2**31)  # sparse: takes no room
    with pytest.raises(SpecError, match="less than 2 GB"):
        read_onnx(path, PRESETS["caffe"])


@pytest.fixture(scope="module")
def skeleton() -> bytes:
    """The graph without the bytes of its weights: only its structure."""
    model = zoo_graph(hidden=1, classes=2)
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1:
            tensor.ClearField("raw_data")
    return model.SerializeToString()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_give_a_net_or_a_one_line_error(skeleton, tmp_path_factory, data):
    content = bytearray(skeleton)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "net.onnx"
    with pytest.raises(SpecError) as caught:
        read_onnx(written(path, bytes(content)), PRESETS["caffe"])
    assert str(caught.value).isprintable()
