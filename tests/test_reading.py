"""Images are decoded ahead of their use: in order, with bounded memory, and with errors as data."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from alexnet_infer.datasets import Example
from alexnet_infer.errors import UnreadableInputError
from alexnet_infer.photos import Photo
from alexnet_infer.preprocess import Rescaling
from alexnet_infer.reading import AHEAD_BYTES, PHOTOS_PER_CALL, batches, decode_ahead, decode_photos
from tests.datasets import mini


class Counted:
    """Numbers, and how many of them were taken."""

    def __init__(self, end: int) -> None:
        self.end, self.taken = end, 0

    def __iter__(self) -> Iterator[int]:
        for number in range(self.end):
            self.taken += 1
            yield number


def slow_first(number: int) -> int:
    time.sleep(0.02 if number % 4 == 0 else 0)
    return number * 10


@pytest.mark.parametrize("workers", [1, 4])
def test_images_come_in_the_order_of_their_sources(workers):
    decoded = list(decode_ahead(range(20), slow_first, workers=workers))
    assert [(image.source, image.image, image.error) for image in decoded] == [(i, i * 10, None) for i in range(20)]


@pytest.mark.parametrize(("workers", "ahead", "most"), [(2, 5, 5), (2, 1, 1), (3, None, 24)])
def test_no_more_sources_than_allowed_are_taken_before_they_are_needed(workers, ahead, most):
    sources = Counted(100)
    images = decode_ahead(sources, slow_first, workers=workers, ahead=ahead)
    assert sources.taken == 0
    for used in range(1, 60):
        next(images)
        assert used <= sources.taken <= used + most
    assert sources.taken < 100


def test_large_images_are_not_read_ahead_of_their_use():
    size = AHEAD_BYTES // 4
    shared = bytes(size)  # one object: only its length counts
    taken: list[int] = []

    def examples() -> Iterator[Example]:
        for i in range(30):
            taken.append(i)
            yield Example(name=str(i), data=shared, label=0)

    images = decode_ahead(examples(), lambda example: len(example.data), workers=2)
    for used, image in enumerate(images, start=1):
        assert image.image == size
        assert len(taken) <= used + 5
    assert len(taken) == 30


def test_decoding_runs_on_several_threads_at_once():
    barrier = threading.Barrier(3, timeout=10)
    assert len(list(decode_ahead(range(3), lambda number: barrier.wait(), workers=3))) == 3


def test_an_unreadable_image_is_yielded_with_its_error_and_the_others_are_decoded():
    def decode(number: int) -> int:
        if number == 1:
            raise UnreadableInputError("cut short", name="b.jpg")
        return number

    first, bad, last = decode_ahead(range(3), decode)
    assert (first.image, last.image) == (0, 2)
    assert bad.image is None
    assert (str(bad.error), bad.error.name, bad.error.reason) == ("b.jpg: cut short", "b.jpg", "cut short")


def test_the_error_of_an_image_does_not_hold_its_bytes():
    contents = [bytes([i]) * 100 for i in range(3)]
    before = [sys.getrefcount(content) for content in contents]
    examples = (Example(name="x", data=content, label=0) for content in contents)
    images = list(decode_ahead(examples, partial(Example.square, rescaling=Rescaling(size=8))))
    assert all(image.error is not None for image in images)
    del examples
    assert [sys.getrefcount(content) for content in contents] == before


def test_another_error_of_decoding_is_raised_in_its_place():
    images = decode_ahead([1, 0, 2], lambda number: 1 // number, workers=1)
    assert next(images).image == 1
    with pytest.raises(ZeroDivisionError):
        next(images)


def test_an_error_of_the_sources_is_raised():
    def sources() -> Iterator[int]:
        yield 1
        raise UnreadableInputError("the archive ends")

    with pytest.raises(UnreadableInputError, match="the archive ends"):
        list(decode_ahead(sources(), slow_first))


def test_closing_early_cancels_what_was_not_started():
    started: list[int] = []

    def decode(number: int) -> None:
        started.append(number)
        time.sleep(0.05)

    images = decode_ahead(range(1000), decode, workers=1, ahead=50)
    next(images)
    images.close()
    assert len(started) < 10


def test_an_unfinished_generator_may_be_closed_in_one_of_its_own_threads():
    """As when the garbage is collected there. A thread can't wait for itself."""
    begin, done, errors = threading.Event(), threading.Event(), []

    def decode(number: int) -> int:
        if number:
            begin.wait(30)
            try:
                images.close()
            except RuntimeError as error:
                errors.append(error)
            done.set()
        return number

    images = decode_ahead(range(3), decode, workers=1, ahead=2)
    assert next(images).image == 0
    begin.set()
    assert done.wait(30)
    assert errors == []


def test_batches_have_the_given_size_except_the_last():
    assert list(batches(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batches([], 3)) == []


def test_photos_are_decoded_in_order_and_a_missing_one_is_named(tmp_path):
    paths = [mini.write(tmp_path / f"{i}.jpg", mini.jpeg(i)) or tmp_path / f"{i}.jpg" for i in range(11)]
    paths[5].unlink()
    photos = [Photo(name=str(path), path=path) for path in paths]
    read = list(decode_photos(photos, partial(Photo.square, rescaling=Rescaling(size=8))))
    assert all(image.source is photo for image, photo in zip(read, photos, strict=True))
    assert [image.error is None for image in read] == [i != 5 for i in range(11)]
    assert str(read[5].error) == f"{paths[5]}: can't be read (No such file or directory)"
    for photo, image in zip(photos, read, strict=True):
        if image.error is None:
            np.testing.assert_array_equal(image.image, photo.square(Rescaling(size=8)))
    assert len(photos) > PHOTOS_PER_CALL


def test_a_decoded_example_keeps_no_encoded_bytes(tmp_path):
    example = Example(name="a.jpg", data=mini.jpeg(1), label=3, root=tmp_path)
    (image,) = decode_ahead([example], partial(Example.square, rescaling=Rescaling(size=8)))
    assert (image.source.name, image.source.label, image.source.data) == ("a.jpg", 3, b"")
    np.testing.assert_array_equal(image.image, example.square(Rescaling(size=8)))


def test_an_example_that_could_not_be_read_fails_with_its_relative_name_and_reason(tmp_path):
    example = Example(name=f"{tmp_path}/val/a.jpg", data=b"", label=0, error="no such file", root=tmp_path)
    (image,) = decode_ahead([example], partial(Example.square, rescaling=Rescaling(size=8)))
    assert (image.error.name, image.error.reason) == ("val/a.jpg", "no such file")
