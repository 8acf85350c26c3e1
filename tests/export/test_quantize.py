"""8-bit graphs against weights and inputs rounded by hand: what is quantized, how, and what stays in float."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from alexnet_infer.artifact import Artifact
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.errors import SpecError, UsageError
from alexnet_infer.export.quantize import BINS, PERCENTILE, Histogram, QuantizationOptions, quantize
from alexnet_infer.graph.info import EXPORT_KEY, Batch, ExportInfo, Member
from alexnet_infer.graph.model import build_model
from alexnet_infer.graph.net import build_onnx
from alexnet_infer.manifest import METADATA_KEY, Manifest
from tests.nets import TINY, large_patches, random_artifact

ort = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

LAYERS = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
LARGEST = {"cpu": 64, "tensorrt": 127}
"""Magnitude of a rounded weight."""
KINDS = ["cpu", "tensorrt"]
SQUARES = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
MEMBER = Member(name="a", sha256="0" * 64)


def options(**given) -> QuantizationOptions:
    return QuantizationOptions(**{"method": "minmax", **given})


def quantized(int8_for: str = "cpu", lrn: str = "conv", **given) -> onnx.ModelProto:
    return quantize(build_onnx(random_artifact(), lrn), [large_patches()], options(int8_for=int8_for, **given))


def run(model: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    own = ort.SessionOptions()
    own.log_severity_level, own.intra_op_num_threads = 3, 1
    session = ort.InferenceSession(model.SerializeToString(), own, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


class Read:
    """A quantized model's nodes and values, by name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.makers = {node.output[0]: node for node in model.graph.node}
        self.nodes = {node.name: node for node in model.graph.node}

    def pair(self, node: str, place: int) -> tuple[np.ndarray | None, np.ndarray, np.ndarray, int]:
        """(8-bit values if constant, scale, zero point, axis) of an input that comes from a DequantizeLinear."""
        maker = self.makers[self.nodes[node].input[place]]
        assert maker.op_type == "DequantizeLinear"
        axis = next((a.i for a in maker.attribute if a.name == "axis"), 1)
        return self.values.get(maker.input[0]), self.values[maker.input[1]], self.values[maker.input[2]], axis

    def is_float(self, node: str, place: int) -> bool:
        name = self.nodes[node].input[place]
        return name in self.values and self.values[name].dtype == np.float32


@pytest.mark.parametrize("lrn", ["op", "conv", "plugin"])
@pytest.mark.parametrize("int8_for", KINDS)
def test_all_layers_have_8_bit_weights_with_a_scale_for_each_output_channel(int8_for, lrn):
    artifact, read = random_artifact(), Read(quantized(int8_for, lrn))
    for layer in LAYERS:
        weights = artifact.tensors[f"{layer}.weight"]
        largest = np.abs(weights).reshape(len(weights), -1).max(1)
        assert largest.max() > 1.05 * largest.min(), "a common scale for all channels must differ"
        rounded, scale, zero, axis = read.pair(layer, 1)
        assert rounded.dtype == zero.dtype == np.int8
        assert not zero.any()
        assert axis == 0
        np.testing.assert_allclose(scale, largest / LARGEST[int8_for], rtol=1e-6)
        broad = scale.reshape(-1, *[1] * (weights.ndim - 1))
        np.testing.assert_allclose(rounded * broad, weights, atol=0.501 * scale.max())
        assert np.abs(rounded).max() == LARGEST[int8_for]


def test_two_products_of_the_cpus_kind_fit_16_bits():
    """CPUs without VNNI add two products in 16 bits. Larger sums saturate and change the result."""
    assert 2 * 255 * LARGEST["cpu"] < 2**15


def test_tensorrts_kind_has_symmetric_activations_and_the_float_biases():
    artifact, read = random_artifact(), Read(quantized("tensorrt"))
    for layer in LAYERS:
        _, scale, zero, _ = read.pair(layer, 0)
        assert (scale.shape, zero.dtype, zero) == ((), np.int8, 0)
        np.testing.assert_array_equal(read.values[read.nodes[layer].input[2]], artifact.tensors[f"{layer}.bias"])


