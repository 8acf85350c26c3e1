"""Wrong images as text: against NumPy's bits, and text that is damaged."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from alexnet_infer.errors import SpecError
from train.wrong import packed_bits, unpacked_bits


@pytest.mark.parametrize("images", [1, 7, 8, 9, 16, 4999])
def test_what_is_packed_is_unpacked_again(images):
    rng = np.random.default_rng(images)
    for share in (0, 0.3, 1):
        wrong = rng.random((images, 2)) < share
        found = unpacked_bits(packed_bits(wrong), images)
        assert found.dtype == bool
        np.testing.assert_array_equal(found, wrong)


def test_the_first_image_is_the_highest_bit_of_the_first_byte():
    top1 = [True, *[False] * 8, True]
    text = packed_bits(np.array([top1, [False] * 10]).T)
    assert text == {
        "top1": base64.b64encode(bytes([0b10000000, 0b01000000])).decode(),
        "top5": base64.b64encode(bytes(2)).decode(),
    }


def test_the_number_of_wrong_images_is_the_number_of_bits():
    wrong = np.random.default_rng(0).random((77, 2)) < 0.4
    text = packed_bits(wrong)
    for column, kind in enumerate(("top1", "top5")):
        bits = sum(byte.bit_count() for byte in base64.b64decode(text[kind]))
        assert bits == wrong[:, column].sum()


GOOD = packed_bits(np.ones((16, 2), bool))


@pytest.mark.parametrize("kind", ["top1", "top5"])
@pytest.mark.parametrize(
    "value", ["", "//8", "//8=\n", "//8= ", "/ /8=", "-_8=", "é", "====", None, 3, ["//8="], b"\xff"], ids=repr
)
def test_text_that_is_not_base64_of_the_bits_is_refused_by_name(kind, value):
    with pytest.raises(
        SpecError, match=rf"{kind}: (expected base64|.*expected one bit for each of 16 images)"
    ) as caught:
        unpacked_bits(GOOD | {kind: value}, 16)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("images", [0, 1, 8, 17, 24, 2**40])
def test_another_number_of_images_is_refused_with_both_numbers(images):
    with pytest.raises(SpecError, match=f"top1: 2 bytes: expected one bit for each of {images} images"):
        unpacked_bits(GOOD, images)


@pytest.mark.parametrize("kind", ["top1", "top5"])
def test_a_missing_text_is_refused_by_name(kind):
    with pytest.raises(SpecError, match=f"{kind}: expected base64"):
        unpacked_bits({name: text for name, text in GOOD.items() if name != kind}, 16)


def test_bits_after_the_last_image_are_refused():
    """Each set of wrong images has one text."""
    with pytest.raises(SpecError, match="top1"):
        unpacked_bits({"top1": base64.b64encode(b"\xff\xff").decode(), "top5": "AAA="}, 15)
