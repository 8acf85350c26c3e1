"""Quantize a net's convolutions and fully-connected layers to 8 bits, with QuantizeLinear and DequantizeLinear nodes.

The scale of an activation is measured by running images through the float net. Weights have one scale per output
channel, computed from the weights. ONNX Runtime's quantizer inserts the nodes. In a net for CPUs, ReLU, max pooling and
Flatten are quantized too. All other operations stay in float: LRN with its convolution, the views and the softmax.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from alexnet_infer.backends.inner import session_of
from alexnet_infer.errors import SpecError, UsageError, shown
from alexnet_infer.graph.info import Int8For

if TYPE_CHECKING:
    import onnx

Method = Literal["entropy", "percentile", "minmax"]
"""Where the range of an activation is clipped. "entropy": where the clipped and rounded histogram is nearest to the
complete one, by Kullback-Leibler divergence. "percentile": at PERCENTILE of the magnitudes. "minmax": nowhere."""

PERCENTILE = 99.999
"""With 99.99, quantization changed a bundled net's probabilities 1.5 to 2 times as much; with 99.9, 5 to 7.5 times."""

BINS, LEVELS = 2048, 128
"""Bins of the histogram of magnitudes, and the levels that "entropy" rounds it to (Migacz, 8-bit inference with
TensorRT, 2017)."""


@dataclass(frozen=True, kw_only=True)
class QuantizationOptions:
    """How to quantize. Raises UsageError on unknown values.

    For "cpu", activations are unsigned with a zero point and quantized before and after a layer. Weights
    have 7 bits, biases are int32. For "tensorrt", activations are signed and symmetric and quantized only before a
    layer. Weights have 8 bits, biases are float.
    """

    method: Method = "entropy"
    int8_for: Int8For = "cpu"
    keep_float: tuple[str, ...] = ()
    """Names of layers that stay in float. With several nets, "conv1" is that layer of every net and "net1.conv1" that
    of the first. No layer needs to: a bundled net's error was the same with all layers quantized."""

    def __post_init__(self) -> None:
        for name, kind in (("method", Method), ("int8_for", Int8For)):
            if getattr(self, name) not in get_args(kind):
                raise UsageError(f"{name}={shown(getattr(self, name))}: expected {' or '.join(get_args(kind))}")


def quantize(model: onnx.ModelProto, batches: Iterable[np.ndarray], options: QuantizationOptions) -> onnx.ModelProto:
    """Return an 8-bit copy of a float32 model. Arguments and errors are those of `Calibrated` and its `quantized`."""
    return Calibrated(model, batches, options).quantized(options.keep_float)


class Calibrated:
    """A float32 model from `build_model` or `build_onnx` whose activations were measured, to be quantized.

    `model` may have any views, LRN form and number of nets, and contains its weights. `batches` are inputs of the model
    with any number of images each. They are run one image at a time. All layers are measured but those of
    `options.keep_float`.

    Raises UsageError if there is no image or `keep_float` names an unknown layer, SpecError if an activation overflows,
    and BackendError if ONNX Runtime is missing.
    """

    def __init__(self, model: onnx.ModelProto, batches: Iterable[np.ndarray], options: QuantizationOptions) -> None:
        from onnx import shape_inference

        from alexnet_infer.backends.onnxruntime import import_runtime

        import_runtime()
        self._int8_for = options.int8_for
        chosen = _chosen(model, options.keep_float, options.int8_for)
        # A copy, with the types that the quantizer needs.
        self.model = shape_inference.infer_shapes(model, strict_mode=True)
        self._ranges = _ranges(self.model, _activations(self.model, chosen), batches, options.method)

    def quantized(self, keep_float: Collection[str] = ()) -> onnx.ModelProto:
        """Return an 8-bit copy of the model in which the layers `keep_float` stay in float.

        They are named as in `QuantizationOptions` and contain those that were not measured. The names of the model's
        input and output and its metadata are kept. Raises UsageError for an unknown layer.
        """
        import onnx

        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        chosen = _chosen(copy, keep_float, self._int8_for)
        if not chosen:  # ONNX Runtime would quantize all nodes
            del copy.graph.value_info[:]
            return copy
        return _with_quantizers(copy, chosen, self._ranges, self._int8_for)


def matching_layers(model: onnx.ModelProto, names: Iterable[str]) -> tuple[str, ...]:
    """Return the layers of `model` that `names` mean, in the order of the graph, by the names of their weights.

    With several nets, "conv1" means that layer of every net. Raises UsageError for a name that means no layer.
    """
    known = layers(model)
    meant: set[str] = set()
    for name in names:
        matching = {layer for layer in known if layer == name or layer.endswith(f".{name}")}
        if not matching:
            raise UsageError(f"--keep-float {shown(name)}: no such layer; expected some of {', '.join(known)}")
        meant |= matching
    return tuple(layer for layer in known if layer in meant)


def layers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Return the convolutions and fully-connected layers by the name of their weights, without LRN's convolution."""
    return {
        node.input[1].removesuffix(".weight"): node
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm") and node.input[1].endswith(".weight")
    }


def _chosen(model: onnx.ModelProto, keep_float: Iterable[str], int8_for: Int8For) -> set[str]:
    """Return the names of the nodes to quantize."""
    kept = matching_layers(model, keep_float)
    nodes = {node.name for name, node in layers(model).items() if name not in kept}
    if int8_for == "cpu":  # operations that pass 8-bit values through; TensorRT finds them itself
        nodes |= {node.name for node in model.graph.node if node.op_type in ("Relu", "MaxPool", "Flatten")}
    return nodes


