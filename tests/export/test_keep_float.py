"""The layers that stay in float: their shares and the drop in accuracy against each layer quantized by itself."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.export.keep_float import FloatLayers, Trial, _trial, choose_float_layers
from alexnet_infer.export.quantize import Calibrated, QuantizationOptions, layers, quantize
from alexnet_infer.graph.info import ExportInfo, Member
from alexnet_infer.graph.model import build_model
from alexnet_infer.preprocess import patches
from tests.nets import random_artifact

ort = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install onnxruntime")

LAYERS = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
IMAGES = 24
SQUARES = np.random.default_rng(0).integers(0, 256, (IMAGES, 64, 64, 3), np.uint8)
DIM = SQUARES[:2] // 2 + 64
"""Ranges that are measured on these are too narrow for the others, so quantization changes guesses."""
LABELS = np.arange(IMAGES) % 7
OPTIONS = QuantizationOptions(method="minmax")


def model_of(seeds: int = 1, views: str = "center"):
    members = tuple(Member(name=str(seed), sha256=f"{seed:064}") for seed in range(seeds))
    info = ExportInfo(members=members, views=views, lrn="conv")
    return build_model([random_artifact(seed=seed) for seed in range(seeds)], info)


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.fixture(scope="module")
def calibrated(model) -> Calibrated:
    return Calibrated(model, [DIM], OPTIONS)


def read():
    for begin in range(0, IMAGES, 10):
        yield SQUARES[begin : begin + 10], LABELS[begin : begin + 10]


def choose(calibrated: Calibrated, limits: dict[str, float], labelled: bool = False) -> FloatLayers:
    return choose_float_layers(calibrated, read, limits, images=IMAGES, labelled=labelled)


def run(model) -> np.ndarray:
    own = ort.SessionOptions()
    own.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), own, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": SQUARES})[0]


def only(model, layer: str) -> np.ndarray:
    """The probabilities with one layer quantized."""
    options = QuantizationOptions(method="minmax", keep_float=tuple(name for name in LAYERS if name != layer))
    return run(quantize(model, [DIM], options))


@pytest.fixture(scope="module")
def changed(calibrated) -> FloatLayers:
    return choose(calibrated, {"top1": 0})


def test_a_share_is_the_mean_squared_change_with_only_that_layer_quantized(model, changed):
    reference = run(model).astype(np.float64)
    errors = {layer: ((only(model, layer) - reference) ** 2).mean() for layer in LAYERS}
    for layer in changed.layers:
        assert layer.share == pytest.approx(errors[layer.layer] / sum(errors.values()), rel=1e-3)
    shares = [layer.share for layer in changed.layers]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    assert {layer.layer for layer in changed.layers} == {*LAYERS}


def test_as_few_layers_as_possible_are_kept_in_the_order_of_their_shares(model, changed):
    ranked = [layer.layer for layer in changed.layers]
    assert 0 < len(changed.kept) < len(LAYERS), "the case is one in which some layers have to stay in float"
    assert changed.kept == tuple(ranked[: len(changed.kept)])
    guesses = run(model).argmax(1)
    flips = []
    for count in range(len(changed.kept) + 1):
        options = QuantizationOptions(method="minmax", keep_float=tuple(ranked[:count]))
        flips.append(int((run(quantize(model, [DIM], options)).argmax(1) != guesses).sum()))
    assert [trial.top1 for trial in changed.trials] == pytest.approx([100 * flip / IMAGES for flip in flips])
    assert flips[-1] == 0
    assert all(flips[:-1])


def test_no_layer_is_kept_if_the_drop_is_allowed(calibrated):
    chosen = choose(calibrated, {"top1": 100, "top5": 100})
    assert (chosen.kept, len(chosen.trials)) == ((), 1)
    assert chosen.trials[0].kept == 0


def test_the_limit_itself_is_allowed(calibrated, changed):
    first = changed.trials[0].top1
    assert choose(calibrated, {"top1": first}).kept == ()
    assert choose(calibrated, {"top1": first - 1e-6}).kept != ()


@pytest.mark.parametrize("int8_for", ["cpu", "tensorrt"])
def test_with_all_layers_in_float_nothing_is_quantized_so_that_the_search_ends(model, int8_for):
    calibrated = Calibrated(model, [DIM], QuantizationOptions(method="minmax", int8_for=int8_for))
    everything = calibrated.quantized(LAYERS)
    assert not [node for node in everything.graph.node if "QuantizeLinear" in node.op_type]
    np.testing.assert_array_equal(run(everything), run(model))


def test_one_calibration_gives_the_same_files_as_one_for_each(model, calibrated):
    for kept in ((), ("conv1",), ("fc8", "conv3")):
        options = QuantizationOptions(method="minmax", keep_float=kept)
        assert calibrated.quantized(kept) == quantize(model, [DIM], options)
    assert calibrated.quantized() == quantize(model, [DIM], OPTIONS), "the calibrated model is not changed"


def test_layers_of_several_nets_are_chosen_separately():
    model = model_of(2)
    chosen = choose(Calibrated(model, [DIM], OPTIONS), {"top1": 100})
    assert {layer.layer for layer in chosen.layers} == {*layers(model)}
    assert {f"net{net}.{layer}" for net in (1, 2) for layer in LAYERS} == {*layers(model)}


def test_patches_are_averaged_over_the_views_of_each_image(monkeypatch):
    preprocessing = random_artifact().manifest.preprocessing
    monkeypatch.setattr("alexnet_infer.export.keep_float.layers", lambda model: {"conv1": None, "fc8": None})

    def patches_of(squares: np.ndarray) -> np.ndarray:
        return np.concatenate([patches(square, preprocessing) for square in squares])

    def read_patches():
        yield patches_of(SQUARES[:4]), LABELS[:4]

    def read_squares():
        yield SQUARES[:4], LABELS[:4]

    on_patches, on_squares = (
        choose_float_layers(
            Calibrated(model_of(views=views), [dim], OPTIONS), read, {"top1": 100}, images=4, labelled=True
        )
        for views, dim, read in (("none", patches_of(DIM), read_patches), ("ten", DIM, read_squares))
    )
    for first, second in zip(on_patches.layers, on_squares.layers, strict=True):
        assert (first.layer, first.share) == (second.layer, pytest.approx(second.share, rel=1e-3))
    assert on_patches.trials == on_squares.trials


def ranks(scores: np.ndarray, label: int) -> int:
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return order.index(label)


def test_with_labels_the_drop_is_the_rise_of_the_error_on_the_images_of_the_nets_classes():
    rng = np.random.default_rng(0)
    before, after = rng.random((40, 9)).round(1), rng.random((40, 9)).round(1)  # rounded, so that there are ties
    labels = rng.integers(-1, 9, 40)
    wrong = [
        [sum(label >= 0 and ranks(row, label) >= k for row, label in zip(scores, labels, strict=True)) for k in (1, 5)]
        for scores in (before, after)
    ]
    expected = [100 * (second - first) / (labels >= 0).sum() for first, second in zip(*wrong, strict=True)]
    assert _trial(3, before, after, labels) == Trial(kept=3, top1=expected[0], top5=expected[1])
    assert _trial(3, after, before, labels).top1 == -expected[0]


def test_without_labels_the_drop_is_the_share_of_changed_guesses_which_no_labels_exceed():
    rng = np.random.default_rng(1)
    before = rng.random((60, 9))
    after = before + rng.normal(0, 0.1, before.shape)
    changed = _trial(0, before, after, None)
    first = [({*np.argsort(-a)[:1]} != {*np.argsort(-b)[:1]}) for a, b in zip(before, after, strict=True)]
    five = [({*np.argsort(-a)[:5]} != {*np.argsort(-b)[:5]}) for a, b in zip(before, after, strict=True)]
    assert (changed.top1, changed.top5) == (100 * sum(first) / 60, 100 * sum(five) / 60)
    assert 0 < changed.top1 < 100
    for seed in range(20):
        labelled = _trial(0, before, after, np.random.default_rng(seed).integers(0, 9, 60))
        assert labelled.top1 <= changed.top1
        assert labelled.top5 <= changed.top5


def test_every_limit_has_to_be_met():
    trial = Trial(kept=0, top1=1.0, top5=2.0)
    assert trial.within({"top1": 1, "top5": 2})
    assert not trial.within({"top1": 0.9, "top5": 5})
    assert not trial.within({"top1": 5, "top5": 1.9})
    assert trial.within({})


def test_images_that_change_in_between_are_an_error(calibrated):
    with pytest.raises(UnreadableInputError, match="its images have changed"):
        choose_float_layers(calibrated, read, {"top1": 1}, images=IMAGES + 1, labelled=False)
