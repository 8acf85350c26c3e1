"""The search agrees with Python's own distance of two points, whatever the blocks, and takes little memory."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
from collections.abc import Sequence
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_infer.errors import UsageError
from alexnet_infer.features import open_features, table
from alexnet_infer.features import search as module
from alexnet_infer.features.search import Nearest, decimals, nearest, search
from tests.features.made import FORMS, Made, write


def made(values: np.ndarray, unreadable: Sequence[int] = (), layer: str = "fc7") -> Made:
    names = [f"{i}.jpg" for i in range(len(values))]
    return Made({layer: values}, names, None, dict.fromkeys(unreadable, "not an image"))


def by_hand(values: np.ndarray, query: np.ndarray, n: int) -> list[tuple[float, int]]:
    """The nearest rows by `math.dist`, which computes with more digits than float64 has."""
    rows = values.reshape(len(values), -1).astype(float).tolist()
    distances = [(math.dist(row, query.reshape(-1).astype(float).tolist()), i) for i, row in enumerate(rows)]
    return sorted(pair for pair in distances if math.isfinite(pair[0]))[:n]


def pairs(found: Nearest, query: int = 0) -> list[tuple[float, int]]:
    return [*zip(found.distances[query].tolist(), found.rows[query].tolist(), strict=True)]


@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", [(1,), (300,), (4, 5, 6)], ids=str)
def test_distances_and_order_are_those_of_python(shape, dtype, offset):
    rng = np.random.default_rng(len(shape) + offset)
    values = (rng.normal(0, 3, (200, *shape)) + offset).astype(dtype)
    queries = (rng.normal(0, 3, (3, *shape)) + offset).astype(dtype)
    found = search(made(values), "fc7", queries, 9)
    for i, query in enumerate(queries):
        expected = by_hand(values, query, 9)
        assert [row for _, row in pairs(found, i)] == [row for _, row in expected]
        np.testing.assert_allclose(found.distances[i], [distance for distance, _ in expected], rtol=1e-14)


@given(
    values=st.lists(st.tuples(*[st.sampled_from([0, 1, 2, math.nan, math.inf])] * 3), min_size=1, max_size=30),
    queries=st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=3),
    n=st.integers(1, 8),
    block=st.integers(1, 40),
    strip=st.integers(1, 40),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_of_equal_distances_the_first_row_is_first_whatever_the_blocks(values, queries, n, block, strip, dtype):
    array = np.array(values, dtype)
    row_bytes = array[0].nbytes
    with patch.object(table, "BLOCK_BYTES", block * row_bytes), patch.object(module, "_STRIP_VALUES", 3 * strip):
        found = search(made(array), "fc7", np.array(queries, dtype), n)
    finite = [i for i, row in enumerate(values) if all(map(math.isfinite, row))]
    assert found.left_out == len(values) - len(finite)
    for i, query in enumerate(queries):
        squares = sorted((sum((a - b) ** 2 for a, b in zip(values[row], query, strict=True)), row) for row in finite)
        assert pairs(found, i) == [(math.sqrt(square), row) for square, row in squares[:n]]


def test_a_difference_that_the_usual_formula_loses_is_found():
    values = np.full((50, 64), 10_000, np.float32)
    values[:, 0] += np.arange(50, dtype=np.float32)[::-1] / 8
    query = np.full(64, 10_000, np.float32)
    usual = (values * values).sum(1) - 2 * values @ query + query @ query
    expected = [(i / 8, 49 - i) for i in range(6)]
    assert np.argsort(usual, kind="stable")[:6].tolist() != [row for _, row in expected]
    assert pairs(search(made(values), "fc7", query[None], 6)) == expected


def test_every_float16_has_its_value():
    bits = np.arange(2**16, dtype="<u2")
    values = [struct.unpack("<e", struct.pack("<H", i))[0] for i in range(2**16)]
    finite = [i for i, value in enumerate(values) if math.isfinite(value)]
    found = search(made(bits.view("<f2")[:, None]), "fc7", np.zeros((1, 1)), 2**16)
    assert found.left_out == 2**16 - len(finite)
    assert pairs(found) == sorted((abs(values[i]), i) for i in finite)


def test_large_and_tiny_values_neither_overflow_nor_vanish():
    values = np.array([[3e38], [-3e38], [1e-40], [0]], np.float32)
    found = search(made(values), "fc7", np.array([[3e38]], np.float32), 2)
    assert pairs(found)[0] == (0, 0)
    tiny = search(made(values), "fc7", np.zeros((1, 1), np.float32), 2)
    assert pairs(tiny) == [(0, 3), (float(values[2, 0]), 2)]


@pytest.mark.parametrize("suffix", FORMS)
def test_an_image_that_is_in_the_file_has_the_distance_0(tmp_path, suffix):
    exact = np.random.default_rng(0).normal(0, 9, (40, 5, 3, 2)).astype(np.float32)
    stored = exact.astype(np.float16)
    stored[7] = np.nan
    assert (stored[9].astype(np.float32) != exact[9]).any()
    features = open_features(write(made(stored, [7]), tmp_path / f"f{suffix}"))
    first, *others = nearest(features, exact[9], 39)
    assert (first.row, first.distance, first.name, first.label) == (9, 0, "9.jpg", None)
    assert {first.row, *(other.row for other in others)} == {*range(40)} - {7}


def test_advance_is_told_of_every_row():
    told: list[int] = []
    with patch.object(table, "BLOCK_BYTES", 3 * 8):
        search(made(np.zeros((10, 2), np.float32)), "fc7", np.zeros((1, 2)), 1, told.append)
    assert told == [3, 3, 3, 1]


@pytest.mark.parametrize("n", [0, -1, 4, True, 2.0, None, "3"])
def test_a_number_that_is_not_that_of_readable_images_is_refused(n):
    features = made(np.array([[1], [2], [np.nan], [3]], np.float32), [2])
    with pytest.raises(UsageError, match=f"n={n!r}: expected 1 to 3, the number of readable images in made"):
        nearest(features, np.zeros(1), n)


def test_a_file_without_readable_images_is_refused():
    with pytest.raises(UsageError, match="none of its 2 images could be read"):
        nearest(made(np.full((2, 1), np.nan, np.float32), [0, 1]), np.zeros(1), 1)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (np.zeros(3), r"shape \[3\]: expected \[2\], that of fc7"),
        (np.zeros((1, 2)), r"shape \[1, 2\]: expected \[2\]"),
        (np.array([1, np.nan]), "its features are not finite"),
        (np.array([1, 65_520]), "has the value 65,520, and float16, the type of the file, holds at most 65,504"),
    ],
    ids=["longer", "with a batch axis", "NaN", "too large"],
)
def test_another_query_is_refused(query, message):
    with pytest.raises(UsageError, match=message):
        nearest(made(np.zeros((4, 2), np.float16)), query, 1)


def test_a_layer_is_named_if_there_are_several():
    features = Made({"fc6": np.zeros((4, 2), np.float32), "fc7": np.eye(4, dtype=np.float32)})
    with pytest.raises(UsageError, match="several layers: expected --layer with one of fc6, fc7"):
        nearest(features, np.zeros(4), 1)
    with pytest.raises(UsageError, match="has no layer 'fc8'; expected one of fc6, fc7"):
        nearest(features, np.zeros(4), 1, layer="fc8")
    assert nearest(features, np.eye(4)[2], 1, layer="fc7")[0].row == 2


@pytest.mark.parametrize(
    ("distances", "digits"),
    [((), 0), ((0.0,), 0), ((0.0, 221.94), 1), ((9.99,), 3), ((12_345.6,), 0), ((0.0123,), 5), ((1e-9,), 6)],
    ids=str,
)
def test_the_largest_distance_is_printed_with_four_digits(distances, digits):
    assert decimals(distances) == digits


SEARCHES = """
import resource, sys
import numpy as np
from alexnet_infer.features import open_features
from alexnet_infer.features.search import search

features = open_features(sys.argv[1])
queries = np.ones((2, *features.layers["fc7"]), np.float32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = search(features, "fc7", queries, 6)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, *found.rows[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's measure of memory")
def test_memory_does_not_grow_with_the_file(tmp_path):
    """The file has 400 MB of zeros, which take no room on the disk, and would fill memory if its pages stayed."""
    few = write(made(np.zeros((2, 2048), np.float16)), tmp_path / "few.npy")
    path, count = tmp_path / "many.npy", 100_000
    many = Zeros(count)
    write(many, path)
    assert path.stat().st_size > 2 * 2048 * count > 100 * few.stat().st_size
    child = subprocess.run([sys.executable, "-c", SEARCHES, str(path)], capture_output=True, text=True, check=True)
    kilobytes, *rows = map(int, child.stdout.split())
    assert rows == [*range(6)]
    assert kilobytes < 150_000


class Zeros(Made):
    """Zeros that are written without being in memory."""

    def __init__(self, count: int) -> None:
        super().__init__({"fc7": np.broadcast_to(np.float16(0), (count, 2048))})
