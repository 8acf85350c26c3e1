"""Graphs that would take all memory, run forever or read other files are refused; every form of an export is not."""

from __future__ import annotations

import functools
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

from alexnet_infer.architecture import Architecture
from alexnet_infer.errors import ModelFileError, SpecError
from alexnet_infer.export.quantize import QuantizationOptions, quantize
from alexnet_infer.graph.check import MAX_INPUTS, MAX_NODES, _Graph, check_graph
from alexnet_infer.graph.file import read_model
from alexnet_infer.graph.info import Batch, ExportInfo, LRNForm, Member
from alexnet_infer.graph.model import build_model
from alexnet_infer.graph.net import lrn_function
from alexnet_infer.graph.operators import ANY, ITEM_BYTES
from tests.nets import TINY, random_artifact

MEMBER = Member(name="a", sha256="0" * 64)
VARIANTS = {
    "paper": TINY,
    "one column": replace(TINY, columns=1),
    "tanh": replace(TINY, activation="tanh"),
    "batch norm": replace(TINY, normalization="batchnorm"),
    "nothing": replace(TINY, normalization="none"),
    "pool first": replace(TINY, pool_first=True),
}
artifact = functools.cache(random_artifact)


def info(nets: int = 1, **options: object) -> ExportInfo:
    return ExportInfo(members=(MEMBER,) * nets, **options)


def values_of(model: onnx.ModelProto, what: ExportInfo) -> dict[str, tuple[int, tuple[int, ...]]]:
    """The type and the shape of every value, as the check computes them."""
    graph = _Graph(model.graph, what)
    for node in model.graph.node:
        graph.add(node)
    return {name: (value.kind, value.shape) for name, value in graph.values.items()}


def inferred(model: onnx.ModelProto) -> dict[str, tuple[int, tuple[int, ...]]]:
    """The same, as ONNX infers them for a known batch."""
    result = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    values = {value.name: value.type.tensor_type for value in (*result.graph.value_info, *result.graph.output)}
    return {name: (t.elem_type, tuple(side.dim_value for side in t.shape.dim)) for name, t in values.items()}


