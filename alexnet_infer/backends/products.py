"""Products in ONNX Runtime on the CPU, from which `alexnet-infer benchmark` learns how fast this machine multiplies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from alexnet_infer.backends.onnxruntime import CPU, import_runtime

CHANNELS, KERNELS, SIDE, SIZE = 256, 384, 13, 3
"""conv3 of the paper's net: kernels of SIZE x SIZE over CHANNELS maps of SIDE x SIDE."""

UNITS = 4096
"""Inputs and outputs of its fc7."""

Product = tuple[int, Callable[[], object]]
"""The operations of a call, of which a multiply-add is two, and the call."""


def dense(patches: int) -> Product:
    """Return fc7 of the paper's net on `patches` vectors, float32. Raises BackendError if ONNX Runtime is missing."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((patches, UNITS), np.float32)
    weights = rng.standard_normal((UNITS, UNITS), np.float32)
    return 2 * patches * weights.size, _run("MatMul", vectors, weights)


def convolution(patches: int) -> Product:
    """Return conv3 of the paper's net on maps of `patches` patches, float32. Raises BackendError, as above."""
    rng = np.random.default_rng(2)
    maps = rng.standard_normal((patches, CHANNELS, SIDE, SIDE), np.float32)
    weights = rng.standard_normal((KERNELS, CHANNELS, SIZE, SIZE), np.float32)
    run = _run("Conv", maps, weights, pads=[SIZE // 2] * 4)
    return 2 * patches * SIDE**2 * weights.size, run


def _run(operator: str, data: np.ndarray, weights: np.ndarray, **attributes: object) -> Callable[[], object]:
    """Return a call of one operator on all cores."""
    ort = import_runtime()
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node(operator, ["data", "weights"], ["result"], **attributes)
    graph = helper.make_graph(
        [node],
        operator,
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, data.shape)],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=[CPU])
    return lambda: session.run(None, {"data": data})[0]
