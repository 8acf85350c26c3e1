"""A net's graph with 8-bit convolutions and fully-connected layers: explicit QuantizeLinear and DequantizeLinear.

The scale of an activation comes from images that are run through the float net; those of weights, one for each output
channel, from the weights. ONNX Runtime's quantizer places the nodes. What is not named to it stays in float: LRN with
its own convolution, the cutting of views, the softmax.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from alexnet_infer.errors import SpecError, UsageError, shown
from alexnet_infer.export.info import Flavor

if TYPE_CHECKING:
    import onnx

Method = Literal["entropy", "percentile", "minmax"]
"""Where a range of activations is cut off: where the clipped and rounded histogram is nearest to the whole, by
Kullback-Leibler divergence; at a share of the values; or nowhere."""

PERCENTILE = 99.999
"""With 99.99, rounding moves the embedded net's probabilities 1.5 to 2 times as far; with 99.9, 5 to 7.5 times."""

BINS, LEVELS = 2048, 128
"""Of the histogram of magnitudes, and those that entropy rounds it to (Migacz, 8-bit inference with TensorRT, 2017)."""

MAX_BYTES = 2**31 - 2**26
"""Of a float model: the quantizer takes it with its weights inside, and a protobuf message ends at 2 GB."""


@dataclass(frozen=True, kw_only=True)
class QuantizationOptions:
    """How to quantize. Raises UsageError on values that don't exist.

    `flavor` "cpu": activations unsigned with a zero point, before and after a layer; weights of 7 bits, int32 biases.
    "tensorrt": activations signed and symmetric, before a layer only; weights of 8 bits, float biases.
    """

    method: Method = "entropy"
    flavor: Flavor = "cpu"
    keep_float: tuple[str, ...] = ()
    """Layers that stay in float, by name ("conv1"). In a file of several nets that is the layer of each of them, and
    "net1.conv1" that of one. None need to: the embedded net's error is the same without."""

    def __post_init__(self) -> None:
        for name, kind in (("method", Method), ("flavor", Flavor)):
            if getattr(self, name) not in get_args(kind):
                raise UsageError(f"{name}={shown(getattr(self, name))}: expected {' or '.join(get_args(kind))}")


def quantize(model: onnx.ModelProto, batches: Iterable[np.ndarray], options: QuantizationOptions) -> onnx.ModelProto:
    """A float32 model of ours (any views, any form of LRN, one net or several) in 8 bits; `model` stays as it is.

    `batches` are what the model takes as its input, any number of images each; they are run one image at a time. Names
    of input and output and the metadata are kept. `model` may have MAX_BYTES. Raises UsageError when there is no batch
    or when `keep_float` names no layer, SpecError when an activation overflows, BackendError without ONNX Runtime.
    """
    from onnx import shape_inference

    from alexnet_infer.backends.onnxruntime import import_runtime

    import_runtime()
    chosen = _chosen(model, options)
    typed = shape_inference.infer_shapes(model, strict_mode=True)  # a copy, with the types that the quantizer asks for
    ranges = _ranges(typed, _activations(typed, chosen), batches, options.method)
    return _with_quantizers(typed, chosen, ranges, options.flavor)


def layers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The convolutions and fully-connected layers, by the name that their weights have; LRN's convolution has none."""
    return {
        node.input[1].removesuffix(".weight"): node
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm") and node.input[1].endswith(".weight")
    }


def _chosen(model: onnx.ModelProto, options: QuantizationOptions) -> set[str]:
    """Names of the nodes to quantize."""
    found = layers(model)
    kept = set()
    for wanted in options.keep_float:
        matching = {name for name in found if name == wanted or name.endswith(f".{wanted}")}
        if not matching:
            raise UsageError(f"--keep-float {shown(wanted)}: no such layer; expected some of {', '.join(found)}")
        kept |= matching
    nodes = {node.name for name, node in found.items() if name not in kept}
    if options.flavor == "cpu":  # what passes 8 bits on as they are; TensorRT finds out by itself
        nodes |= {node.name for node in model.graph.node if node.op_type in ("Relu", "MaxPool", "Flatten")}
    return nodes


def _activations(model: onnx.ModelProto, chosen: set[str]) -> list[str]:
    """The values that the chosen nodes read and write."""
    weights = {tensor.name for tensor in model.graph.initializer}
    ends = (name for node in model.graph.node if node.name in chosen for name in (*node.input, *node.output))
    return [name for name in dict.fromkeys(ends) if name not in weights]