@pytest.mark.parametrize("views", ["none", "center", "ten"])
@pytest.mark.parametrize("lrn", ["op", "conv", "plugin"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_form_of_an_export_is_accepted_and_has_the_shapes_that_onnx_infers(views, lrn, precision):
    for variant in VARIANTS.values():
        options = {"views": views, "lrn": lrn, "precision": precision}
        any_batch = build_model([artifact(variant)], info(**options))
        check_graph(any_batch, info(**options))
        fixed = info(**options, batch=Batch.parse("3"))
        model = build_model([artifact(variant)], fixed)
        check_graph(model, fixed)
        actual, expected = values_of(model, fixed), inferred(model)
        assert len(expected) > 15
        assert {name: actual[name] for name in expected} == expected
        free = values_of(any_batch, info(**options))
        growing = {name: shape for name, (_, shape) in free.items() if any(side % ANY == 0 for side in shape)}
        assert growing.keys() >= {name for name in expected if name in growing}
        for name, shape in growing.items():
            assert actual[name][1] == tuple(side // ANY * 3 if side % ANY == 0 else side for side in shape)


def test_nets_in_one_file_are_accepted():
    for views in ("none", "ten"):
        what = info(nets=3, views=views)
        check_graph(build_model([artifact(TINY)] * 3, what), what)


@pytest.mark.parametrize("int8_for", ["cpu", "tensorrt"])
@pytest.mark.parametrize("views", ["none", "ten"])
def test_8_bit_exports_are_accepted_and_have_the_shapes_that_onnx_infers(int8_for, views):
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")
    what = info(views=views, precision="int8", int8_for=int8_for, lrn="conv", batch=Batch.parse("3"))
    inputs = np.zeros((1, 64, 64, 3), np.uint8) if views == "ten" else np.ones((1, 3, 57, 57), np.float32)
    options = QuantizationOptions(method="minmax", int8_for=int8_for)
    model = quantize(build_model([artifact(TINY)], what), [inputs], options)
    check_graph(model, what)
    actual, expected = values_of(model, what), inferred(model)
    assert {name: actual[name] for name in expected} == expected


def test_the_papers_nets_are_below_the_limits():
    """Seven nets with ten views, and one net with 64 images in every call."""
    net, outside = papers_net(), {}
    for count, batch, lrn in ((7, "1,8,64", "conv"), *((1, "64", form) for form in get_args(LRNForm))):
        what = info(nets=count, views="ten", lrn=lrn, batch=Batch.parse(batch))
        check_graph(build_model([net] * count, what, outside), what)


@functools.cache
def papers_net():
    from alexnet_infer.artifact import Artifact
    from alexnet_infer.presets import variant

    architecture = variant("alexnet").build()
    tensors = {name: np.broadcast_to(np.float32(0), shape) for name, shape in architecture.tensors.items()}
    manifest = replace_manifest(architecture)
    net = object.__new__(Artifact)  # without a copy of the weights
    object.__setattr__(net, "manifest", manifest)
    object.__setattr__(net, "tensors", tensors)
    return net


def replace_manifest(architecture: Architecture):
    from msgspec.structs import replace as with_fields

    from alexnet_infer.manifest import ClassName
    from alexnet_infer.preprocess import Preprocessing

    return with_fields(
        artifact(TINY).manifest,
        architecture=architecture,
        classes=tuple(ClassName(wnid=f"n{i:08}", name="class") for i in range(architecture.classes)),
        preprocessing=Preprocessing(size=256, patch=227, mean=np.array([123, 117, 104])),
    )


Edit = Callable[[onnx.ModelProto], object]


def constant(model: onnx.ModelProto, name: str, values: object, kind: type = np.int64) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.array(values, kind), name))
    return name


def appended(op: str, *constants: object, **attributes: object) -> Edit:
    """Append an operator that reads the softmax, and constants. Floats are float32, whole numbers int64."""

    def edit(model: onnx.ModelProto) -> None:
        model.graph.node[-1].output[0] = "softmax"
        names = [
            constant(model, f"c{i}", value, np.float32 if np.array(value).dtype.kind == "f" else np.int64)
            for i, value in enumerate(constants)
        ]
        domain = str(attributes.pop("domain", ""))
        node = helper.make_node(op, ["softmax", *names], ["probabilities"], domain=domain, **attributes)
        model.graph.node.append(node)
        if domain:
            model.opset_import.append(helper.make_opsetid(domain, 1))

    return edit


def chain(count: int, op: str, more: int = 0) -> Edit:
    """Append `count` operators, one after the other. Each reads the value before it once, and `more` times again."""

    def edit(model: onnx.ModelProto) -> None:
        model.graph.node[-1].output[0] = last = "softmax"
        attributes = {"axis": 1} if op == "Concat" else {}
        for i in range(count):
            name = "probabilities" if i == count - 1 else f"v{i}"
            model.graph.node.append(helper.make_node(op, [last] * (1 + more), [name], **attributes))
            last = name

    return edit


def attribute(op: str, **changes: object) -> Edit:
    """Change attributes of the first node of this type."""

    def edit(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == op)
        kept = [a for a in node.attribute if a.name not in changes]
        del node.attribute[:]
        node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in changes.items())])

    return edit


def weights(edit: Callable[[onnx.TensorProto], object], place: int = 0) -> Edit:
    return lambda model: edit(model.graph.initializer[place])


def with_sides(*wanted: int) -> Edit:
    def edit(tensor: onnx.TensorProto) -> None:
        tensor.ClearField("dims")
        tensor.dims.extend(wanted)

    return weights(edit)


