"""Maps as images: their order, their scales, LRN on one map."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.architecture import LRN
from alexnet_infer.backends.reference import lrn
from alexnet_infer.explain.maps import Picture, grey, kernel_picture, most_active, normalised, strip, tiles


def decoded(picture: Picture) -> np.ndarray:
    head, data = picture.uri.split(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        pixels = np.asarray(image)
    assert pixels.shape[:2] == (picture.height, picture.width)
    return pixels


def random_maps(channels: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 50, (channels, 5, 7)).astype(np.float32)


def test_the_most_active_map_of_each_column_is_first_and_equal_maps_are_in_order():
    maps = np.zeros((6, 2, 2), np.float32)
    for number, level in enumerate((1, 3, -2, 5, 5, 7)):
        maps[number] = level
    assert most_active(maps, 2) == [[1, 2, 0], [5, 3, 4]]
    assert most_active(maps, 1) == [[5, 3, 4, 1, 2, 0]]


def test_every_map_is_in_its_own_column_once():
    ordered = most_active(random_maps(12), 3)
    assert [sorted(numbers) for numbers in ordered] == [[*range(4)], [*range(4, 8)], [*range(8, 12)]]


def test_a_map_of_values_of_at_least_0_is_black_at_0_and_white_at_its_largest():
    maps = np.maximum(random_maps(), 0)
    maps[3] = 0
    drawn = tiles(maps, [5, 3])
    assert [tile.number for tile in drawn] == [5, 3]
    pixels = decoded(drawn[0].picture)
    for row in range(5):
        for column in range(7):
            assert pixels[row, column] == pytest.approx(255 * maps[5, row, column] / maps[5].max(), abs=0.51)
    assert not decoded(drawn[1].picture).any()
    assert (drawn[1].mean, drawn[1].share, drawn[1].place) == (0, 0, "")


def test_a_map_of_a_layer_with_negative_values_is_grey_at_0():
    maps = random_maps()
    maps[2] = np.abs(maps[2])
    for number in (0, 2):
        (tile,) = tiles(maps, [number])
        peak = np.abs(maps[number]).max()
        assert decoded(tile.picture) == pytest.approx(127.5 + 127.5 * maps[number] / peak, abs=0.51)


def test_the_strength_is_the_mean_magnitude_and_its_share_of_the_most_active_map():
    maps = random_maps()
    means = [np.mean([abs(float(v)) for v in m.ravel()]) for m in maps]
    for tile in tiles(maps, range(8)):
        assert tile.mean == pytest.approx(means[tile.number])
        assert tile.share == pytest.approx(means[tile.number] / max(means))


@pytest.mark.parametrize(
    ("at", "place"), [((0, 0), "top left"), ((2, 3), "centre"), ((4, 6), "bottom right"), ((0, 3), "top centre")]
)
def test_the_place_of_the_largest_value_is_named(at, place):
    maps = np.ones((1, 5, 7), np.float32)
    maps[0][at] = -9
    assert tiles(maps, [0])[0].place == place


def test_a_kernel_is_grey_at_0_and_in_the_order_red_green_blue():
    kernel = np.zeros((3, 2, 2), np.float32)
    kernel[0, 0, 1], kernel[2, 1, 0] = 4, -2
    pixels = decoded(kernel_picture(kernel))
    assert pixels[0, 1].tolist() == [255, 128, 128]
    assert pixels[1, 0].tolist() == [128, 128, 64]
    assert pixels[0, 0].tolist() == [128, 128, 128]


def test_values_that_are_all_0_are_shown_as_0():
    assert set(grey(np.zeros(3), signed=False).tolist()) == {0}
    assert set(grey(np.zeros(3), signed=True).tolist()) == {128}


@pytest.mark.parametrize("units", [1, 2, 7, 24, 97, 200, 960, 4096])
def test_a_strip_has_every_unit_in_rows_from_the_upper_left_and_nothing_else(units):
    values = np.random.default_rng(1).uniform(0, 9, units).astype(np.float32)
    pixels = decoded(strip(values))
    levels, alpha = pixels[..., 0].ravel(), pixels[..., 1].ravel()
    assert levels[:units] == pytest.approx(255 * values / values.max(), abs=0.51)
    assert (alpha[:units] == 255).all()
    assert not alpha[units:].any()
    assert len(alpha) - units < pixels.shape[1]


SPECS = [
    LRN(name="norm", size=5, alpha=1e-4, beta=0.75, k=2, groups=2),
    LRN(name="norm", size=3, alpha=2e-5, beta=0.75, k=1),
    LRN(name="norm", size=5, alpha=1e-3, beta=0.5, k=2, groups=4),
]


@pytest.mark.parametrize("spec", SPECS, ids=["paper", "caffe", "narrow"])
def test_lrn_on_the_most_active_map_is_the_reference_and_the_ratio_is_after_by_before(spec):
    maps = np.maximum(random_maps() * 4, 0)
    after = lrn(maps[None].astype(np.float64), spec)[0].astype(np.float32)
    shown = normalised(maps, after, spec)
    number = int(maps.mean((1, 2)).argmax())
    assert shown.number == number
    before, peak = maps[number].astype(float), maps[number].max()
    assert decoded(shown.before) == pytest.approx(255 * before / peak, abs=0.51)
    assert decoded(shown.after) == pytest.approx(255 * after[number] / peak, abs=0.51)
    positive = before > 0
    ratio = after[number][positive] / before[positive]
    assert np.ptp(ratio) > 0.01, "LRN must matter"
    assert decoded(shown.ratio)[positive] == pytest.approx(255 * ratio / shown.most, abs=0.6)
    assert shown.lowest == pytest.approx(ratio.min())
    assert shown.most == pytest.approx(spec.k**-spec.beta)
    assert before[shown.row, shown.column] == peak == shown.value
    summed = maps[shown.first : shown.last + 1, shown.row, shown.column].astype(float)
    assert shown.total == pytest.approx((summed**2).sum())
    assert shown.last - shown.first < min(spec.size, len(maps) // spec.groups)
    assert shown.value / (spec.k + spec.alpha * shown.total) ** spec.beta == pytest.approx(shown.result, rel=1e-5)
