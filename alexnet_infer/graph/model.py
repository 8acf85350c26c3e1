"""Build the ONNX model of an exported file: views, one or more nets, and their mean, in one graph.

net.py builds the graph of a single net. export/quantize.py turns the float32 model into int8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from alexnet_infer.artifact import Artifact
from alexnet_infer.errors import UsageError, shown
from alexnet_infer.graph.info import EXPORT_KEY, ExportInfo, FileViews, LRNForm
from alexnet_infer.graph.net import INPUT, OUTPUT, Graph
from alexnet_infer.graph.wire import import_onnx
from alexnet_infer.layers import Layer, find_layers
from alexnet_infer.manifest import METADATA_KEY, difference_of_classes
from alexnet_infer.preprocess import Preprocessing, Rescaling, patch_offsets

if TYPE_CHECKING:
    import onnx

SQUARES_INPUT = "images"


def build_model(
    artifacts: Sequence[Artifact], info: ExportInfo, outside: dict[str, np.ndarray] | None = None
) -> onnx.ModelProto:
    """Return the mean of `artifacts` as one model, in float32 or float16. For int8 the model is float32.

    Without views, the input is float32 `patches` [N, 3, patch, patch] with the mean subtracted. With views, it is uint8
    `images` [N, S, S, 3] in RGB, and the graph contains all steps of `preprocess.patches` in the same order. The output
    is float32 `probabilities` [N, classes], averaged over the views and then over the nets, or each of `info.outputs`,
    averaged in the same way. If `info.batch` is fixed, N is a number, otherwise it is free. For `outside`, see
    `build_onnx`.

    Raises UsageError if the nets can't share an input or their classes differ, SpecError if a weight doesn't fit
    float16, and BackendError if onnx is missing.
    """
    check_together(artifacts, info.views)
    manifest = replace(artifacts[0].manifest, name=" + ".join(member.name for member in info.members))
    if len(artifacts) > 1:  # the errors of the first net are not those of the mean
        manifest = replace(manifest, provenance=replace(manifest.provenance, errors=()))
    metadata = {METADATA_KEY: manifest.to_json(), EXPORT_KEY: info.to_json()}
    batch = info.batch.max if info.batch.fixed else "N"
    half = info.precision == "fp16"
    return _build(artifacts, info.views, info.lrn, batch, manifest.name, metadata, outside, info.outputs, half=half)


def build_on_squares(
    artifact: Artifact,
    views: FileViews,
    lrn: LRNForm,
    outside: dict[str, np.ndarray] | None = None,
    outputs: Sequence[str] = (OUTPUT,),
) -> onnx.ModelProto:
    """Return the float32 model of one net that cuts its views ("ten" or "center") and averages them.

    This is `build_model` without metadata, for a session in this process.
    """
    return _build([artifact], views, lrn, "N", artifact.manifest.name, {}, outside, outputs)


def _build(
    artifacts: Sequence[Artifact],
    views: FileViews,
    lrn: LRNForm,
    batch: int | str,
    name: str,
    metadata: dict[str, str],
    outside: dict[str, np.ndarray] | None,
    outputs: Sequence[str],
    *,
    half: bool = False,
) -> onnx.ModelProto:
    types = import_onnx().TensorProto
    first = artifacts[0].manifest
    patch, size = first.preprocessing.patch, first.preprocessing.size
    graph, on_squares = Graph(outside), views != "none"
    if on_squares:
        source = (SQUARES_INPUT, types.UINT8, [batch, size, size, 3])
    else:
        source = (INPUT, types.FLOAT, [batch, 3, patch, patch])
    layers = find_layers(first.architecture, outputs)
    cut: dict[str, str] = {}
    means: list[list[str]] = []
    for number, artifact in enumerate(artifacts, 1):
        prefix = f"net{number}." if len(artifacts) > 1 else ""
        preprocessing = artifact.manifest.preprocessing
        value = INPUT
        if on_squares:
            recipe = str(preprocessing.to_json())  # nets with the same preprocessing share their patches
            value = cut.get(recipe) or add_views(graph, preprocessing, views, prefix)
            cut[recipe] = value
        values = graph.net(artifact, value, lrn, layers, half=half, prefix=prefix)
        if views == "ten":
            values = [
                _mean_over_views(graph, value, layer, f"{prefix}{layer.name}.")
                for value, layer in zip(values, layers, strict=True)
            ]
        means.append(values)
    for layer, *values in zip(layers, *means, strict=True):
        graph.output(
            values[0] if len(values) == 1 else graph.node("Mean", values, f"{layer.name}.ensemble"), layer.name
        )
    targets = [(layer.name, types.FLOAT, [batch, *layer.shape]) for layer in layers]
    return graph.model(name, source, targets, metadata)


def _mean_over_views(graph: Graph, value: str, layer: Layer, prefix: str) -> str:
    """Append the mean of `value` [10 * N, ...] over the ten views, as `add_views` orders them: [N, ...]."""
    apart = graph.constant(f"{prefix}by_view", np.array([10, -1, *layer.shape], np.int64))
    by_view = graph.node("Reshape", [value, apart], f"{prefix}views")
    return graph.node("ReduceMean", [by_view], f"{prefix}mean", axes=[0], keepdims=0)


def add_views(graph: Graph, preprocessing: Preprocessing, views: FileViews, prefix: str = "") -> str:
    """Append nodes that cut patches out of the uint8 squares `images` [N, S, S, 3], as `preprocess.patches` does.

    Returns the name of float32 [V * N, 3, patch, patch]: the first view of all images, then the second view, and so on.
    """
    value = graph.cast(SQUARES_INPUT, np.float32, f"{prefix}pixels")
    if preprocessing.value_range == "0-1":
        value = graph.node("Div", [value, graph.constant(f"{prefix}255", np.float32(255))], f"{prefix}unit")
    if preprocessing.channel_order == "BGR":
        order = graph.constant(f"{prefix}bgr.order", np.array([2, 1, 0], np.int64))
        value = graph.node("Gather", [value, order], f"{prefix}bgr", axis=3)
    mean = graph.constant(f"{prefix}training.mean", preprocessing.mean)
    value = graph.node("Sub", [value, mean], f"{prefix}centred")
    value = graph.node("Transpose", [value], f"{prefix}planes", perm=[0, 3, 1, 2])
    side = preprocessing.patch
    axes = graph.constant(f"{prefix}rows_and_columns", np.array([2, 3], np.int64))
    cut = []
    for number, (row, column) in enumerate(patch_offsets(preprocessing.size, side, views), 1):
        name = f"{prefix}patch{number}"
        begin = graph.constant(f"{name}.begin", np.array([row, column], np.int64))
        end = graph.constant(f"{name}.end", np.array([row + side, column + side], np.int64))
        cut.append(graph.node("Slice", [value, begin, end, axes], name))
    if views != "ten":
        return cut[0]
    unmirrored = graph.node("Concat", cut, f"{prefix}five", axis=0)
    backwards = [
        graph.constant(f"{prefix}mirror.{part}", np.array([index], np.int64))
        for part, index in (("begin", -1), ("end", -side - 1), ("axis", 3), ("step", -1))
    ]
    mirrored = graph.node("Slice", [unmirrored, *backwards], f"{prefix}mirrored")
    return graph.node("Concat", [unmirrored, mirrored], f"{prefix}ten", axis=0)


def check_together(artifacts: Sequence[Artifact], views: FileViews) -> None:
    """Raise UsageError, with the names and the difference, if nets can't be averaged in one file."""
    first = artifacts[0].manifest
    for manifest in (artifact.manifest for artifact in artifacts[1:]):
        names = f"{first.name} and {manifest.name}"
        if difference := difference_of_classes(first.wnids, manifest.wnids):
            raise UsageError(f"{names} have different classes ({difference}): nets in one file need the same classes")
        recipes = first.preprocessing.to_json(), manifest.preprocessing.to_json()
        shared = (
            recipes[0].keys() if views == "none" else Rescaling.__struct_fields__
        )  # the rest is in the graph, per net
        if different := [key for key in shared if recipes[0][key] != recipes[1][key]]:
            fix = "; --views center or ten allows different means" if different == ["mean"] else ""
            raise UsageError(f"{names} differ in {shown(different)}: nets in one file need the same input{fix}")