def _activations(model: onnx.ModelProto, chosen: set[str]) -> list[str]:
    """Return the names of the activations that the chosen nodes read and write."""
    weights = {tensor.name for tensor in model.graph.initializer}
    ends = (name for node in model.graph.node if node.name in chosen for name in (*node.input, *node.output))
    return [name for name in dict.fromkeys(ends) if name not in weights]


def _ranges(
    model: onnx.ModelProto, names: list[str], batches: Iterable[np.ndarray], method: Method
) -> dict[str, tuple[float, float]]:
    """Return the (lowest, highest) of each activation over the batches, clipped by `method`."""
    histograms = {name: Histogram() for name in names}
    session = session_of(model, names)
    (source,) = (node.name for node in session.get_inputs())
    images = (batch[i : i + 1] for batch in batches for i in range(len(batch)))
    image = None
    for image in images:  # one at a time: the activations of ten full-size patches take 60 MB
        for name, values in zip(names, session.run(names, {source: image}), strict=True):
            if not np.isfinite(values).all():
                raise SpecError(f"{name} overflows on a calibration image: this net can't be quantized")
            histograms[name].add(values)
    if image is None:
        raise UsageError("--calibrate: no images; expected at least one, preferably a hundred")
    return {name: histogram.range(method) for name, histogram in histograms.items()}


class Histogram:
    """The extremes of an activation, and a histogram of its magnitudes.

    ONNX Runtime's own collector counts the zeros after a ReLU. Its entropy method then clips far too much (a bundled
    net's error rose by 16 points), and the collector takes half a minute.
    """

    def __init__(self) -> None:
        self.low = self.high = self.top = 0.0
        self.counts = np.zeros(BINS, np.int64)
        """Counts of magnitudes in BINS equal bins from 0 to `top`, without exact zeros."""
        self.zeros = 0

    def add(self, values: np.ndarray) -> None:
        """Count float32 `values` of any shape. All must be finite."""
        self.low, self.high = float(values.min(initial=self.low)), float(values.max(initial=self.high))
        reach = max(-self.low, self.high)
        self.top = self.top or reach
        while self.top < reach:  # double the width of the bins
            self.top *= 2
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)])
        zeros = values.size - np.count_nonzero(values)
        self.counts += np.histogram(np.abs(values), BINS, (0, self.top or 1))[0]
        self.counts[0] -= zeros
        self.zeros += zeros

    def range(self, method: Method) -> tuple[float, float]:
        """Return the (lowest, highest) values that are not clipped. The range always contains 0."""
        if method == "minmax":
            return self.low, self.high
        bins = self._entropy() if method == "entropy" else self._percentile()
        reach = bins * self.top / BINS
        return max(self.low, -reach), min(self.high, reach)

    def _percentile(self) -> int:
        within = self.zeros + np.cumsum(self.counts)
        return int(np.searchsorted(within, PERCENTILE / 100 * within[-1])) + 1

    def _entropy(self) -> int:
        """Return how many of the lowest bins to keep so that rounding to LEVELS levels loses the least information."""

        def divergence(bins: int) -> float:
            kept = self.counts[:bins].astype(np.float64)
            level = np.arange(bins) * LEVELS // bins
            filled = kept > 0
            share = np.bincount(level, kept) / np.maximum(np.bincount(level, filled), 1)  # per filled bin of a level
            rounded = np.where(filled, share[level], 0)
            kept[-1] += self.counts[bins:].sum()  # clipped values
            p, q = kept[kept > 0] / max(kept.sum(), 1), rounded[kept > 0] / max(rounded.sum(), 1)
            return float((p * np.log(p / np.maximum(q, 1e-9))).sum())

        return min(range(LEVELS, BINS + 1, LEVELS // 32), key=divergence)


def _with_quantizers(
    model: onnx.ModelProto, chosen: set[str], ranges: dict[str, tuple[float, float]], int8_for: Int8For
) -> onnx.ModelProto:
    """Return `model` with the pairs of QuantizeLinear and DequantizeLinear inserted. `model` itself is modified."""
    from onnx import helper
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    tensorrt = int8_for == "tensorrt"
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    producer = model.producer_name, model.producer_version
    add_infer_metadata(model)  # otherwise the quantizer infers shapes again, through a temporary file
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        # x86 CPUs without VNNI add two products in 16 bits: 2 * 255 * 64 fits, 2 * 255 * 127 saturates.
        reduce_range=not tensorrt,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if tensorrt else QuantType.QUInt8,
        tensors_range=TensorsData(
            CalibrationMethod.MinMax, {name: tuple(map(np.float32, ends)) for name, ends in ranges.items()}
        ),
        nodes_to_quantize=sorted(chosen),
        nodes_to_exclude=[],
        op_types_to_quantize=["Conv", "Gemm", "Relu", "MaxPool", "Flatten"],
        extra_options={
            "ActivationSymmetric": tensorrt,
            "WeightSymmetric": True,
            "QuantizeBias": not tensorrt,
            # Logits stay in float. ONNX Runtime runs a convolution in 8 bits only if its output is quantized too.
            "OpTypesToExcludeOutputQuantization": ["Conv", "Gemm"] if tensorrt else ["Gemm"],
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    result = quantizer.model.model
    del result.metadata_props[:], result.graph.value_info[:]
    helper.set_model_props(result, metadata)
    result.producer_name, result.producer_version = producer
    return result
