"""The picture of the kernels of a net's first layer."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs
from PIL import Image

from alexnet_infer.architecture import Architecture, Conv, Dense
from alexnet_infer.artifact import Artifact, embedded_model, load_artifact
from alexnet_infer.errors import UsageError
from alexnet_infer.evaluation.kernels import Kernels, kernel_image
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


def test_enlarged_pixels_are_squares_and_gaps_keep_their_size_and_are_black():
    weights = np.random.default_rng(1).normal(size=(4, 3, 2, 2))
    small, large = (kernel_image(weights, columns=2, scale=scale) for scale in (1, 5))
    for row, large_row in zip(tiles(small, 2, columns=2), tiles(large, 10, columns=2), strict=True):
        for tile, large_tile in zip(row, large_row, strict=True):
            assert np.array_equal(np.kron(tile, np.ones((5, 5, 1))), large_tile)
    assert np.flatnonzero(large.any((1, 2))).tolist() == [*range(1, 11), *range(23, 33)]
    assert np.flatnonzero(large.any((0, 2))).tolist() == [*range(1, 11), *range(12, 22)]


def test_the_embedded_net_has_two_columns():
    kernels = Kernels.of(load_artifact(embedded_model()))
    assert kernels.weights.shape == (32, 3, 3, 3)
    assert kernels.columns == 2
    assert kernels.image().shape == (2 * 34 + 12, 16 * 34 + 1, 3)


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
    kernels = Kernels.of(random_artifact())
    with Image.open(io.BytesIO(kernels.png())) as picture:
        assert picture.format == "PNG"
        assert np.array_equal(np.asarray(picture), kernels.image())


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
