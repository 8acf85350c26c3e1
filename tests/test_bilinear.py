"""The filter against OpenCV itself."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from alexnet_infer.bilinear import resize

cv2 = pytest.importorskip("cv2", reason="needs OpenCV: pip install opencv-python-headless")
pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="OpenCV uses different code on other processors"
)


def noise(width: int, height: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(width * height).integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.parametrize("size", [1, 2, 57, 224, 227, 256])
@pytest.mark.parametrize(
    ("width", "height"),
    [(500, 375), (375, 500), (333, 500), (256, 256), (64, 64), (40, 30), (1, 1), (1, 7), (3, 2), (1000, 17), (2049, 3)],
)
def test_a_complete_image_is_resized_exactly_as_by_opencv(width, height, size):
    image = noise(width, height)
    expected = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(resize(image, size, (0, 0, width, height)), expected)


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_a_uniform_colour_does_not_change(value):
    assert (resize(np.full((37, 91, 3), value, np.uint8), 57, (0, 0, 91, 37)) == value).all()


def test_a_part_equals_that_part_of_the_resized_image():
    """At whole pixels of the resized image: with powers of two nothing is rounded."""
    image = noise(64, 48)
    expected = cv2.resize(image, (128, 96), interpolation=cv2.INTER_LINEAR)[16:80, 32:96]
    assert np.array_equal(resize(image, 64, (16, 8, 48, 40)), expected)


def test_the_image_is_not_modified():
    image = noise(20, 10)
    image.flags.writeable = False
    before = image.copy()
    resize(image, 57, (0, 0, 20, 10))
    assert np.array_equal(image, before)
