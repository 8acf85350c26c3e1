"""The square and the ten patches, checked with images whose pixels say where they come from."""

from __future__ import annotations

import base64
import json
import math
import time

import numpy as np
import pytest
from PIL import Image

from alexnet_infer.errors import SpecError, UnreadableInputError
from alexnet_infer.preprocess import (
    ALIASED,
    FILTERS,
    RESAMPLES,
    TORCHVISION,
    WHOLE_PIXELS,
    Preprocessing,
    Rescaling,
    central_square,
    patch_offsets,
    patches,
    square_of,
    torchvision_square,
)

SMOOTH = ("bilinear", "bicubic", "lanczos")


def preprocessing(**fields) -> Preprocessing:
    return Preprocessing(**({"size": 9, "patch": 6, "mean": np.zeros(3)} | fields))


def coded(size: int) -> np.ndarray:
    """uint8 [size, size, 3]: red is the row, green the column, blue constant."""
    image = np.full((size, size, 3), 200, np.uint8)
    image[:, :, 0] = np.arange(size)[:, None]
    image[:, :, 1] = np.arange(size)
    return image


def noise(width: int, height: int, low: int = 0, high: int = 256, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(low, high, (height, width, 3)).astype(np.uint8))


# Patches.


@pytest.mark.parametrize(
    ("size", "patch", "center"),
    [(256, 227, 14), (256, 224, 16), (64, 57, 3), (9, 6, 1), (9, 9, 0), (10, 9, 0), (1, 1, 0)],
)
def test_the_ten_views_are_four_corners_and_the_centre_and_their_mirror_images_in_that_order(size, patch, center):
    far = size - patch
    corners = [(0, 0), (0, far), (far, 0), (far, far), (center, center)]
    views = patches(coded(size), preprocessing(size=size, patch=patch))
    assert views.shape == (10, 3, patch, patch)
    steps = np.arange(patch)
    for view, mirrored, (row, column) in zip(views[:5], views[5:], corners, strict=True):
        rows, columns = np.meshgrid(row + steps, column + steps, indexing="ij")
        assert np.array_equal(view, [rows, columns, np.full_like(rows, 200)])
        assert np.array_equal(mirrored, [rows, columns[:, ::-1], np.full_like(rows, 200)])


def test_the_central_view_is_the_fifth_of_the_ten():
    square = np.asarray(noise(9, 9))
    p = preprocessing()
    center = patches(square, p, "center")
    assert center.shape == (1, 3, 6, 6)
    assert np.array_equal(center[0], patches(square, p)[4])


def test_offsets_of_the_papers_patches():
    assert patch_offsets(256, 227, "ten") == [(0, 0), (0, 29), (29, 0), (29, 29), (14, 14)]
    assert patch_offsets(256, 227, "center") == [(14, 14)]


def test_patches_are_float32_and_contiguous_as_runtimes_expect():
    views = patches(coded(9), preprocessing())
    assert views.dtype == np.float32
    assert views.flags.c_contiguous


def test_a_mean_for_each_channel_is_subtracted_from_its_channel():
    mean = np.array([10.5, 20.25, 30.125])
    views = patches(coded(9), preprocessing(mean=mean))
    assert np.array_equal(views + mean[:, None, None], patches(coded(9), preprocessing()))


def test_a_mean_for_each_pixel_is_cropped_and_mirrored_with_the_patch():
    square = np.asarray(noise(9, 9))
    # When the mean is the image itself, nothing is left in any view; a mean cut or mirrored otherwise leaves something.
    assert not patches(square, preprocessing(mean=square)).any()
    shifted = np.clip(square, 0, 250) // 2
    expected = patches(square - shifted, preprocessing())
    assert np.array_equal(patches(square, preprocessing(mean=shifted)), expected)


def test_bgr_reverses_the_channels_and_the_mean_is_in_that_order():
    mean = np.array([1.0, 2.0, 3.0])  # of blue, green, red
    views = patches(coded(9), preprocessing(mean=mean, channel_order="BGR"))
    rgb = patches(coded(9), preprocessing())
    assert np.array_equal(views, rgb[:, ::-1] - mean[:, None, None].astype(np.float32))


