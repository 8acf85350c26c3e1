"""Quantized ONNX graphs, such as the Model Zoo's int8 and qdq files, as exported files of alexnet-infer.

Converting the weights to float would give a different net. So the graph is kept as it is, and only gets what identifies
an exported file: a manifest, and the standard names for its input and output.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_infer.architecture import Activation, Conv, Dense, MaxPool, Operation
from alexnet_infer.artifact import sha256
from alexnet_infer.errors import SpecError, one_line, shown
from alexnet_infer.graph.check import check_graph
from alexnet_infer.graph.file import tensors_in
from alexnet_infer.graph.info import EXPORT_KEY, Batch, ExportInfo, Member
from alexnet_infer.graph.net import INPUT, OUTPUT
from alexnet_infer.graph.operators import MICROSOFT
from alexnet_infer.graph.wire import import_onnx
from alexnet_infer.importing.comparison import IGNORED, FileOperation, check_operations
from alexnet_infer.importing.onnx_graph import inputs_of, is_quantized, patch_side, read_graph
from alexnet_infer.importing.onnx_nodes import attributes, lrn, whole, window
from alexnet_infer.manifest import METADATA_KEY, Manifest

if TYPE_CHECKING:
    import onnx

_CONVOLUTIONS = ("Conv", "QLinearConv", "ConvInteger")
_PRODUCTS = ("Gemm", "QGemm", "MatMul", "QLinearMatMul", "MatMulInteger")
_IGNORED = (*IGNORED, "kernels", "units")
"""The numbers of kernels and units are unknown if another node computes the weights."""


def input_side(path: Path) -> int:
    """Return the side of the patches that the graph takes. Raises SpecError unless they are squares with 3 channels."""
    inputs = inputs_of(read_graph(path).graph)
    if len(inputs) != 1:
        raise SpecError(f"has {len(inputs)} inputs: expected one")
    return patch_side(inputs[0])


def adopt_quantized(path: Path, manifest: Manifest) -> bytes:
    """Return the graph in `path` as the content of an exported ONNX file. It keeps its batch size, which may be 1.

    Raises SpecError if the graph isn't quantized, needs anything outside its file, doesn't map patches to probabilities
    of the manifest's classes, or is one that `check_graph` refuses. Raises OSError if the file can't be read.
    """
    onnx = import_onnx()
    model = read_graph(path)
    if not is_quantized(model):
        raise SpecError("is not quantized; import it to a .safetensors file")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors_in(model)):
        raise SpecError("has weights outside the file: expected all of them in the file")
    check_operations(_operations(model), manifest.architecture, skipped=Activation, ignored=_IGNORED)
    _check_gives_probabilities(model)
    inputs = inputs_of(model.graph)
    del model.graph.input[:]
    model.graph.input.extend(inputs)  # a caller could override weights among the inputs
    model.ir_version = max(model.ir_version, 4)  # since version 4, weights need not be inputs
    batch = _check_ends(model, manifest)
    _rename(model, model.graph.input[0].name, INPUT)
    _rename(model, model.graph.output[0].name, OUTPUT)
    info = ExportInfo(
        members=(Member(name=manifest.name, sha256=sha256(path)),), precision="int8", int8_for="cpu", batch=batch
    )
    if any(node.domain == MICROSOFT for node in model.graph.node) and all(
        opset.domain != MICROSOFT for opset in model.opset_import
    ):
        # ONNX Runtime doesn't need this import, but other runtimes do.
        model.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    check_graph(model, info)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {METADATA_KEY: manifest.to_json(), EXPORT_KEY: info.to_json()})
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker's own error, or others on hostile graphs
        raise SpecError(f"is not a valid graph ({one_line(error)})") from None
    return model.SerializeToString()


def _operations(model: onnx.ModelProto) -> list[FileOperation]:
    """The operations of the nodes, in the order of the graph.

    Nodes that quantizers insert are left out. So are ReLUs, which quantizers merge into the preceding layer.
    """
    operations = []
    for node in model.graph.node:
        name, get = shown(node.name or node.op_type), attributes(node)
        operation: Operation
        if node.op_type in _CONVOLUTIONS:
            size, stride, pad = window(name, get)
            groups = whole(name, get, "group", 1)
            operation = Conv(name=name, kernels=0, size=size, stride=stride, pad=pad, groups=groups)
        elif node.op_type == "MaxPool":
            size, stride, _ = window(name, {**get, "pads": [0, 0, 0, 0]})
            operation = MaxPool(name=name, size=size, stride=stride)
        elif node.op_type == "LRN":
            operation = lrn(name, get)
        elif node.op_type in _PRODUCTS:
            operation = Dense(name=name, units=0)
        else:
            continue
        operations.append(FileOperation(node=name, operation=operation))
    return operations


def _check_gives_probabilities(model: onnx.ModelProto) -> None:
    """Raise SpecError unless a softmax computes the output. Only quantization nodes may follow it."""
    makers = {name: node for node in model.graph.node for name in node.output}
    last = makers.get(model.graph.output[0].name) if model.graph.output else None
    for rounding in ("DequantizeLinear", "QuantizeLinear"):
        if last is not None and last.op_type == rounding and last.input:
            last = makers.get(last.input[0])
    if last is None or last.op_type not in ("Softmax", "QLinearSoftmax"):
        raise SpecError(
            f"ends in {shown(last.op_type if last else 'nothing')}: expected a Softmax, which gives probabilities"
        )


def _check_ends(model: onnx.ModelProto, manifest: Manifest) -> Batch:
    """Return the batch that the graph takes. Raises SpecError if its input or output doesn't fit the manifest."""
    from onnx import TensorProto

    side, batches = manifest.preprocessing.patch, []
    for end, values, wanted in (
        ("input", model.graph.input, [3, side, side]),
        ("output", model.graph.output, [len(manifest.classes)]),
    ):
        if len(values) != 1:
            raise SpecError(f"has {len(values)} {end}s: expected one")
        tensor = values[0].type.tensor_type
        batch, *sides = [dimension.dim_value for dimension in tensor.shape.dim] or [0]
        if tensor.elem_type != TensorProto.FLOAT or sides != wanted:
            raise SpecError(
                f"its {end} has shape {shown([batch, *sides])}: expected {[batch or 'N', *wanted]}, of floats"
            )
        batches.append(batch)
    if batches[0] != batches[1] or not 0 <= batches[0] <= 1024:
        raise SpecError(
            f"has batches of {batches[0]} at the input and {batches[1]} at the output: expected the same, up to 1024"
        )
    return Batch(min=batches[0], opt=batches[0], max=batches[0]) if batches[0] else Batch()


def _rename(model: onnx.ModelProto, old: str, new: str) -> None:
    if old == new:
        return
    graph = model.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | {t.name for t in graph.initializer}
    if new in taken:
        raise SpecError(f"uses the name {shown(new)} inside the graph: expected it to be free for the input or output")
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.name == old:
            value.name = new
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
