"""The agreement of layers against figures of whole arrays, and the images on which it is measured."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.evaluation.layer_agreement import LayerAgreement, LayersCompared, compare_layers
from alexnet_infer.photos import expand
from alexnet_infer.preprocess import Rescaling


class Net:
    """Layers computed from a square: itself, a function of it, and constants."""

    rescaling = Rescaling(size=8)

    def __init__(self, change: float = 0.0) -> None:
        self.change = change
        self.calls: list[int] = []

    def activations(self, squares) -> dict[str, np.ndarray]:
        self.calls.append(len(squares))
        values = np.stack(squares).astype(np.float32)
        noise = np.cos(values) * self.change
        special = np.full_like(values, np.inf if self.change else 1)
        return {"same": values, "noisy": values + noise, "zero": 0 * values, "lost": values * (not self.change)} | {
            "gained": 0 * values + self.change,
            "overflow": special,
        }


LAYERS = ["same", "noisy", "zero", "lost", "gained", "overflow"]


@pytest.fixture
def photos(tmp_path) -> Path:
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return tmp_path


def compared(photos: Path, change: float = 3.0, **given) -> LayersCompared:
    return compare_layers(Net(), Net(change), expand([str(photos)]), LAYERS, **given)


def test_error_and_cosine_are_those_of_all_values_of_all_images_together(photos):
    reference, candidate = Net(), Net(3.0)
    seen: list[np.ndarray] = []
    taken = reference.activations
    reference.activations = lambda squares: (seen.extend(squares), taken(squares))[1]
    layers = compare_layers(reference, candidate, expand([str(photos)]), LAYERS).layers
    assert len(seen) == 15, "each photo and its quarters"
    a = Net().activations(seen)["noisy"].astype(np.float64)
    b = Net(3.0).activations(seen)["noisy"].astype(np.float64)
    noisy = layers[1]
    assert noisy.difference == pytest.approx(np.sqrt(np.mean((b - a) ** 2)) / np.sqrt(np.mean(a**2)), rel=1e-12)
    assert noisy.cosine == pytest.approx((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-12)


def test_layers_without_an_angle_or_a_size_have_no_figure_instead_of_nan(photos):
    by_name = {layer.layer: (layer.difference, layer.cosine) for layer in compared(photos).layers}
    assert by_name["same"] == (0, pytest.approx(1))
    assert by_name["zero"] == (0, None)
    assert by_name["lost"] == (1, None)
    assert by_name["gained"] == (math.inf, None)
    assert by_name["overflow"] == (math.inf, None)
    for layer in compared(photos).layers:
        assert json.loads(json.dumps(layer.to_json(), allow_nan=False))["layer"] == layer.layer


def test_the_worst_layer_is_first_and_equal_layers_keep_their_order(photos):
    result = compared(photos)
    assert [layer.position for layer in result.layers] == [1, 2, 3, 4, 5, 6]
    assert [layer.layer for layer in result.worst_first] == ["gained", "overflow", "lost", "noisy", "same", "zero"]
    assert [layer.position for layer in result.worst_first] == [5, 6, 4, 2, 1, 3]


@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_few_images_are_run_at_a_time_with_one_result(photos, at_once):
    nets = Net(), Net(3.0)
    counts: list[int] = []
    images = expand([str(photos)])
    result = compare_layers(*nets, images, LAYERS, at_once=at_once, on_images=counts.append)
    assert max(nets[0].calls) == min(at_once, 15)
    assert sum(counts) == result.images == 15
    assert result.layers[1].difference == pytest.approx(compared(photos).layers[1].difference, rel=1e-12)


def test_images_after_the_first_ones_are_read_but_not_compared(photos):
    (photos / "9.png").write_text("not an image")
    net = Net()
    result = compare_layers(net, Net(3.0), expand([str(photos)]), LAYERS, most=4, at_once=3)
    assert sum(net.calls) == 4
    assert (result.images, [Path(image.image).name for image in result.unreadable]) == (16, ["9.png"])


def test_without_a_readable_image_the_first_reason_is_given(tmp_path):
    (tmp_path / "9.png").write_text("not an image")
    with pytest.raises(UnreadableInputError, match=r"no image could be read \(.*9\.png: not an image"):
        compared(tmp_path)


def test_a_difference_that_is_not_finite_is_within_no_tolerance():
    assert not LayerAgreement(layer="a", position=1, difference=math.inf, cosine=None).within(1e30)