def test_a_mean_for_each_pixel_is_in_the_channel_order_of_the_net():
    square = np.asarray(noise(9, 9))
    p = preprocessing(mean=square[:, :, ::-1], channel_order="BGR")
    assert not patches(square, p).any()


def test_values_in_0_1_are_divided_before_the_mean_is_subtracted():
    mean = np.array([0.5, 0.25, 0.125])
    views = patches(coded(9), preprocessing(mean=mean, value_range="0-1"))
    expected = patches(coded(9), preprocessing()) / 255.0 - mean[:, None, None]
    np.testing.assert_allclose(views, expected, atol=1e-7)


def test_black_and_white_span_the_range_that_the_manifest_names():
    white = np.full((9, 9, 3), 255, np.uint8)
    assert patches(white, preprocessing()).max() == 255
    assert patches(white, preprocessing(value_range="0-1")).max() == 1


def test_the_square_itself_is_not_modified():
    square = np.asarray(noise(9, 9)).copy()
    before = square.copy()
    patches(square, preprocessing(value_range="0-1", mean=np.full(3, 0.5)))
    assert np.array_equal(square, before)


@pytest.mark.parametrize("square", [np.zeros((10, 10, 3), np.uint8), np.zeros((9, 9, 3), np.float32)])
def test_a_square_of_another_size_or_type_is_a_bug_of_the_caller(square):
    with pytest.raises(AssertionError):
        patches(square, preprocessing())


# The square.


def rescaled(image: Image.Image, sides: tuple[int, int], resample: str) -> Image.Image:
    """The complete image, rescaled by Pillow, or by OpenCV for its filter."""
    if resample == ALIASED:
        cv2 = pytest.importorskip("cv2")
        return Image.fromarray(cv2.resize(np.asarray(image), sides, interpolation=cv2.INTER_LINEAR))
    return image.resize(sides, FILTERS[resample])


def whole(image: Image.Image, size: int, resample: str) -> np.ndarray:
    """Section 2 taken literally: rescale everything, then crop the centre."""
    short = min(image.size)
    width, height = (max(size, round(side * size / short)) for side in image.size)
    if (width, height) != image.size:
        image = rescaled(image, (width, height), resample)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def largest_difference(image: Image.Image, size: int, resample: str) -> int:
    square = central_square(image, size, resample)
    assert square.shape == (size, size, 3)
    assert square.dtype == np.uint8
    return int(np.abs(square.astype(int) - whole(image, size, resample)).max())


@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize("side", [1, 2, 63, 64, 65, 200])
def test_a_square_image_is_rescaled_as_pillow_does_exactly(side, resample):
    assert largest_difference(noise(side, side), 64, resample) == 0


@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize(("width", "height"), [(64, 64), (64, 65), (65, 64), (64, 200), (201, 64)])
def test_an_image_whose_short_side_is_right_is_only_cropped(width, height, resample):
    image = noise(width, height)
    left, top = (width - 64) // 2, (height - 64) // 2
    pixels = np.asarray(image)[top : top + 64, left : left + 64]
    assert np.array_equal(central_square(image, 64, resample), pixels)


@pytest.mark.parametrize("resample", SMOOTH)
@pytest.mark.parametrize(
    ("width", "height"),
    [(100, 60), (60, 100), (61, 97), (97, 61), (333, 500), (500, 375), (20, 900), (900, 20), (1, 7), (7, 1), (3, 2)],
)
@pytest.mark.parametrize("size", [57, 64])
def test_rescaling_only_what_is_needed_gives_what_rescaling_everything_gives(width, height, size, resample):
    # Two levels: Pillow rounds between its two passes. The noise stays away from black and white, where the filters'
    # overshoot is clipped between the passes as well.
    assert largest_difference(noise(width, height, 100, 156), size, resample) <= 2
    if resample == "bilinear":  # which never overshoots
        assert largest_difference(noise(width, height), size, resample) <= 1