def test_the_cpus_kind_has_unsigned_activations_and_biases_scaled_by_input_and_weight():
    artifact, read = random_artifact(), Read(quantized("cpu"))
    for layer in LAYERS:
        _, scale, zero, _ = read.pair(layer, 0)
        assert zero.dtype == np.uint8
        bias, unit, bias_zero, _ = read.pair(layer, 2)
        assert bias.dtype == np.int32
        assert not bias_zero.any()
        np.testing.assert_allclose(unit, scale * read.pair(layer, 1)[1], rtol=1e-6)
        np.testing.assert_allclose(bias * unit, artifact.tensors[f"{layer}.bias"], atol=0.501 * unit.max())
    assert read.pair("conv1", 0)[2] > 0, "patches have both signs"
    assert read.pair("fc7", 0)[2] == 0, "a ReLU's output is not negative"


@pytest.mark.parametrize("int8_for", KINDS)
@pytest.mark.parametrize("lrn", ["op", "conv", "plugin"])
def test_lrn_and_the_softmax_stay_in_float(int8_for, lrn):
    model = quantized(int8_for, lrn)
    read = Read(model)
    rounded = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert "pool1" in rounded, "the next layer's input"
    assert not [name for name in rounded if name.startswith("norm")]
    eight_bit = {name for name, value in read.values.items() if value.dtype == np.int8 and value.ndim > 1}
    assert eight_bit == {f"{layer}.weight_quantized" for layer in LAYERS}
    assert read.makers[read.nodes["probabilities"].input[0]].name == "fc8", "the logits are not rounded"
    if lrn == "conv":
        assert read.is_float("norm1.d", 1)
        assert read.is_float("norm1.d", 2)


def test_the_first_layer_matches_the_reference_with_patches_and_weights_rounded_by_hand():
    artifact, patches = random_artifact(), large_patches()
    kept = options(int8_for="tensorrt", keep_float=tuple(LAYERS[1:]))
    actual = run(quantize(build_onnx(artifact, "op"), [patches], kept), patches)
    weights = artifact.tensors["conv1.weight"]
    scale = np.abs(weights).max((1, 2, 3), keepdims=True) / 127
    rounded = Artifact(artifact.manifest, {**artifact.tensors, "conv1.weight": np.rint(weights / scale) * scale})
    step = np.abs(patches).max() / 127
    expected = ReferenceBackend(rounded).infer(np.rint(patches / step) * step)
    assert np.abs(expected - ReferenceBackend(artifact).infer(patches)).max() > 1e-3, "rounding must change the result"
    np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize("int8_for", KINDS)
def test_a_fully_connected_layer_matches_its_definition_in_whole_numbers(int8_for):
    rng = np.random.default_rng(0)
    x, weights, bias = (rng.normal(1, 5, shape).astype(np.float32) for shape in ((64, 40), (9, 40), 9))
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", c]) for n, c in (("x", 40), ("fc", 9))]
    tensors = [numpy_helper.from_array(weights, "fc.weight"), numpy_helper.from_array(bias, "fc.bias")]
    gemm = onnx.helper.make_node("Gemm", ["x", "fc.weight", "fc.bias"], ["fc"], name="fc", transB=1)
    graph = onnx.helper.make_graph([gemm], "one layer", ends[:1], ends[1:], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)

    low, high = (-np.abs(x).max(), np.abs(x).max()) if int8_for == "tensorrt" else (x.min(), x.max())
    step = (high - low) / (254 if int8_for == "tensorrt" else 255)
    zero = 0 if int8_for == "tensorrt" else np.rint(-low / step)
    whole = np.clip(np.rint(x / step) + zero, *((-128, 127) if int8_for == "tensorrt" else (0, 255))) - zero
    scale = np.abs(weights).max(1) / LARGEST[int8_for]
    expected = whole @ np.rint(weights / scale[:, None]).T * (step * scale) + bias
    assert np.abs(expected - (x @ weights.T + bias)).max() > 0.5, "rounding must change the result"
    np.testing.assert_allclose(run(quantize(model, [x], options(int8_for=int8_for)), x), expected, atol=0.02)


