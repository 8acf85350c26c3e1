"""The kernels of a net's first layer: their picture, and the share of colour in them."""

from __future__ import annotations

import io
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from msgspec import structs
from PIL import Image

from alexnet_infer import kernels
from alexnet_infer.architecture import Architecture, Conv, Dense
from alexnet_infer.artifact import Artifact, embedded_model, load_artifact
from alexnet_infer.errors import UsageError
from alexnet_infer.kernels import Kernels, kernel_image
from alexnet_infer.tensor_file import open_tensors
from tests.modelfiles import good, refused, written
from tests.nets import TINY, random_artifact


def numbered(count: int, size: int = 3) -> np.ndarray:
    """Make distinct kernels: two pixels of the i-th one encode the bits of i as full or zero red, green and blue."""
    weights = np.zeros((count, 3, size, size), np.float32)
    for i in range(count):
        for bit in range(6):
            weights[i, bit % 3, 0, bit // 3] = i >> bit & 1
        weights[i, 0, -1, -1] = -1  # sets the scale, also in kernel 0
    return weights


def read_number(tile: np.ndarray) -> int:
    return sum((int(tile[0, bit // 3, bit % 3]) == 255) << bit for bit in range(6))


def tiles(picture: np.ndarray, side: int, columns: int) -> list[list[np.ndarray]]:
    """Return the tiles by row. Gaps of one pixel are between and around them, of twelve between the net's columns."""
    height, width, _ = picture.shape
    column, remainder = divmod(height - 2 - 12 * (columns - 1), columns)
    assert remainder == (column + 1) % (side + 1) == (width - 1) % (side + 1) == 0
    starts = [1 + i * (column + 12) for i in range(columns)]
    return [
        [picture[y : y + side, x : x + side] for x in range(1, width, side + 1)]
        for start in starts
        for y in range(start, start + column, side + 1)
    ]


def test_the_papers_96_kernels_are_three_rows_of_16_for_each_of_two_columns():
    picture = kernel_image(np.random.default_rng(0).normal(size=(96, 3, 11, 11)), columns=2, scale=3)
    assert picture.shape == (6 * 34 + 12, 16 * 34 + 1, 3)
    assert picture.dtype == np.uint8


def test_the_first_columns_kernels_are_above_those_of_the_second_in_reading_order():
    rows = tiles(kernel_image(numbered(48), columns=2, scale=1), 3, columns=2)
    numbers = [[read_number(tile) for tile in row] for row in rows]
    assert numbers == [[*range(i, i + 12)] for i in (0, 12, 24, 36)]


def test_one_column_fills_its_rows():
    rows = tiles(kernel_image(numbered(40), columns=1, scale=1), 3, columns=1)
    assert [len(row) for row in rows] == [14, 14, 14]
    places = [tile for row in rows for tile in row]
    assert [read_number(tile) for tile in places[:40]] == list(range(40))
    assert not np.any(places[40:])  # places without a kernel are black


def test_each_kernel_has_its_own_scale_symmetric_around_grey():
    weights = np.zeros((3, 3, 2, 2))
    weights[0, :, 0] = [[1.0, 0.5], [0.0, -0.5], [-1.0, -0.25]]
    weights[1] = weights[0] * -1e-3  # inverted, and the same contrast after scaling
    first, second, zero = tiles(kernel_image(weights, columns=1, scale=1), 2, columns=1)[0]
    assert first[0, 0].tolist() == [255, 128, 0]
    assert first[0, 1].tolist() == [191, 64, 96]
    assert second[0, 0].tolist() == [0, 128, 255]
    assert np.all(first[1] == 128)
    assert np.all(zero == 128)


def test_the_largest_and_smallest_float32_weights_have_the_colours_of_the_same_weights_scaled():
    weights = np.random.default_rng(2).normal(size=(4, 3, 3, 3)).astype(np.float32)
    weights /= np.abs(weights).max()
    expected = kernel_image(weights, columns=2, scale=1)
    for factor in (2.0**127, 2.0**-100):
        assert np.array_equal(kernel_image(weights * np.float32(factor), columns=2, scale=1), expected)


def test_enlarged_pixels_are_squares_and_gaps_keep_their_size_and_are_black():
    weights = np.random.default_rng(1).normal(size=(4, 3, 2, 2))
    small, large = (kernel_image(weights, columns=2, scale=scale) for scale in (1, 5))
    for row, large_row in zip(tiles(small, 2, columns=2), tiles(large, 10, columns=2), strict=True):
        for tile, large_tile in zip(row, large_row, strict=True):
            assert np.array_equal(np.kron(tile, np.ones((5, 5, 1))), large_tile)
    assert np.flatnonzero(large.any((1, 2))).tolist() == [*range(1, 11), *range(23, 33)]
    assert np.flatnonzero(large.any((0, 2))).tolist() == [*range(1, 11), *range(12, 22)]


def test_the_embedded_net_has_two_columns():
    bundled = Kernels.of(load_artifact(embedded_model()))
    assert bundled.weights.shape == (32, 3, 3, 3)
    assert bundled.columns == 2
    assert bundled.image().shape == (2 * 34 + 12, 16 * 34 + 1, 3)


def test_a_net_without_groups_has_one_column():
    assert Kernels.of(random_artifact(replace(TINY, columns=1))).columns == 1


def test_a_net_that_takes_bgr_is_shown_in_rgb():
    artifact = random_artifact()
    manifest = artifact.manifest
    bgr = structs.replace(manifest, preprocessing=structs.replace(manifest.preprocessing, channel_order="BGR"))
    shown, swapped = Kernels.of(artifact).weights, Kernels.of(Artifact(bgr, artifact.tensors)).weights
    assert not np.array_equal(shown[:, 0], shown[:, 2])
    assert np.array_equal(swapped, shown[:, [2, 1, 0]])


def test_the_png_contains_the_picture():
    shown = Kernels.of(random_artifact())
    with Image.open(io.BytesIO(shown.png())) as picture:
        assert picture.format == "PNG"
        assert np.array_equal(np.asarray(picture), shown.image())


@pytest.mark.parametrize(
    "first",
    [(), (Conv(name="conv1", kernels=6, size=3, stride=1, pad=0, groups=3),)],
    ids=["fully-connected", "a kernel sees one colour"],
)
def test_a_net_with_another_first_layer_is_refused_by_name(first):
    manifest = random_artifact().manifest
    patch = manifest.architecture.patch
    architecture = Architecture(name="odd", patch=patch, operations=(*first, Dense(name="fc8", units=7)))
    tensors = {name: np.zeros(shape, np.float32) for name, shape in architecture.tensors.items()}
    with pytest.raises(UsageError, match=r"^random-alexnet-64 begins with (fc8|conv1): expected a convolution"):
        Kernels.of(Artifact(structs.replace(manifest, architecture=architecture), tensors))


def test_the_kernels_of_a_file_are_read_without_its_other_weights(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    random_artifact().save(path)
    whole = Kernels.of(load_artifact(path))
    names = []

    @contextmanager
    def spy(path):
        with open_tensors(path) as file:
            yield SimpleNamespace(
                get_slice=lambda name: names.append(name) or file.get_slice(name), get_tensor=file.get_tensor
            )

    monkeypatch.setattr(kernels, "open_tensors", spy)
    alone = Kernels.read(path)
    assert names == ["conv1.weight"]
    assert np.array_equal(alone.weights, whole.weights)
    assert (alone.columns, alone.net, alone.layer) == (whole.columns, whole.net, whole.layer) != (0, "", None)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (None, "conv1.weight"),
        (("I8", np.zeros((4, 3, 3, 3))), "I8 [4, 3, 3, 3]: expected floats [4, 3, 3, 3]"),
        (("F32", np.zeros((4, 3, 3, 2))), "F32 [4, 3, 3, 2]: expected floats [4, 3, 3, 3]"),
        (("F32", np.full((4, 3, 3, 3), np.nan)), "conv1.weight has weights that are NaN, infinite or beyond float32"),
        (("F64", np.full((4, 3, 3, 3), 1e300)), "conv1.weight has weights that are NaN, infinite or beyond float32"),
    ],
    ids=["missing", "whole numbers", "another shape", "NaN", "beyond float32"],
)
def test_invalid_kernels_in_a_file_are_refused_by_its_name(tmp_path, tensor, words):
    path = tmp_path / "net.safetensors"
    path.write_bytes(written(good(conv1__weight=tensor)))
    refused(path, words, load=Kernels.read)


# Colour.


def kernels_of(weights: np.ndarray, columns: int = 1) -> Kernels:
    count, _, height, _ = np.shape(weights)
    layer = Conv(name="conv1", kernels=count, size=height)
    return Kernels(weights=np.asarray(weights, np.float32), columns=columns, net="a net", layer=layer)


def outside_the_grey_axis(weights: np.ndarray) -> tuple[float, float]:
    """Energy outside the grey axis and whole energy, pixel by pixel: with its two orthogonal axes of colour."""
    red_green, yellow_blue = np.array([1, -1, 0]) / 2**0.5, np.array([1, 1, -2]) / 6**0.5
    colour = whole = 0.0
    for kernel in weights:
        for y, x in np.ndindex(kernel.shape[1:]):
            pixel = kernel[:, y, x].astype(float)
            colour += (pixel @ red_green) ** 2 + (pixel @ yellow_blue) ** 2
            whole += pixel @ pixel
    return colour, whole


def test_the_share_of_colour_is_the_energy_along_the_axes_of_colour():
    weights = np.random.default_rng(0).normal(size=(6, 3, 4, 5)) * np.array([1, 5, 0.1, 2, 3, 9]).reshape(-1, 1, 1, 1)
    net = kernels_of(weights, columns=2)
    expected = [np.divide(*outside_the_grey_axis(part)) for part in (weights[:3], weights[3:])]
    assert net.colour_shares() == pytest.approx(expected, rel=1e-6)
    assert expected[0] != pytest.approx(expected[1], rel=0.01)
    each = [np.divide(*outside_the_grey_axis(weights[i : i + 1])) for i in range(6)]
    assert net.kernel_colour_shares() == pytest.approx(each, rel=1e-6)
    # A kernel counts by its energy: the mean over kernels is another figure.
    assert np.mean(each[:3]) != pytest.approx(expected[0], rel=0.01)


def test_a_grey_kernel_has_no_colour_one_of_red_minus_green_nothing_else_and_a_red_one_two_thirds():
    pattern = np.random.default_rng(0).normal(size=(5, 5))
    axes = {(1, 1, 1): 0, (-2, -2, -2): 0, (1, -1, 0): 1, (1, 1, -2): 1, (1, 0, 0): 2 / 3, (0, 0, 3): 2 / 3}
    net = kernels_of([np.multiply.outer(axis, pattern) for axis in axes], columns=len(axes))
    assert net.kernel_colour_shares() == pytest.approx(list(axes.values()), abs=1e-6)
    assert net.colour_shares() == pytest.approx(list(axes.values()), abs=1e-6)


def test_kernels_of_zeros_have_no_colour():
    shares = kernels_of(np.zeros((4, 3, 2, 2)), columns=2)
    assert shares.colour_shares() == (0, 0)
    assert shares.kernel_colour_shares().tolist() == [0] * 4


@pytest.mark.parametrize("factor", [-1, 1e-30, 1e30])
def test_the_share_of_colour_does_not_depend_on_the_scale_of_the_weights(factor):
    weights = np.random.default_rng(3).normal(size=(4, 3, 3, 3)).astype(np.float32)
    shares = kernels_of(weights, columns=2).colour_shares()
    assert kernels_of(weights * np.float32(factor), columns=2).colour_shares() == pytest.approx(shares, rel=1e-5)
    assert all(0.1 < share < 0.99 for share in shares)


def test_a_net_that_takes_bgr_has_the_same_shares():
    weights = np.random.default_rng(4).normal(size=(4, 3, 3, 3))
    swapped = kernels_of(weights[:, ::-1], columns=2).colour_shares()
    assert kernels_of(weights, columns=2).colour_shares() == pytest.approx(swapped)


def test_sorting_by_colour_keeps_each_columns_kernels_together_and_puts_grey_first():
    weights = np.random.default_rng(5).normal(size=(12, 3, 3, 3))
    net = kernels_of(weights, columns=2)
    by_colour = net.by_colour()
    for column in range(2):
        shares = kernels_of(by_colour.column(column)).kernel_colour_shares()
        assert shares.tolist() == sorted(shares)
        before, after = ({kernel.tobytes() for kernel in k.column(column)} for k in (net, by_colour))
        assert before == after
    assert by_colour.colour_shares() == pytest.approx(net.colour_shares())
    assert not np.array_equal(by_colour.weights, net.weights)