SHAPES = [(100, 60), (60, 100), (500, 375), (31, 64), (64, 64), (20, 900), (1, 7)]


@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize(("width", "height"), SHAPES)
def test_stretching_uses_the_complete_image_whatever_its_shape(width, height, resample):
    image = noise(width, height)
    square = square_of(image, Rescaling(size=57, resample=resample, fit="stretch"))
    assert np.array_equal(square, np.asarray(rescaled(image, (57, 57), resample)))


@pytest.mark.parametrize(("width", "height"), SHAPES)
def test_cropping_by_the_aliased_filter_is_opencvs_resize_and_then_a_crop(width, height):
    """Except for rounding: positions in the image, and so weights in 2048ths, are rounded in another order."""
    assert largest_difference(noise(width, height), 57, ALIASED) <= 1


def test_the_aliased_filter_is_not_pillows_bilinear():
    image = noise(500, 375)
    aliased, smooth = (central_square(image, 57, resample).astype(int) for resample in (ALIASED, "bilinear"))
    assert np.abs(aliased - smooth).mean() > 20


@pytest.mark.parametrize(("width", "height"), SHAPES)
def test_cropping_is_the_central_square(width, height):
    image = noise(width, height)
    rescaling = Rescaling(size=57, resample="lanczos")
    assert np.array_equal(square_of(image, rescaling), central_square(image, 57, "lanczos"))


def torchvisions(image: Image.Image, resize: int, crop: int, filter: Image.Resampling) -> np.ndarray:
    """torchvision 0.28's `resize` and `center_crop` of a PIL image, from functional.py and _functional_pil.py."""
    w, h = image.size
    short, long = (w, h) if w <= h else (h, w)
    new_short, new_long = resize, int(resize * long / short)
    new_w, new_h = (new_short, new_long) if w <= h else (new_long, new_short)
    if (new_w, new_h) != (w, h):
        image = image.resize((new_w, new_h), filter)
    crop_top = round((new_h - crop) / 2.0)
    crop_left = round((new_w - crop) / 2.0)
    return np.asarray(image.crop((crop_left, crop_top, crop_left + crop, crop_top + crop)))


@pytest.mark.parametrize("resample", FILTERS)
def test_a_net_of_torchvision_sees_the_pixels_of_its_transforms_whatever_the_size(resample):
    """The square of 256 and its central patch of 224, as in torchvision's ImageClassification preset."""
    rescaling = Rescaling(size=256, resample=resample, fit=TORCHVISION)
    p = preprocessing(size=256, patch=224, resample=resample, fit=TORCHVISION)
    sizes = np.random.default_rng(7).integers(2, 700, (40, 2)).tolist()
    sizes += [(w, h) for w in (255, 256, 257) for h in (256, 257, 259, 301, 400)] + [(400, 257), (7, 1), (1, 1)]
    other = 0
    for number, (width, height) in enumerate(sizes):
        image = noise(width, height, seed=number)
        square = square_of(image, rescaling)
        assert np.array_equal(square, torchvisions(image, 256, 256, FILTERS[resample])), (width, height)
        view = patches(square, p, "center")[0].transpose(1, 2, 0)
        assert np.array_equal(view, torchvisions(image, 256, 224, FILTERS[resample])), (width, height)
        other += not np.array_equal(square, central_square(image, 256, resample))
    assert other > 20  # the paper's rounding would not pass


def test_torchvisions_rounding_differs_from_the_papers_in_side_and_corner():
    """400 x 267 at S = 64: 95.88 is 95 and not 96. (131 - 64) / 2 is 34 and not 33; (129 - 64) / 2 is 32 in both."""
    for width, height in ((400, 267), (131, 64)):
        image = noise(width, height)
        assert not np.array_equal(torchvision_square(image, 64), central_square(image, 64, "bilinear"))
    image = noise(129, 64)
    assert np.array_equal(torchvision_square(image, 64), np.asarray(image)[:, 32:96])
    image = noise(131, 64)
    assert np.array_equal(torchvision_square(image, 64), np.asarray(image)[:, 34:98])