@pytest.mark.parametrize(
    ("method", "switch"),
    [
        ("percentile", {}),
        ("entropy", {}),
        ("minmax", {}),
        ("minmax", {"activation": "tanh"}),
        ("minmax", {"normalization": "batchnorm"}),
        ("minmax", {"pool_first": True}),
    ],
)
@pytest.mark.parametrize("int8_for", KINDS)
def test_probabilities_stay_near_the_float_nets(int8_for, method, switch):
    net = replace(TINY, **switch)
    model, patches = build_onnx(random_artifact(net), "conv"), large_patches(net, count=8)
    actual = run(quantize(model, [patches[:4], patches[4:]], options(method=method, int8_for=int8_for)), patches)
    difference = np.abs(actual - run(model, patches))
    assert np.isfinite(actual).all()
    assert 1e-4 < difference.max() < 0.12


@pytest.mark.parametrize("int8_for", KINDS)
def test_layers_that_are_kept_stay_in_float(int8_for):
    artifact = random_artifact()
    read = Read(quantized(int8_for, keep_float=("conv1", "fc8")))
    for layer in LAYERS:
        kept = layer in ("conv1", "fc8")
        assert read.is_float(layer, 1) == kept
        if kept:
            for place, part in ((1, "weight"), (2, "bias")):
                np.testing.assert_array_equal(
                    read.values[read.nodes[layer].input[place]], artifact.tensors[f"{layer}.{part}"]
                )


@pytest.mark.parametrize(("kept", "left"), [("fc8", {"net1.fc8", "net2.fc8"}), ("net2.fc8", {"net2.fc8"})])
def test_a_layer_is_kept_in_every_net_of_a_file_or_in_one(kept, left):
    nets = [random_artifact(seed=seed) for seed in (0, 1)]
    model = build_model(nets, ExportInfo(members=(MEMBER, MEMBER), lrn="op"))
    result = quantize(model, [large_patches()], options(keep_float=(kept,)))
    read = Read(result)
    layers = [f"net{number}.{layer}" for number in (1, 2) for layer in LAYERS]
    assert {layer for layer in layers if read.is_float(layer, 1)} == left
    np.testing.assert_allclose(run(result, large_patches()), run(model, large_patches()), atol=0.1)


@pytest.mark.parametrize("int8_for", KINDS)
@pytest.mark.parametrize("views", ["none", "center", "ten"])
def test_input_output_and_metadata_are_kept_and_the_float_model_is_not_changed(views, int8_for):
    artifact = random_artifact()
    model = build_model([artifact], ExportInfo(members=(MEMBER,), views=views, lrn="conv"))
    before = model.SerializeToString()
    inputs = SQUARES if views != "none" else large_patches()
    result = quantize(model, [inputs], options(int8_for=int8_for))
    assert model.SerializeToString() == before
    onnx.checker.check_model(result, full_check=True)
    assert list(result.graph.input) == list(model.graph.input)
    assert list(result.graph.output) == list(model.graph.output)
    metadata = {entry.key: entry.value for entry in result.metadata_props}
    assert metadata.keys() == {METADATA_KEY, EXPORT_KEY}
    assert Manifest.from_json(metadata[METADATA_KEY]).architecture == artifact.manifest.architecture
    assert (result.producer_name, result.ir_version) == ("alexnet-infer", model.ir_version)
    assert list(result.opset_import) == list(model.opset_import)
    assert result.ByteSize() < 0.4 * model.ByteSize()
    difference = np.abs(run(result, inputs) - run(model, inputs)).max()
    assert 1e-6 < difference < 0.1


def test_a_model_for_a_fixed_number_of_images_is_calibrated_on_any_number():
    model = build_model([random_artifact()], ExportInfo(members=(MEMBER,), batch=Batch.parse("4"), lrn="conv"))
    result = quantize(model, [large_patches(count=3)], options())
    assert run(result, large_patches(count=4)).shape == (4, 7)


def test_the_batches_of_calibration_images_do_not_matter():
    patches, model = large_patches(count=6), build_onnx(random_artifact(), "op")
    single = quantize(model, [patches], options())
    parts = quantize(model, (patches[i : i + 1] for i in range(6)), options())
    for name, values in Read(single).values.items():
        np.testing.assert_allclose(Read(parts).values[name], values, rtol=1e-4, atol=1)