def _ranges(
    model: onnx.ModelProto, names: list[str], batches: Iterable[np.ndarray], method: Method
) -> dict[str, tuple[float, float]]:
    """(lowest, highest) of each value over the batches, cut off by `method`."""
    histograms = {name: Histogram() for name in names}
    session = _probe(model, names)
    (source,) = (node.name for node in session.get_inputs())
    images = (batch[i : i + 1] for batch in batches for i in range(len(batch)))
    image = None
    for image in images:  # one by one: all activations of ten full-size patches are 60 MB
        for name, values in zip(names, session.run(names, {source: image}), strict=True):
            if not np.isfinite(values).all():
                raise SpecError(f"{name} overflows on a calibration image: this net can't be quantized")
            histograms[name].add(values)
    if image is None:
        raise UsageError("--calibrate: no images there; expected at least one, and better a hundred")
    return {name: histogram.range(method) for name, histogram in histograms.items()}


def _probe(model: onnx.ModelProto, names: list[str]):
    """An ONNX Runtime session of `model` that gives the values `names`, for any number of images."""
    import onnx
    from onnxruntime import InferenceSession, SessionOptions

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    del probe.graph.value_info[:], probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = SessionOptions()
    options.log_severity_level = 3
    return InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])


class Histogram:
    """The values that an activation takes: their extremes, and how often which magnitude occurs.

    ONNX Runtime's own collector counts the zeros that a ReLU leaves, whereupon its entropy method cuts far too much
    off (the embedded net's error rises by 16 points), and it takes half a minute.
    """

    def __init__(self) -> None:
        self.low = self.high = self.top = 0.0
        self.counts = np.zeros(BINS, np.int64)
        """Of magnitudes from 0 to `top`, without exact zeros."""
        self.zeros = 0

    def add(self, values: np.ndarray) -> None:
        """Counts float32 `values` of any shape, all of them finite."""
        self.low, self.high = float(values.min(initial=self.low)), float(values.max(initial=self.high))
        reach = max(-self.low, self.high)
        self.top = self.top or reach
        while self.top < reach:  # bins twice as wide
            self.top *= 2
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)])
        zeros = values.size - np.count_nonzero(values)
        self.counts += np.histogram(np.abs(values), BINS, (0, self.top or 1))[0]
        self.counts[0] -= zeros
        self.zeros += zeros

    def range(self, method: Method) -> tuple[float, float]:
        """(lowest, highest) value that is not cut off; 0 lies between."""
        if method == "minmax":
            return self.low, self.high
        bins = self._entropy() if method == "entropy" else self._percentile()
        reach = bins * self.top / BINS
        return max(self.low, -reach), min(self.high, reach)

    def _percentile(self) -> int:
        within = self.zeros + np.cumsum(self.counts)
        return int(np.searchsorted(within, PERCENTILE / 100 * within[-1])) + 1

    def _entropy(self) -> int:
        """How many of the lowest bins to keep: those whose rounding to LEVELS levels tells least from the whole."""

        def divergence(bins: int) -> float:
            kept = self.counts[:bins].astype(np.float64)
            level = np.arange(bins) * LEVELS // bins
            filled = kept > 0
            share = np.bincount(level, kept) / np.maximum(np.bincount(level, filled), 1)  # among a level's filled bins
            rounded = np.where(filled, share[level], 0)
            kept[-1] += self.counts[bins:].sum()  # what is clipped
            p, q = kept[kept > 0] / max(kept.sum(), 1), rounded[kept > 0] / max(rounded.sum(), 1)
            return float((p * np.log(p / np.maximum(q, 1e-9))).sum())

        return min(range(LEVELS, BINS + 1, LEVELS // 32), key=divergence)


def _with_quantizers(
    model: onnx.ModelProto, chosen: set[str], ranges: dict[str, tuple[float, float]], flavor: Flavor
) -> onnx.ModelProto:
    """`model`, which is used up, with the pairs of nodes put in."""
    from onnx import helper
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    tensorrt = flavor == "tensorrt"
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    producer = model.producer_name, model.producer_version
    add_infer_metadata(model)  # without this, the quantizer infers shapes once more, by way of a file
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
            # Logits stay in float; a convolution must write 8 bits for ONNX Runtime to take it for one in 8 bits.
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
