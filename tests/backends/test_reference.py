"""The NumPy reference against definitions written out by hand, since it is the oracle of the other tests."""

from __future__ import annotations

import math

import numpy as np
import pytest

from alexnet_infer.architecture import LRN, Conv, MaxPool
from alexnet_infer.backends.reference import ReferenceBackend, conv, lrn, max_pool, softmax
from alexnet_infer.errors import BackendError
from tests.nets import large_patches, random_artifact


def test_lrn_of_one_pixel_is_the_papers_formula_computed_by_hand():
    x = np.array([100.0, 200.0, 300.0, 400.0, 500.0, 600.0]).reshape(1, 6, 1, 1)
    y = lrn(x, LRN(name="n")).ravel()
    # channel 0 sees 0, 1, 2; channel 3 sees 1..5
    assert y[0] == pytest.approx(100 / (2 + 1e-4 * (100**2 + 200**2 + 300**2)) ** 0.75, rel=1e-12)
    assert y[3] == pytest.approx(400 / (2 + 1e-4 * (200**2 + 300**2 + 400**2 + 500**2 + 600**2)) ** 0.75, rel=1e-12)


def test_lrn_windows_stop_at_the_edge_of_a_column():
    x = np.array([100.0, 200.0, 300.0, 400.0, 500.0, 600.0]).reshape(1, 6, 1, 1)
    y = lrn(x, LRN(name="n", groups=2)).ravel()
    assert y[2] == pytest.approx(300 / (2 + 1e-4 * (100**2 + 200**2 + 300**2)) ** 0.75, rel=1e-12)
    assert y[3] == pytest.approx(400 / (2 + 1e-4 * (400**2 + 500**2 + 600**2)) ** 0.75, rel=1e-12)


def test_conv_equals_five_nested_loops():
    rng = np.random.default_rng(0)
    spec = Conv(name="c", kernels=4, size=3, stride=2, pad=1, groups=2)
    x, w, b = rng.normal(size=(2, 6, 7, 8)), rng.normal(size=(4, 3, 3, 3)), rng.normal(size=4)
    padded = np.zeros((2, 6, 9, 10))
    padded[:, :, 1:8, 1:9] = x
    expected = np.empty((2, 4, 4, 4))
    for n, k, row, column in np.ndindex(expected.shape):
        first = 3 * (k // 2)  # kernels 0, 1 see channels 0-2; kernels 2, 3 see 3-5
        window = padded[n, first : first + 3, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        expected[n, k, row, column] = b[k] + math.fsum((window * w[k]).ravel())
    np.testing.assert_allclose(conv(x, w, b, spec), expected, rtol=1e-12)


@pytest.mark.parametrize("ceil", [False, True])
def test_max_pool_takes_the_largest_value_of_each_window_and_ceil_adds_windows_past_the_edge(ceil):
    x = -np.arange(1.0, 37.0).reshape(1, 1, 6, 6)  # all negative: padding with zeros would change the result
    y = max_pool(x, MaxPool(name="p", ceil=ceil))[0, 0]
    without_ceil = [[-1, -3], [-13, -15]]
    assert y.tolist() == ([[-1, -3, -5], [-13, -15, -17], [-25, -27, -29]] if ceil else without_ceil)


def test_softmax_does_not_overflow_and_sums_to_one():
    p = softmax(np.array([[1000.0, 1000.0 + math.log(3)], [-1000.0, 0.0]]))
    np.testing.assert_allclose(p, [[0.25, 0.75], [0, 1]], atol=1e-12)


def test_memory_that_is_full_is_a_one_line_error(monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise np._core._exceptions._ArrayMemoryError((10**9, 10**9), np.dtype(float))

    net = random_artifact()
    monkeypatch.setattr("alexnet_infer.backends.reference.conv", full)
    with pytest.raises(BackendError, match=r"^random-alexnet-64: not enough memory .*Unable to allocate") as raised:
        ReferenceBackend(net).infer(large_patches())
    assert str(raised.value).isprintable()
