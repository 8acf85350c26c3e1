"""Quantized ONNX graphs, the Model Zoo's int8 and qdq files: they become exported files of ours as they are.

Float weights made of them would be another net. So the graph stays, and gets what ours say of themselves: a manifest,
and our names for its input and output.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_infer.architecture import Activation, Conv, Dense, MaxPool, Operation
from alexnet_infer.artifact import METADATA_KEY, Manifest, sha256
from alexnet_infer.errors import SpecError, one_line, shown
from alexnet_infer.export.info import EXPORT_KEY, Batch, ExportInfo, Member
from alexnet_infer.export.onnx_file import tensors_in
from alexnet_infer.export.onnx_graph import INPUT, OUTPUT
from alexnet_infer.importing.comparison import UNTOLD, Found, check_operations
from alexnet_infer.importing.onnx_graph import inputs_of, is_quantized, patch_side, read_graph
from alexnet_infer.importing.onnx_nodes import attributes, lrn, whole, window

if TYPE_CHECKING:
    import onnx

_CONVOLUTIONS = ("Conv", "QLinearConv", "ConvInteger")
_PRODUCTS = ("Gemm", "QGemm", "MatMul", "QLinearMatMul", "MatMulInteger")
_UNTOLD = (*UNTOLD, "kernels", "units")
"""Weights may come out of another node, and their shapes with them."""

MICROSOFT = "com.microsoft"
DOMAINS = ("", "ai.onnx", MICROSOFT)
"""Whose operators may run: ONNX's, and those that ONNX Runtime brings for quantized graphs."""


def input_side(path: Path) -> int:
    """Side of the patches that the graph takes. Raises SpecError when its input is no square of three channels."""
    inputs = inputs_of(read_graph(path).graph)
    if len(inputs) != 1:
        raise SpecError(f"has {len(inputs)} inputs: expected one")
    return patch_side(inputs[0])


def adopt_quantized(path: Path, manifest: Manifest) -> bytes:
    """The graph in `path` as an ONNX file of ours; it runs one image at a time where it was made so.

    Raises SpecError when it isn't quantized, or isn't a graph from patches to the manifest's classes that needs nothing
    beside it; OSError when it can't be read.
    """
    import onnx

    model = read_graph(path)
    if not is_quantized(model):
        raise SpecError("is not quantized; import it to a name in .safetensors")
    _check_plain(model)
    check_operations(_operations(model), manifest.architecture, but=Activation, untold=_UNTOLD)
    _check_gives_probabilities(model)
    inputs = inputs_of(model.graph)
    del model.graph.input[:]
    model.graph.input.extend(inputs)  # weights among the inputs could be overridden by a caller
    model.ir_version = max(model.ir_version, 4)  # from which they need not be
    batch = _check_ends(model, manifest)
    _rename(model, model.graph.input[0].name, INPUT)
    _rename(model, model.graph.output[0].name, OUTPUT)
    info = ExportInfo(
        members=(Member(name=manifest.name, sha256=sha256(path)),), precision="int8", flavor="cpu", batch=batch
    )
    if any(node.domain == MICROSOFT for node in model.graph.node) and all(
        opset.domain != MICROSOFT for opset in model.opset_import
    ):
        model.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))  # ONNX Runtime needs none, its peers do
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {METADATA_KEY: manifest.to_json(), EXPORT_KEY: info.to_json()})
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker's own error, and others on hostile graphs
        raise SpecError(f"is no valid graph ({one_line(error)})") from None
    return model.SerializeToString()


def _check_plain(model: onnx.ModelProto) -> None:
    """Neither weights beside the file, nor code of others."""
    from onnx import TensorProto

    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in tensors_in(model)):
        raise SpecError("keeps weights beside it: expected all in one file")
    if model.functions:
        raise SpecError(f"has {len(model.functions)} functions of its own: expected none")
    for node in model.graph.node:
        if node.domain not in DOMAINS or any(a.HasField("g") or a.graphs for a in node.attribute):
            raise SpecError(
                f"{shown(node.op_type)} of {shown(node.domain)}: expected ONNX's or ONNX Runtime's operators"
            )


def _operations(model: onnx.ModelProto) -> list[Found]:
    """What the nodes compute, in their order, which is that of the chain: layers and windows, without what quantizers
    put between them, and without ReLUs, which they put into the layer before."""
    found = []
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
        found.append(Found(node=name, operation=operation))
    return found


def _check_gives_probabilities(model: onnx.ModelProto) -> None:
    """Whether a softmax makes the output, or makes it but for a rounding."""
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
    """The batch that the graph takes."""
    from onnx import TensorProto

    side, batches = manifest.preprocessing.patch, []
    for what, values, wanted in (
        ("input", model.graph.input, [3, side, side]),
        ("output", model.graph.output, [len(manifest.classes)]),
    ):
        if len(values) != 1:
            raise SpecError(f"has {len(values)} {what}s: expected one")
        tensor = values[0].type.tensor_type
        batch, *sides = [dimension.dim_value for dimension in tensor.shape.dim] or [0]
        if tensor.elem_type != TensorProto.FLOAT or sides != wanted:
            raise SpecError(
                f"its {what} has shape {shown([batch, *sides])}: expected {[batch or 'N', *wanted]}, of floats"
            )
        batches.append(batch)
    if batches[0] != batches[1] or not 0 <= batches[0] <= 1024:
        raise SpecError(f"takes {batches[0]} images and gives {batches[1]} answers: expected as many")
    return Batch(min=batches[0], opt=batches[0], max=batches[0]) if batches[0] else Batch()


def _rename(model: onnx.ModelProto, old: str, new: str) -> None:
    if old == new:
        return
    graph = model.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | {t.name for t in graph.initializer}
    if new in taken:
        raise SpecError(f"calls something inside {shown(new)}, as its input or output must be called")
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.name == old:
            value.name = new
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
