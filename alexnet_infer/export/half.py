"""A float16 model as a CPU can show it: computed in float32, every value between two operations rounded to float16.

CPU runtimes have no float16 arithmetic. ONNX Runtime puts casts around each operation and then leaves out those between
two of them, so that what it computes is float32 throughout: neither a rounding error nor an overflow would show.
"""

from __future__ import annotations

import numpy as np


def rounded(model: bytes) -> bytes:
    """`model` with its float16 operations in float32, each output cast to float16 and back: what a GPU computes that
    adds up in float32, but for the order of the sums. Casts that a model asks for are never left out."""
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
    """Element type of every value between two operations."""
    from onnx import shape_inference

    inferred = shape_inference.infer_shapes(model, strict_mode=True)
    return {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
