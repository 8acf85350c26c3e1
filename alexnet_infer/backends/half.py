"""Emulate a float16 model on a CPU: compute in float32, and round every value between two operations to float16.

On x86, ONNX Runtime's CPU provider runs a float16 model in float32: it puts casts around each operation and then
removes those between two operations. Neither rounding errors nor overflows would show.
"""

from __future__ import annotations

import numpy as np


def rounded(model: bytes) -> bytes:
    """Return `model` with its float16 operations in float32, and each of their outputs cast to float16 and back.

    A GPU that accumulates in float32 computes the same, except for the order of the sums. ONNX Runtime does not remove
    casts that are written in the model.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    source = onnx.load_model_from_string(model)
    types = _types(source)
    for tensor in source.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    nodes = []
    for node in source.graph.node:
        (output,) = node.output
        if types.get(output) != TensorProto.FLOAT16:
            nodes.append(node)
            continue
        exact, half = f"{output}.exact", f"{output}.half"
        if node.op_type == "Cast":
            exact = node.input[0]
        else:
            node.output[0] = exact
            nodes.append(node)
        nodes.append(helper.make_node("Cast", [exact], [half], to=TensorProto.FLOAT16))
        nodes.append(helper.make_node("Cast", [half], [output], to=TensorProto.FLOAT))
    del source.graph.node[:]
    source.graph.node.extend(nodes)
    return source.SerializeToString()


def _types(model) -> dict[str, int]:
    """Return the element type of every value between two operations."""
    from onnx import shape_inference

    inferred = shape_inference.infer_shapes(model, strict_mode=True)
    return {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