def body() -> onnx.GraphProto:
    ends = [helper.make_tensor_value_info(name, kind, []) for name, kind in (("i", 7), ("c", 9), ("x", 1))]
    nodes = [helper.make_node("Identity", [a], [b]) for a, b in (("c", "d"), ("x", "y"))]
    outs = [helper.make_tensor_value_info(name, kind, []) for name, kind in (("d", 9), ("y", 1))]
    return helper.make_graph(nodes, "body", ends, outs)


def loop(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = "softmax"
    constant(model, "times", 2**62)
    constant(model, "condition", True, np.bool_)
    node = helper.make_node("Loop", ["times", "condition", "softmax"], ["probabilities"], body=body())
    model.graph.node.append(node)


def outer_sum(model: onnx.ModelProto) -> None:
    """[1, 1] + [1e5, 1] + [1, 1e5]: two small constants make 40 GB."""
    model.graph.node[-1].output[0] = "softmax"
    row, column = (
        constant(model, name, np.zeros(shape), np.float32) for name, shape in (("r", (1, 10**5)), ("c", (10**5, 1)))
    )
    model.graph.node.append(helper.make_node("Add", [row, column], ["sum"]))
    model.graph.node.append(helper.make_node("Identity", ["softmax"], ["probabilities"]))


def batch_by_batch(model: onnx.ModelProto) -> None:
    """[N, 1] + [1, N], which grows with the square of the batch."""
    model.graph.node[-1].output[0] = "softmax"
    constant(model, "first", [0])
    model.graph.node.append(helper.make_node("Gather", ["softmax", "first"], ["column"], axis=1))
    model.graph.node.append(helper.make_node("Transpose", ["column"], ["row"], perm=[1, 0]))
    model.graph.node.append(helper.make_node("Add", ["column", "row"], ["square"]))
    model.graph.node.append(helper.make_node("Identity", ["softmax"], ["probabilities"]))


def many_large_values(model: onnx.ModelProto) -> None:
    """Each value is small enough, but all are alive at the end."""
    names = [f"large{i}" for i in range(40)]
    for name in names:
        kernel = constant(model, f"{name}.w", np.zeros((64, 3, 1, 1)), np.float32)
        model.graph.node.insert(0, helper.make_node("Conv", ["patches", kernel], [name], pads=[100] * 4))
    model.graph.node.append(helper.make_node("Mean", names, ["mean"]))


def large_maps(model: onnx.ModelProto) -> None:
    kernel = constant(model, "k", np.zeros((64, 3, 1, 1)), np.float32)
    model.graph.node.insert(0, helper.make_node("Conv", ["patches", kernel], ["large"], pads=[4096] * 4))


def large_window(model: onnx.ModelProto) -> None:
    window = {"kernel_shape": [4096] * 2, "pads": [4095] * 4}
    model.graph.node.insert(0, helper.make_node("MaxPool", ["patches"], ["large"], **window))


def much_work(model: onnx.ModelProto) -> None:
    """The same weights many times: little to store, hours to compute."""
    kernel = constant(model, "k", np.zeros((3, 3, 55, 55)), np.float32)
    last = "patches"
    for i in range(900):
        model.graph.node.insert(i, helper.make_node("Conv", [last, kernel], [f"w{i}"], pads=[27] * 4))
        last = f"w{i}"


def wide(op: str, count: int, *more: str, **attributes: object) -> Edit:
    """Insert `count` operators, one after the other, on a value with 200 times as many elements as a patch."""

    def edit(model: onnx.ModelProto) -> None:
        constants = {"one": np.ones(1), "many": np.ones((1, 1, 1, 1, 200))}
        for name, values in constants.items():
            constant(model, name, values, np.float32)
        constant(model, "five", [-1, 3, 57, 57, 1])
        for name, value in (("last", [4]), ("back", [-1]), ("far", [-1000])):
            constant(model, name, value)
        nodes = [
            helper.make_node("Reshape", ["patches", "five"], ["r"]),
            helper.make_node("Mul", ["r", "many"], ["w0"]),
        ]
        nodes += [helper.make_node(op, [f"w{i}", *more], [f"w{i + 1}"], **attributes) for i in range(count)]
        for place, node in enumerate(nodes):
            model.graph.node.insert(place, node)

    return edit


def means(model: onnx.ModelProto) -> None:
    """Each mean adds 60 values, which takes as long as 60 operators."""
    wide("Tanh", 1)(model)
    for i in range(5):
        model.graph.node.insert(3 + i, helper.make_node("Mean", [f"w{i + 1}"] * 60, [f"w{i + 2}"]))


def plugins(model: onnx.ModelProto) -> None:
    """OpenVINO gets 17 nodes for each of these."""
    grouped(1)(model)
    for i in range(MAX_NODES // 17):
        node = onnx.NodeProto()
        node.CopyFrom(model.graph.node[i])
        node.input[0], node.output[0] = node.output[0], f"n{i}"
        model.graph.node.insert(i + 1, node)


def versions(*imports: tuple[str, int]) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid(*one) for one in imports)

    return edit


def constants_folded(model: onnx.ModelProto) -> None:
    """A convolution of constants, which runtimes compute while they load the file."""
    image, kernel = (
        constant(model, name, np.zeros(shape), np.float32)
        for name, shape in (("i", (1, 1, 1, 1)), ("k", (99, 1, 1, 1)))
    )
    model.graph.node.insert(0, helper.make_node("Conv", [image, kernel], ["folded"], pads=[4000] * 4))


def cycle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = model.graph.node[-1].input[0]


def reversed_nodes(model: onnx.ModelProto) -> None:
    nodes = [*model.graph.node][::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def renamed(model: onnx.ModelProto) -> None:
    model.graph.node[1].output[0] = model.graph.node[0].output[0]


def function_bomb(model: onnx.ModelProto) -> None:
    """Functions that call the one before them ten times: 10^15 nodes."""
    for i in range(15):
        nodes = [
            helper.make_node(f"f{i}", ["x" if n == 0 else f"v{n - 1}"], [f"v{n}"], domain="bomb") for n in range(10)
        ]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("bomb", 1)]
        model.functions.append(helper.make_function("bomb", f"f{i + 1}", ["x"], ["v9"], nodes, opsets))
    appended("f15", domain="bomb")(model)


def another_definition(model: onnx.ModelProto) -> None:
    """The plugin's node, defined as something else."""
    definition = lrn_function()
    definition.node[0].op_type = "RandomNormal"
    model.functions.append(definition)
    attributes = {"size": 5, "alpha": 1.0, "beta": 0.75, "k": 2.0, "groups": 1}
    model.graph.node.insert(0, helper.make_node("GroupedLRN", ["patches"], ["n"], domain="alexnet_infer", **attributes))
    model.opset_import.append(helper.make_opsetid("alexnet_infer", 1))


def grouped(groups: int, size: int = 5) -> Edit:
    """Zero groups would be a division of whole numbers by zero, which ends the process."""

    def edit(model: onnx.ModelProto) -> None:
        model.functions.append(lrn_function())
        constants = {"size": size, "alpha": 1.0, "beta": 0.75, "k": 2.0, "groups": groups}
        node = helper.make_node("GroupedLRN", ["patches"], ["n"], domain="alexnet_infer", **constants)
        model.graph.node.insert(0, node)
        model.opset_import.append(helper.make_opsetid("alexnet_infer", 1))

    return edit


def sparse(model: onnx.ModelProto) -> None:
    values, places = (
        numpy_helper.from_array(np.zeros(1, np.float32), "s"),
        numpy_helper.from_array(np.zeros(1, np.int64)),
    )
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=places, dims=[2**40]))


