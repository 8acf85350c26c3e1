"""ONNX graphs of AlexNets: the Model Zoo's graph, which the `onnx` package contains, with random weights."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_bvlc_alexnet.onnx"
"""The Model Zoo's graph, opset 9, with a ConstantOfShape instead of each tensor of weights."""


def zoo_graph(*, hidden: int = 32, classes: int = 10, pool_first: bool = False, seed: int = 0) -> onnx.ModelProto:
    """The Model Zoo's AlexNet with weights of realistic size. As in the Zoo, initialisers are also inputs.

    `pool_first` exchanges LRN and pooling, which gives the Zoo's CaffeNet.
    """
    light = onnx.load(LIGHT)
    rng = np.random.default_rng(seed)
    units = {"fc6": (hidden, 9216), "fc7": (hidden, hidden), "fc8": (classes, hidden)}
    initial, declared = [], [light.graph.input[0]]
    for tensor in light.graph.initializer:
        if not tensor.name.endswith("__SHAPE"):
            initial.append(tensor)
            declared.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
            continue
        name = tensor.name.removesuffix("__SHAPE")
        shape = numpy_helper.to_array(tensor).tolist()
        if name[:3] in units:
            shape = list(units[name[:3]][: len(shape)])
        values = rng.standard_normal(shape) * (np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 1)
        initial.append(numpy_helper.from_array(values.astype(np.float32), name))
        declared.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    nodes = [node for node in light.graph.node if node.op_type != "ConstantOfShape"]
    if pool_first:
        nodes = exchanged(nodes)
    output = helper.make_tensor_value_info("prob_1", TensorProto.FLOAT, [1, classes])
    graph = helper.make_graph(nodes, "alexnet", declared, [output], initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=3, producer_name="caffe2")
    scaled(model)
    return model


def exchanged(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes with each LRN exchanged with the pooling after it."""
    out = list(nodes)
    for i, (a, b) in enumerate(pairwise(nodes)):
        if a.op_type == "LRN" and b.op_type == "MaxPool":
            pool, norm = onnx.NodeProto(), onnx.NodeProto()
            pool.CopyFrom(b)
            norm.CopyFrom(a)
            pool.input[0], pool.output[0] = a.input[0], a.output[0]
            norm.input[0], norm.output[0] = a.output[0], b.output[0]
            out[i], out[i + 1] = pool, norm
    return out


def scaled(model: onnx.ModelProto) -> None:
    """Scale the logits to a standard deviation of 2, so that the softmax is neither flat nor saturated."""
    logits = run(without_softmax(model), patches(1)).std()
    for i, tensor in enumerate(model.graph.initializer):
        if tensor.name.startswith("fc8"):
            values = numpy_helper.to_array(tensor) * np.float32(2 / logits)
            model.graph.initializer[i].CopyFrom(numpy_helper.from_array(values, tensor.name))


def without_softmax(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    last = copy.graph.node.pop()
    copy.graph.output[0].name = last.input[0]
    return copy


def patches(count: int, side: int = 224, seed: int = 5) -> np.ndarray:
    """float32 [count, 3, side, side], in the range of grey levels minus their mean."""
    return np.random.default_rng(seed).normal(0, 60, (count, 3, side, side)).astype(np.float32)


def run(model: onnx.ModelProto | bytes, inputs: np.ndarray) -> np.ndarray:
    """ONNX Runtime's outputs, computed one image at a time."""
    import onnxruntime

    content = model if isinstance(model, bytes) else model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # no warnings about weights among the inputs
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0].reshape(1, -1) for image in inputs])


def quantized_zoo(folder: Path, model: onnx.ModelProto, *, form: str = "QDQ", matmuls: bool = False) -> Path:
    """Quantize a float graph to 8 bits with ONNX Runtime, and return the file, which is in `folder`."""
    from onnxruntime import quantization

    model = onnx.version_converter.convert_version(model, 13)
    del model.graph.input[1:]
    if matmuls:
        _with_matmuls(model)
    onnx.save(model, folder / "float.onnx")
    images = iter([{"data_0": image[None]} for image in patches(3)])

    class Calibration:
        def get_next(self):
            return next(images, None)

    quantization.quantize_static(
        folder / "float.onnx", folder / "int8.onnx", Calibration(), quant_format=quantization.QuantFormat[form]
    )
    return folder / "int8.onnx"


def _with_matmuls(model: onnx.ModelProto) -> None:
    """Replace each Gemm by MatMul and Add, which quantizers turn into QLinearMatMul and QLinearAdd, as in the Zoo."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for place, node in reversed([*enumerate(model.graph.node)]):
        if node.op_type == "Gemm":
            weights = tensors[node.input[1]]
            turned = np.ascontiguousarray(numpy_helper.to_array(weights).T)
            weights.CopyFrom(numpy_helper.from_array(turned, weights.name))
            product = f"{node.output[0]}_product"
            added = helper.make_node("Add", [product, node.input[2]], node.output, f"{node.name}_add")
            model.graph.node.insert(place + 1, added)
            node.CopyFrom(helper.make_node("MatMul", node.input[:2], [product], node.name))