def test_nothing_is_printed_logged_or_left_behind(tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.WARNING):
        quantized("cpu", "plugin", method="entropy")
        quantized("tensorrt", "op", method="percentile")
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.parametrize(("wrong", "words"), [({"method": "mean"}, "entropy or"), ({"int8_for": "gpu"}, "tensorrt")])
def test_unknown_options_are_refused_with_the_known_ones(wrong, words):
    with pytest.raises(UsageError, match=words):
        QuantizationOptions(**wrong)


def test_an_unknown_layer_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"'conv9'.*conv1, conv2.*fc8$"):
        quantized(keep_float=("conv9",))


@pytest.mark.parametrize("batches", [[], [np.zeros((0, 3, 57, 57), np.float32)]])
def test_calibration_needs_an_image(batches):
    with pytest.raises(UsageError, match="no images"):
        quantize(build_onnx(random_artifact()), batches, options())


def test_activations_that_overflow_are_named():
    with pytest.raises(SpecError, match="conv1 overflows"):
        quantize(build_onnx(random_artifact()), [np.full((1, 3, TINY.patch, TINY.patch), 3e38, np.float32)], options())


def parts_of(values: np.ndarray, order: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in np.array_split(values[order], 7):
        histogram.add(part)
    return histogram


def test_percentile_is_numpys_percentile_of_the_magnitudes_in_any_order_of_batches():
    rng = np.random.default_rng(0)
    values = (rng.standard_t(3, 1_000_000) * 5).astype(np.float32)
    expected = np.percentile(np.abs(values), PERCENTILE)
    assert expected < 0.5 * np.abs(values).max(), "some values must be clipped"
    for order in (np.arange(values.size), np.argsort(np.abs(values)), np.argsort(-np.abs(values))):
        histogram = parts_of(values, order)
        low, high = histogram.range("percentile")
        assert high == pytest.approx(expected, abs=2 * histogram.top / BINS)
        assert low == pytest.approx(-expected, abs=2 * histogram.top / BINS)
        assert histogram.range("minmax") == (values.min(), values.max())


def test_zeros_count_as_values_for_the_percentile_but_not_for_entropy():
    values = np.abs(np.random.default_rng(0).standard_normal(200_000)).astype(np.float32)
    alone, among = Histogram(), Histogram()
    alone.add(values)
    among.add(np.concatenate([values, np.zeros(20_000_000, np.float32)]))
    assert among.range("entropy") == alone.range("entropy")
    assert among.range("percentile")[1] < 0.9 * alone.range("percentile")[1]


def test_entropy_clips_a_far_outlier_and_nothing_of_a_flat_distribution():
    rng = np.random.default_rng(0)
    flat = rng.uniform(0, 10, 500_000).astype(np.float32)
    bell = np.append(rng.standard_normal(500_000), 40).astype(np.float32)
    flat_range, bell_range = (parts_of(v, np.arange(v.size)).range("entropy") for v in (flat, bell))
    assert flat_range[1] == pytest.approx(10, rel=0.02)
    assert 2.5 < bell_range[1] < 10
    assert -10 < bell_range[0] < -2.5


@pytest.mark.parametrize("method", ["percentile", "entropy", "minmax"])
def test_a_value_that_is_always_zero_has_a_range(method):
    histogram = Histogram()
    histogram.add(np.zeros((3, 4), np.float32))
    assert histogram.range(method) == (0, 0)


def test_tensorrt_accepts_its_kind_and_refuses_the_cpus():
    trt = pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install tensorrt-rtx")
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)

    def engine(model: onnx.ModelProto) -> bytes | None:
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        if not trt.OnnxParser(network, logger).parse(model.SerializeToString()):
            return None
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        config.num_compute_capabilities = 1  # for a GPU that need not be present
        config.set_compute_capability(trt.ComputeCapability.SM89, 0)
        profile.set_shape("patches", *((n, 3, TINY.patch, TINY.patch) for n in (1, 2, 4)))
        config.add_optimization_profile(profile)
        return bytes(builder.build_serialized_network(network, config))

    assert engine(quantized("tensorrt", "op"))
    assert engine(quantized("cpu", "op")) is None