@pytest.mark.parametrize("shape", [(60_000, 20), (20, 60_000)])
def test_a_long_strip_costs_little_with_torchvisions_rounding_too(shape):
    started = time.process_time()
    square = torchvision_square(Image.new("RGB", shape, (1, 2, 3)), 256)
    assert time.process_time() - started < 0.5
    assert np.array_equal(square, np.broadcast_to(np.uint8([1, 2, 3]), (256, 256, 3)))


@pytest.mark.parametrize("longer", [True, False])
def test_only_a_very_long_strip_is_not_rescaled_completely_and_differs_by_little(longer):
    side = WHOLE_PIXELS // 256 * 20 // 256 + (1 if longer else -1)
    image = noise(side, 20)
    square = torchvision_square(image, 256).astype(int)
    difference = np.abs(square - torchvisions(image, 256, 256, FILTERS["bilinear"]))
    assert difference.max() <= (2 if longer else 0)


def test_the_aliased_filter_keeps_torchvisions_sides_and_corner():
    cv2 = pytest.importorskip("cv2")
    for width, height in ((400, 267), (267, 400), (131, 64)):
        image = noise(width, height)
        sides = [int(64 * side / min(width, height)) for side in (width, height)]
        left, top = (round((side - 64) / 2) for side in sides)
        expected = cv2.resize(np.asarray(image), sides, interpolation=cv2.INTER_LINEAR)
        square = square_of(image, Rescaling(size=64, resample=ALIASED, fit=TORCHVISION)).astype(int)
        assert np.abs(square - expected[top : top + 64, left : left + 64]).max() <= 1


@pytest.mark.parametrize("portrait", [False, True])
@pytest.mark.parametrize(("long", "short", "size"), [(200, 100, 50), (250, 100, 50), (120, 100, 20)])
def test_the_square_is_in_the_middle_to_a_fraction_of_a_pixel(long, short, size, portrait):
    # A ramp keeps its values under any symmetric filter: pixel j of the square holds the ramp's value at its centre.
    ramp = np.broadcast_to(np.arange(long, dtype=np.uint8)[None, :, None], (short, long, 3))
    image = Image.fromarray(np.ascontiguousarray(ramp.swapaxes(0, 1) if portrait else ramp))
    square = central_square(image, size, "bilinear").astype(float)
    scale = short / size
    expected = (long - short) / 2 + (np.arange(size) + 0.5) * scale - 0.5
    along = square if not portrait else square.swapaxes(0, 1)
    assert np.abs(along - expected[None, :, None]).max() <= 1


@pytest.mark.parametrize("size", [1, 5, 64])
def test_a_single_pixel_fills_the_square(size):
    image = Image.new("RGB", (1, 1), (7, 80, 255))
    assert np.array_equal(central_square(image, size), np.broadcast_to(np.uint8([7, 80, 255]), (size, size, 3)))


def test_bicubic_is_the_default_filter():
    image = noise(100, 60)
    assert np.array_equal(central_square(image, 32), central_square(image, 32, "bicubic"))
    assert not np.array_equal(central_square(image, 32), central_square(image, 32, "bilinear"))
    assert preprocessing().resample == "bicubic"


@pytest.mark.parametrize("shape", [(60_000, 20), (20, 60_000)])
def test_a_long_strip_costs_no_more_than_the_square_that_is_kept(shape):
    strip = Image.new("RGB", shape, (1, 2, 3))
    started = time.process_time()
    square = central_square(strip, 256)
    # The complete image would be rescaled to 768,000 x 256: seconds, and 600 MB.
    assert time.process_time() - started < 0.5
    assert np.array_equal(square, np.broadcast_to(np.uint8([1, 2, 3]), (256, 256, 3)))


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_an_image_without_pixels_is_refused(shape):
    with pytest.raises(UnreadableInputError, match=f"{shape[0]} x {shape[1]} pixels"):
        central_square(Image.new("RGB", shape), 64)
    with pytest.raises(UnreadableInputError, match=f"{shape[0]} x {shape[1]} pixels: expected at least 1 x 1"):
        square_of(Image.new("RGB", shape), Rescaling(size=64, fit="stretch"))
    with pytest.raises(UnreadableInputError, match=f"{shape[0]} x {shape[1]} pixels: expected at least 1 x 1"):
        square_of(Image.new("RGB", shape), Rescaling(size=64, fit=TORCHVISION))


