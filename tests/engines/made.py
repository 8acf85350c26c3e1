"""Engines for tests: fake plans with descriptions, and small engines that TensorRT-RTX builds without a GPU."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from msgspec import structs
from onnx import helper, numpy_helper

from alexnet_infer.artifact import Artifact
from alexnet_infer.engines.files import Built, EngineDescription, EngineOptions, EnginePlatform
from alexnet_infer.export.engine_build import build_engine
from alexnet_infer.graph.info import Batch, ExportInfo, Member, Precision
from alexnet_infer.graph.model import build_model
from tests.nets import TINY, random_artifact

INFO = ExportInfo(members=(Member(name="net", sha256="1" * 64),), batch=Batch(min=2, opt=3, max=5))
RTX = EnginePlatform(
    flavor="rtx", version="1.2.3", compute_capabilities=("8.6", "12.0"), gpu=None, driver=None, plugin=False
)
TENSORRT = EnginePlatform(
    flavor="tensorrt", version="11.4.0", compute_capabilities=("9.0",), gpu="A GPU", driver="580.1", plugin=True
)


def engine_of(plan: bytes, platform: EnginePlatform = RTX) -> Built:
    """An engine with a valid description. `plan` may be any bytes."""
    return Built(
        plan=plan,
        description=EngineDescription(
            manifest=random_artifact().manifest,
            info=INFO,
            platform=platform,
            sha256=hashlib.sha256(plan).hexdigest(),
            model_sha256="2" * 64,
        ),
    )


WEIGHTY = replace(TINY, hidden=1024)
"""9 MB of float32 weights, much larger than the rest of an engine."""


def info_of(**values: Any) -> ExportInfo:
    if values.get("precision") == "int8":
        values = {**values, "int8_for": "tensorrt"}
    return ExportInfo(members=(Member(name="net", sha256="1" * 64),), **values)


def model_of(artifact: Artifact, info: ExportInfo) -> onnx.ModelProto:
    """The ONNX model that `info` describes. Its int8 form has arbitrary scales."""
    base: Precision = "fp32" if info.precision == "int8" else info.precision
    model = build_model([artifact], structs.replace(info, precision=base, int8_for=None))
    return quantized(model) if info.precision == "int8" else model


def build(artifact: Artifact | None = None, info: ExportInfo | None = None, **options: Any) -> Built:
    """A small net's engine, by `build_engine`."""
    artifact, info = artifact or random_artifact(), info or info_of()
    options = {"flavor": "rtx", "capabilities": ("8.6",), **options}
    progress = {"on_progress": options.pop("on_progress")} if "on_progress" in options else {}
    model = model_of(artifact, info).SerializeToString()
    return build_engine(model, artifact.manifest, info, EngineOptions(**options), **progress)


def quantized(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convolutions and fully-connected layers with int8 weights and activations, both symmetric, and float biases."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []

    def constant(name: str, value: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    for node in list(graph.node):
        if node.op_type in ("Conv", "Gemm") and node.input[1].endswith(".weight"):
            x, name = node.input[0], node.input[1]
            step = [constant(f"{node.name}.scale", np.float32(8)), constant(f"{node.name}.zero", np.int8(0))]
            nodes.append(helper.make_node("QuantizeLinear", [x, *step], [f"{node.name}.quantized"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"{node.name}.quantized", *step], [f"{node.name}.in"]))
            weight = numpy_helper.to_array(weights[name])
            scale = np.abs(weight).reshape(len(weight), -1).max(1) / 127
            rounded = np.round(weight / scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
            graph.initializer.remove(weights[name])
            parts = [
                constant(f"{name}.int8", rounded),
                constant(f"{name}.scale", scale.astype(np.float32)),
                constant(f"{name}.zero", np.zeros(len(weight), np.int8)),
            ]
            nodes.append(helper.make_node("DequantizeLinear", parts, [f"{name}.float"], axis=0))
            node.input[0], node.input[1] = f"{node.name}.in", f"{name}.float"
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return model