def sequence_declared(model: onnx.ModelProto) -> None:
    inner = helper.make_tensor_type_proto(1, [1])
    for _ in range(3):
        inner = helper.make_sequence_type_proto(inner)
    model.graph.value_info.append(helper.make_value_info("conv1", inner))


def declared(name: str, shape: list[int]) -> Edit:
    return lambda model: model.graph.value_info.append(helper.make_tensor_value_info(name, 1, shape))


def reference(model: onnx.ModelProto) -> None:
    attribute = onnx.AttributeProto(name="group", type=2, ref_attr_name="outside")
    model.graph.node[0].attribute.append(attribute)


def twice(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(model.graph.node[0].attribute[0])


def hidden_graph(model: onnx.ModelProto) -> None:
    """A subgraph in an attribute of an operator that is known."""
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    node.attribute.append(helper.make_attribute("body", body()))


def names_of(text: str | bytes) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.node.insert(0, helper.make_node("Unheard", ["patches"], [text], name=text))

    return edit


def second_manifest(model: onnx.ModelProto) -> None:
    model.metadata_props.append(model.metadata_props[0])


UNKNOWN = [
    ("Expand", [2**20, 2**20]), ("ConstantOfShape",), ("Tile", [2**20, 2**20]), ("Range", 0, 2**40),
    ("Resize", 0.0, [1e6, 1e6]), ("Pad", [0, 0, 2**40, 2**40]), ("OneHot", 2**40, [0, 1]), ("Upsample", [1e6, 1e6]),
    ("Shape",), ("Unique",), ("NonZero",), ("CumSum", 0), ("Split",), ("Where", [1.0], [1.0]), ("Compress", [1]),
    ("Constant",), ("StringNormalizer",),
]  # fmt: skip

HOSTILE: dict[str, tuple[Edit, str]] = {
    **{op: (appended(op, *constants), f"'{op}'") for op, *constants in UNKNOWN},
    "Loop": (loop, "operator 'Loop'"),
    "If": (appended("If", then_branch=body(), else_branch=body()), "operator 'If'"),
    "Scan": (appended("Scan", body=body(), num_scan_inputs=1), "operator 'Scan'"),
    "Einsum": (appended("Einsum", equation="ij,ij->ij"), "operator 'Einsum'"),
    "hidden subgraph": (hidden_graph, "its attribute 'body' is unknown"),
    "operator of another domain": (appended("Mine", domain="evil"), "imports operators of"),
    "operator of ONNX Runtime": (appended("Attention", domain="com.microsoft"), "'Attention' of 'com.microsoft'"),
    "known name in another domain": (appended("Relu", domain="com.microsoft"), "'Relu' of 'com.microsoft'"),
    "100,000 nodes": (chain(100_000, "Identity"), "damaged, or not|has 100031 nodes|has 1000"),
    "one node too many": (chain(MAX_NODES, "Identity"), f"nodes: expected at most {MAX_NODES}"),
    "one plugin too many": (plugins, f"nodes: expected at most {MAX_NODES}"),
    "many inputs": (chain(MAX_INPUTS // 60 + 1, "Mean", 59), f"inputs of nodes: expected at most {MAX_INPUTS}"),
    "65 inputs": (chain(1, "Mean", 64), "has 65 inputs: expected 1 to 64"),
    "65 inputs of a Concat": (chain(1, "Concat", 64), "has 65 inputs: expected 1 to 64"),
    "doubling": (chain(50, "Concat", 1), "up to here|sides from 1"),
    "outer sum": (outer_sum, "bytes of constants"),
    "square of the batch": (batch_by_batch, "at most one that grows with the batch"),
    "many large values": (many_large_values, "bytes of values"),
    "much work": (much_work, "multiply-adds"),
    "many powers": (wide("Pow", 80, "one"), "multiply-adds"),
    "many sums": (wide("Add", 160, "one"), "multiply-adds"),
    "many values": (wide("Tanh", 320), "multiply-adds"),
    "means of many values": (means, "multiply-adds"),
    "many softmaxes": (wide("Softmax", 20, axis=1), "multiply-adds"),
    "many reversals": (wide("Slice", 20, "back", "far", "last", "back"), "multiply-adds"),
    "constants folded": (constants_folded, "bytes of constants"),
    "huge Reshape": (appended("Reshape", [2**40, -1]), "is not a shape for"),
    "Reshape of -1 twice": (appended("Reshape", [-1, -1]), "is not a shape for"),
    "Reshape of the lowest number": (appended("Reshape", [-(2**63), 7]), "is not a shape for"),
    "Reshape to the batch": (appended("Reshape", [ANY, 7]), "is not a shape for"),
    "Gather out of range": (appended("Gather", [7], axis=1), "expected places on an axis of 7"),
    "Gather of an axis": (appended("Gather", [0], axis=99), "axis=99"),
    "Slice of step 0": (appended("Slice", [0], [1], [1], [0]), "axis 1 and step 0"),
    "Slice of an axis": (appended("Slice", [0], [1], [99], [1]), "axis 99"),
    "Slice that leaves nothing": (appended("Slice", [5], [1], [1], [1]), "sides from 1"),
    "Slice of the batch": (appended("Slice", [1], [2**62], [0], [1]), "grows with the batch"),
    "Transpose of one axis": (appended("Transpose", perm=[0, 0]), "each axis"),
    "Concat of an axis": (appended("Concat", axis=99), "axis=99"),
    "Softmax of an axis": (appended("Softmax", axis=99), "axis=99"),
    "Flatten of an axis": (appended("Flatten", axis=99), "axis=99"),
    "ReduceMean of axes": (appended("ReduceMean", axes=[99], keepdims=0), "axes="),
    "Cast to text": (appended("Cast", to=8), "to=8"),
    "Div of whole numbers": (appended("Div", [0]), "its input 1 has type 7"),
    "MaxPool of a vector": (appended("MaxPool", kernel_shape=[1]), "its input 0 has type 1 and shape"),
    "large kernel": (attribute("Conv", kernel_shape=[10**9] * 2), "kernel_shape="),
    "dilations": (attribute("Conv", dilations=[10**9] * 2), "dilations="),
    "pads": (attribute("Conv", pads=[10**9] * 4), "pads="),
    "pads within the range": (large_maps, "bytes of values"),
    "negative pads": (attribute("Conv", pads=[-1] * 4), "pads="),
    "too few pads": (attribute("Conv", pads=[0]), "pads="),
    "stride 0": (attribute("Conv", strides=[0, 0]), "strides="),
    "group 0": (attribute("Conv", group=0), "group=0"),
    "group 2^40": (attribute("Conv", group=2**40), "group="),
    "automatic pads": (attribute("Conv", auto_pad="SAME_UPPER"), "auto_pad="),
    "a million strides": (attribute("Conv", strides=[1] * 100_000), "attribute 'strides' is unknown, repeated"),
    "large window": (large_window, "bytes of values|multiply-adds"),
    "transA": (attribute("Gemm", transA=1), "transA=1"),
    "NaN in an attribute": (attribute("Gemm", alpha=float("nan")), "alpha=nan"),
    "attribute of another type": (attribute("Gemm", transB=1.5), "attribute 'transB' is unknown, repeated or of"),
    "unknown attribute": (attribute("Conv", more=1), "attribute 'more'"),
    "attribute twice": (twice, "repeated"),
    "reference to an attribute": (reference, "attribute 'group'"),
    "wide LRN": (attribute("LRN", size=2**31 + 1), "size="),
    "LRN of size 0": (attribute("LRN", size=0), "size=0"),
    "LRN of an even size": (attribute("LRN", size=4), "size=4"),
    "plugin of 0 groups": (grouped(0), "groups=0"),
    "plugin of 2 groups of 3 channels": (grouped(2), "groups that divide 3"),
    "plugin of a wide window": (grouped(1, 2**40 + 1), "size="),
    "plugin without its definition": (lambda m: grouped(1)(m) or m.functions.pop(), "defines the functions"),
    "plugin with another definition": (another_definition, "defines the functions"),
    "definition twice": (lambda m: grouped(1)(m) or m.functions.append(lrn_function()), "defines the functions"),
    "definition without a node": (lambda m: m.functions.append(lrn_function()), "defines the functions"),
    "bomb of functions": (function_bomb, "imports operators of|defines the functions"),
    "huge weights": (with_sides(2**40, 3, 3, 3), "and shape"),
    "weights of 2^64 bytes": (with_sides(2**31 - 1, 2**31 - 1, 4), "GB of weights"),
    "negative side": (with_sides(-1, 3, 3, 3), "and shape"),
    "no weights": (with_sides(0, 3, 3, 3), "and shape"),
    "many sides": (with_sides(*[1] * 9), "and shape"),
    "fewer weights": (weights(lambda t: setattr(t, "raw_data", t.raw_data[:-4])), "bytes of values: expected"),
    "weights twice": (weights(lambda t: t.float_data.extend([1.0])), "expected one place"),
    "no values": (weights(lambda t: t.ClearField("raw_data")), "expected one place"),
    "weights in another field": (weights(lambda t: t.ClearField("raw_data") or t.double_data.append(1)), "one place"),
    "weights of text": (weights(lambda t: setattr(t, "data_type", TensorProto.STRING)), "has type 8"),
    "weights in bfloat16": (weights(lambda t: setattr(t, "data_type", TensorProto.BFLOAT16)), "has type 16"),
    "segment": (weights(lambda t: setattr(t.segment, "begin", 1)), "expected one place"),
    "sparse weights": (sparse, "'sparse_initializer'"),
    "training": (lambda m: m.training_info.add(), "'training_info'"),
    "sequence": (sequence_declared, "'sequence_type'"),
    "declared size": (declared("conv1", [2**31, 16, 55, 55]), "declares 'conv1'"),
    "declared rank": (declared("conv1", [1]), "declares 'conv1'"),
    "cycle": (cycle, "which no node before it computes"),
    "nodes in another order": (reversed_nodes, "which no node before it computes"),
    "output twice": (renamed, "computed twice"),
    "weight twice": (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "computed twice"),
    "weights in place of the input": (weights(lambda t: setattr(t, "name", "patches")), "computed twice"),
    "no name": (lambda m: m.graph.node[-2].output.__setitem__(0, ""), "no name|no node"),
    "long name": (lambda m: m.graph.node[0].output.__setitem__(0, "a" * 100_000), "no name"),
    "control characters": (names_of("\x1b[2J\n\u202e\x9b"), "Unheard"),
    "name that is not text": (lambda m: names_of("zzzz")(m), "Unheard"),
    "no version": (versions(), r"of \[\]: expected version 7 to 25"),
    "version of another domain alone": (versions(("com.microsoft", 1)), "expected version 7 to 25"),
    "version of 10 digits": (versions(("", 10**9)), "expected version 7 to 25"),
    "version of another name of 10 digits": (versions(("ai.onnx", 10**9)), "expected version 7 to 25"),
    "version after the last": (versions(("", 26)), "expected version 7 to 25"),
    "version before broadcasts": (versions(("", 6)), "expected version 7 to 25"),
    "version 0": (versions(("", 0)), "expected version 7 to 25"),
    "negative version": (versions(("", -17)), "expected version 7 to 25"),
    "one domain under two names": (versions(("", 17), ("ai.onnx", 17)), "expected version 7 to 25"),
    "a version twice": (versions(("", 17), ("", 17)), "expected version 7 to 25"),
    "version 2 of Microsoft's": (versions(("", 17), ("com.microsoft", 2)), "expected version 7 to 25"),
    "huge version of the plugin": (
        lambda m: grouped(1)(m) or versions(("", 17), ("alexnet_infer", 10**9))(m),
        "expected version 7 to 25",
    ),
    "no version of the plugin": (lambda m: grouped(1)(m) or versions(("", 17))(m), "expected version 7 to 25"),
    "huge version of the format": (lambda m: setattr(m, "ir_version", 2**40), "of the format: expected 4 to 13"),
    "version 3 of the format": (lambda m: setattr(m, "ir_version", 3), "of the format: expected 4 to 13"),
    "no version of the format": (lambda m: m.ClearField("ir_version"), "of the format: expected 4 to 13"),
    "two manifests": (second_manifest, "twice: expected one manifest"),
}


@pytest.fixture(scope="module")
def content() -> bytes:
    return build_model([artifact(replace(TINY, columns=1))], info()).SerializeToString()


@pytest.fixture(scope="module")
def files(content, tmp_path_factory) -> dict[str, Path]:
    """Every hostile file."""
    folder = tmp_path_factory.mktemp("hostile")
    paths = {}
    for number, (name, (edit, _)) in enumerate(HOSTILE.items()):
        model = onnx.load_model_from_string(content)
        edit(model)
        paths[name] = folder / f"{number}.onnx"
        paths[name].write_bytes(model.SerializeToString().replace(b"zzzz", b"\xff\xfe\x80\x1b"))
    return paths


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_graph_is_refused_at_once_in_one_line(files, capfd, name):
    begin = time.process_time()
    with pytest.raises(ModelFileError, match=HOSTILE[name][1]) as raised:
        read_model(files[name])
    assert time.process_time() - begin < 30
    message = str(raised.value).removeprefix(f"{files[name]}: ")
    assert message.isprintable()
    assert len(message) < 500
    assert raised.value.exit_code == 4
    assert capfd.readouterr() == ("", "")


CHILD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000,) * 2)
from pathlib import Path
from typing import get_args
from alexnet_infer.backends.opening import describe, open_model
from alexnet_infer.errors import ModelFileError
for path in map(Path, sys.argv[1:]):
    for read in (describe, lambda path: open_model(path, backend="openvino"), open_model):
        try:
            read(path)
        except ModelFileError:
            continue
        sys.exit(f"{path} was accepted")
assert not {"onnxruntime", "openvino"} & sys.modules.keys()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_hostile_graphs_are_refused_in_little_memory_before_a_runtime_is_imported(files):
    command = [sys.executable, "-c", CHILD, *map(str, files.values())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_batch_that_takes_too_much_is_refused():
    what = info(views="ten", batch=Batch.parse("20000"))
    model = build_model([artifact(TINY)], what)
    with pytest.raises(SpecError, match=r"for 20000 images.*--batch 1,8,256") as raised:
        check_graph(model, what)
    assert len(str(raised.value)) < 400


def test_a_fixed_batch_of_the_papers_net_may_have_256_images_and_not_2048():
    net, outside = papers_net(), {}
    for images, allowed in ((256, True), (2048, False)):
        what = info(views="ten", batch=Batch.parse(str(images)))
        model = build_model([net], what, outside)
        with nullcontext() if allowed else pytest.raises(SpecError, match="bytes of values at once"):
            check_graph(model, what)


def test_the_input_of_a_fixed_batch_counts_as_memory():
    """A slice of a huge input: what is computed from it is tiny."""
    what = info(batch=Batch.parse("65536"))
    model = build_model([artifact(TINY)], what)
    for name, value in (("from", [0, 0]), ("to", [1, 1]), ("rows", [2, 3])):
        constant(model, name, value)
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("Slice", ["patches", "from", "to", "rows"], ["probabilities"]))
    with pytest.raises(SpecError, match=f"{65536 * 4 * (3 * 57 * 57 + 3):,} bytes of values at once"):
        check_graph(model, what)


def test_types_have_the_sizes_of_numpys():
    for kind, size in ITEM_BYTES.items():
        assert helper.tensor_dtype_to_np_dtype(kind).itemsize == size