# The description in a model file.


def through_json(p: Preprocessing) -> Preprocessing:
    return Preprocessing.from_json(json.loads(json.dumps(p.to_json(), allow_nan=False)))


@pytest.mark.parametrize(
    "mean",
    [
        [122.7717, 115.9465, 102.9801],
        np.random.default_rng(0).uniform(0, 255, 3),
        np.random.default_rng(0).uniform(0, 255, (9, 9, 3)),
    ],
    ids=["published", "per channel", "per pixel"],
)
@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize("channel_order", ["RGB", "BGR"])
def test_json_restores_every_field_to_the_last_bit(mean, resample, channel_order):
    p = preprocessing(mean=mean, resample=resample, channel_order=channel_order)
    back = through_json(p)
    assert back.mean.dtype == np.float32
    assert back.mean.shape == p.mean.shape
    assert back.mean.tobytes() == p.mean.tobytes() == np.asarray(mean, np.float32).tobytes()
    fields = ("size", "patch", "resample", "channel_order", "value_range")
    assert [getattr(back, name) for name in fields] == [getattr(p, name) for name in fields]


def test_the_kind_of_fit_is_a_value_and_no_new_field_so_that_earlier_files_keep_their_bytes():
    fields = {"size", "patch", "mean", "resample", "fit", "channel_order", "value_range"}
    assert preprocessing().to_json().keys() == fields
    assert repr(Rescaling(size=9)) == "Rescaling(size=9, resample='bicubic', fit='crop')"
    other = preprocessing(fit=TORCHVISION)
    assert other.to_json() == preprocessing().to_json() | {"fit": "crop-torchvision"}
    assert through_json(other).rescaling == Rescaling(size=9, fit=TORCHVISION)


def test_json_restores_values_in_0_1():
    p = through_json(preprocessing(mean=[0.485, 0.456, 0.406], value_range="0-1"))
    assert p.value_range == "0-1"
    assert np.array_equal(p.mean, np.float32([0.485, 0.456, 0.406]))


def test_the_mean_is_a_read_only_copy():
    mean = np.zeros(3, np.float32)
    p = preprocessing(mean=mean)
    mean[:] = 7  # does not change the copy
    assert not p.mean.any()
    with pytest.raises(ValueError, match="read-only"):
        p.mean[0] = 1


@pytest.mark.parametrize("field", ["size", "patch", "mean", "resample", "channel_order", "value_range"])
def test_no_field_may_be_missing_from_a_file(field):
    data = preprocessing().to_json()
    del data[field]
    with pytest.raises(SpecError, match=f"^preprocessing: missing fields: {field}$"):
        Preprocessing.from_json(data)


def refused(data, *parts: str) -> None:
    with pytest.raises(SpecError) as caught:
        Preprocessing.from_json(data)
    message = str(caught.value)
    assert message.isprintable(), message
    assert len(message) < 300, message
    for part in ("preprocessing", *parts):
        assert part in message, (part, message)


HUGE = pytest.param(10**5000, id="more digits than Python prints")


@pytest.mark.parametrize("data", [None, [], "x", 3, True])
def test_anything_but_an_object_is_refused(data):
    refused(data, f"preprocessing={data!r}: expected an object")


@pytest.mark.parametrize(
    ("data", "unknown"), [({}, ""), ({"a\nb": 1}, r"unknown fields: a\nb"), ({"x" * 10_000: 1}, "unknown fields: xxx")]
)
def test_an_object_without_the_expected_fields_is_refused(data, unknown):
    refused(data, "missing fields: channel_order, fit, mean, ", unknown)


def test_an_unknown_field_is_refused():
    refused(preprocessing().to_json() | {"std\n": [1, 1, 1]}, r"preprocessing: unknown fields: std\n")


