"""Hiding parts: where the square goes, and that the answers are those of a loop over images."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.errors import UsageError
from alexnet_infer.explain.occlusion import Hiding, boundaries, occlude, view_places
from alexnet_infer.preprocess import Preprocessing
from tests.explain.explained import PREPROCESSINGS, SIZE, net, square

SIZES = [(64, 57), (256, 227), (256, 224), (57, 57), (5, 3), (1, 1)]


def preprocessing(size: int, patch: int) -> Preprocessing:
    return Preprocessing(size=size, patch=patch, mean=np.zeros(3))


CASES = [
    (views, size, patch, side, stride)
    for views in ("ten", "center")
    for size, patch in SIZES
    for side, stride in ((None, None), (1, 1), (3, 2), (3, 3), (2, 1))
    if side is None or side <= patch
]


@pytest.mark.parametrize(("views", "size", "patch", "side", "stride"), CASES)
def test_positions_are_different_and_whole_and_hide_every_pixel(views, size, patch, side, stride):
    extent = size if views == "ten" else patch
    hiding = Hiding.of(preprocessing(size, patch), views, side, stride)
    begin = 0 if views == "ten" else (size - patch) // 2
    hidden = np.zeros(size, int)
    for offset in hiding.offsets:
        assert begin <= offset <= begin + extent - hiding.square
        hidden[offset : offset + hiding.square] += 1
    assert len({*hiding.offsets}) == len(hiding.offsets)
    assert (hidden[begin : begin + extent] > 0).all()
    assert hidden.sum() == len(hiding.offsets) * hiding.square
    steps = np.diff(hiding.offsets)
    assert (steps[:-1] == hiding.stride).all()
    assert (steps <= hiding.stride).all()
    assert hiding.regular == bool((steps == hiding.stride).all())
    assert hiding.positions == len(hiding.offsets) ** 2


@pytest.mark.parametrize(("size", "patch"), SIZES)
def test_tiles_cover_everything_once_and_hold_the_centre_of_their_square(size, patch):
    hiding = Hiding.of(preprocessing(size, patch), "ten", None, None)
    tiles = list(boundaries(hiding))
    assert [pixel for begin, end in tiles for pixel in range(begin, end)] == list(range(size))
    for (begin, end), offset in zip(tiles, hiding.offsets, strict=True):
        assert begin <= offset + hiding.square / 2 <= end


def test_the_default_is_a_fifth_of_the_patch_in_steps_of_a_tenth():
    for patch, side, stride in ((57, 11, 6), (227, 45, 23), (224, 45, 22)):
        hiding = Hiding.of(preprocessing(256, patch), "ten", None, None)
        assert (hiding.square, hiding.stride) == (side, stride)


@pytest.mark.parametrize(
    ("views", "side", "stride", "message"),
    [
        ("ten", 65, None, "--square 65: expected 1 to 64, the side of the net's square"),
        ("center", 58, None, "--square 58: expected 1 to 57, the side of the central patch"),
        ("ten", 0, None, "--square 0: expected 1 to 64"),
        ("ten", 5, 6, "--stride 6: expected 1 to 5"),
        ("ten", None, 0, "--stride 0: expected 1 to 11"),
    ],
)
def test_a_square_that_does_not_fit_or_leaves_parts_out_is_refused(views, side, stride, message):
    with pytest.raises(UsageError, match=f"^{message}"):
        Hiding.of(preprocessing(64, 57), views, side, stride)


def naive_views(image: np.ndarray, patch: int, views: str) -> list[np.ndarray]:
    """Cut the views of an image [S, S, 3], each [3, patch, patch], from their definition in section 4.1."""
    far, middle = len(image) - patch, (len(image) - patch) // 2
    corners = [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)] if views == "ten" else [(middle, middle)]
    cut = [image[y : y + patch, x : x + patch].transpose(2, 0, 1) for y, x in corners]
    return cut + ([np.flip(view, 2) for view in cut] if views == "ten" else [])


@pytest.mark.parametrize("views", ["ten", "center"])
@pytest.mark.parametrize("given", PREPROCESSINGS.values(), ids=list(PREPROCESSINGS))
def test_the_answers_are_those_of_a_loop_that_hides_each_part_of_the_image(given, views):
    artifact = net(preprocessing=given)
    backend = ReferenceBackend(artifact)
    picture, label = square(), 2
    hiding = Hiding.of(given, views, 30, 20)
    counted = []
    found = occlude(picture, given, backend, hiding, label, counted.append)
    image = picture.astype(float) / (255 if given.value_range == "0-1" else 1)
    image = image[..., ::-1] if given.channel_order == "BGR" else image
    read = image - given.mean.astype(float)
    expected = np.empty((len(hiding.offsets),) * 2)
    for i, top in enumerate(hiding.offsets):
        for j, left in enumerate(hiding.offsets):
            hidden = read.copy()
            hidden[top : top + 30, left : left + 30] = 0
            mean = backend.infer(np.stack(naive_views(hidden, 57, views))).mean(0)
            expected[i, j] = mean[label]
            assert mean[found.first[i, j]] == pytest.approx(mean.max(), abs=1e-6)
    assert found.probability == pytest.approx(expected, abs=1e-6)
    assert np.ptp(expected) > 1e-4, "hiding must matter, or any order of positions would pass"
    whole = backend.infer(np.stack(naive_views(read, 57, views))).mean(0)[label]
    assert found.whole == pytest.approx(whole, abs=1e-6)
    assert sum(counted) == hiding.positions


def test_views_are_where_the_definition_cuts_them():
    given = PREPROCESSINGS["RGB"]
    image = np.arange(SIZE * SIZE * 3.0).reshape(SIZE, SIZE, 3)
    for views in ("ten", "center"):
        for place, view in zip(view_places(given, views), naive_views(image, 57, views), strict=True):
            cut = image[place.row : place.row + 57, place.column : place.column + 57].transpose(2, 0, 1)
            assert np.array_equal(cut[:, :, ::-1] if place.mirrored else cut, view)