@pytest.mark.parametrize("value", [0, -1, 4097, 2**70, HUGE, 9.0, math.nan, True, "9", None, [9], {}])
@pytest.mark.parametrize("field", ["size", "patch"])
def test_sides_must_be_whole_numbers_from_1_to_4096(field, value):
    refused(preprocessing().to_json() | {field: value}, f"{field}=", "expected a whole number from 1 to 4096")


def test_a_patch_larger_than_the_square_is_refused():
    refused(preprocessing().to_json() | {"patch": 10}, "patch=10 is larger than size=9")


@pytest.mark.parametrize(
    ("field", "value", "choices"),
    [
        ("resample", "BICUBIC", "nearest or bilinear or bicubic or lanczos"),
        ("resample", 3, "bicubic"),
        ("resample", ["bicubic"], "bicubic"),
        ("resample", "x\n" * 9999, "bicubic"),
        ("channel_order", "rgb", "RGB or BGR"),
        ("channel_order", None, "RGB or BGR"),
        ("value_range", "0-2", "0-255 or 0-1"),
        ("value_range", {}, "0-255 or 0-1"),
    ],
)
def test_an_invalid_choice_is_refused_with_the_valid_ones(field, value, choices):
    refused(preprocessing().to_json() | {field: value}, f"{field}=", choices)


@pytest.mark.parametrize(
    "mean",
    [
        None, 3, "x", True, [], [1, 2], [1, 2, 3, 4], ["1", "2", "3"], [True, 1, 2], [None, 1, 2], [[1], [2], [3]],
        [math.nan, 1, 2], [1, math.inf, 2], [1e300, 1, 2], [10**400, 1, 2], {}, {"float32": None}, {"float32": "é"},
        {"float32": "AAA"}, {"float32": "AAAA"}, {"float32": "", "more": 1}, {"float64": ""}, {"float32": ["AAAA"]},
    ],
    ids=repr,
)  # fmt: skip
def test_an_invalid_mean_is_refused(mean):
    refused(preprocessing().to_json() | {"mean": mean}, "mean")


@pytest.mark.parametrize("size", [0, -9, 9.0, "9", None, True, [9], 2**70])
def test_an_invalid_size_is_refused_beside_a_mean_for_each_pixel(size):
    data = preprocessing(mean=np.zeros((9, 9, 3))).to_json()
    refused(data | {"size": size}, f"size={size!r}: expected a whole number")


def test_a_mean_for_each_pixel_with_another_field_is_refused():
    data = preprocessing(mean=np.zeros((9, 9, 3))).to_json()
    refused(data | {"mean": data["mean"] | {"shape": [9, 9, 3]}}, "mean=")


def test_a_mean_with_a_number_of_thousands_of_digits_is_refused():
    refused(preprocessing().to_json() | {"mean": [10**5000, 1, 2]}, "mean")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, 256.0])
def test_one_bad_value_in_a_mean_for_each_pixel_is_refused(bad):
    mean = np.zeros((9, 9, 3), "<f4")
    mean[3, 4, 1] = bad
    data = preprocessing().to_json() | {"mean": {"float32": base64.b64encode(mean.tobytes()).decode()}}
    refused(data, "mean has values")


def test_a_mean_for_each_pixel_of_another_size_is_refused_with_both_sizes():
    other = Preprocessing(size=8, patch=6, mean=np.zeros((8, 8, 3))).to_json()["mean"]
    refused(preprocessing().to_json() | {"mean": other}, "(8, 8, 3)", "(9, 9, 3)")


def test_a_mean_in_the_other_value_range_is_refused():
    with pytest.raises(SpecError, match="104 to 123: expected 0 to 1, since value_range is 0-1"):
        preprocessing(mean=[104, 117, 123], value_range="0-1")


@pytest.mark.parametrize("shape", [(), (1,), (4,), (9, 9), (3, 9, 9), (8, 8, 3), (9, 9, 4)])
def test_a_mean_of_another_shape_is_refused(shape):
    with pytest.raises(SpecError, match="mean has shape"):
        preprocessing(mean=np.zeros(shape))
