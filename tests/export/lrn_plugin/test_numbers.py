"""What the kernel computes: lrn.cu itself, compiled as C++ (host.h), against the float64 definition."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from alexnet_infer.architecture import LRN
from alexnet_infer.backends.reference import lrn
from alexnet_infer.export.lrn_plugin import kernel
from alexnet_infer.export.lrn_plugin.kernel import BLOCK, Plan

HERE = Path(__file__).parent
GUARD = 512
"""Number of NaNs before and after x and y. Those around y must not be overwritten."""

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")


@pytest.fixture
def built(tmp_path) -> Callable[[Plan], ctypes.CDLL]:
    def build(plan: Plan) -> ctypes.CDLL:
        library = tmp_path / f"{plan.name}.so"
        macros = [f"-D{name}={value}" for name, value in {**plan.macros, "NAME": plan.name}.items()]
        folders = [f"-I{HERE}", f"-I{Path(kernel.__file__).parent}"]
        options = ["-x", "c++", "-std=c++17", "-O1", "-shared", "-fPIC", "-Wno-unknown-pragmas"]
        subprocess.run(["g++", *options, *macros, *folders, HERE / "host.h", "-o", library], check=True)
        return ctypes.CDLL(library)

    return build


@pytest.fixture
def computed(built) -> Callable[[Plan, np.ndarray], np.ndarray]:
    """Run the kernel on x [N, C, H, W]. It must use no value outside of x and write nothing outside of y."""

    def compute(plan: Plan, x: np.ndarray) -> np.ndarray:
        around_x, around_y = (np.full(x.size + 2 * GUARD, np.nan, x.dtype) for _ in range(2))
        around_x[GUARD:-GUARD] = x.ravel()
        inner_x, inner_y = around_x[GUARD:-GUARD], around_y[GUARD:-GUARD]
        assert inner_x.ctypes.data % 16 == inner_y.ctypes.data % 16 == 0
        columns, rows, _ = plan.grid(len(x))
        built(plan).run(pointer(inner_x), len(x), pointer(inner_y), 0, columns, rows)
        assert np.isnan(around_y[:GUARD]).all()
        assert np.isnan(around_y[-GUARD:]).all()
        return inner_y.reshape(x.shape)

    return compute


def pointer(values: np.ndarray, before: int = 0) -> ctypes.c_void_p:
    return ctypes.c_void_p(values.ctypes.data - before * values.itemsize)


def hundreds(plan: Plan, images: int, scale: float = 300) -> np.ndarray:
    shape = (images, plan.channels, plan.height, plan.width)
    return np.random.default_rng(3).normal(0, scale, shape).astype({"fp32": "f4", "fp16": "f2"}[plan.dtype])


def assert_agree(y: np.ndarray, x: np.ndarray, spec: LRN) -> None:
    """To a few roundings in float, and to the rounding of the result in half."""
    expected = lrn(x.astype(np.float64), spec)
    rtol, atol = {"f4": (2e-6, 0), "f2": (2**-11 * 1.01, 2**-24)}[x.dtype.str[1:]]
    np.testing.assert_allclose(y.astype(np.float64), expected, rtol=rtol, atol=atol)


SHAPES = {  # (channels, height, width, groups, size, parts, images), adjacent pixels per thread in (float, half)
    "paper's window, odd map": ((22, 5, 7, 2, 5, 1, 3), (1, 1)),
    "vectors of 4 and 8": ((12, 4, 6, 2, 5, 1, 3), (4, 8)),
    "vectors of 4": ((20, 2, 6, 4, 3, 2, 2), (4, 4)),
    "vectors of 2": ((14, 3, 6, 2, 5, 3, 2), (2, 2)),
    "window of one channel": ((7, 3, 3, 1, 1, 1, 2), (1, 1)),
    "window as wide as a column and wider": ((9, 4, 4, 3, 7, 1, 1), (4, 8)),
    "one channel in a column": ((3, 2, 4, 3, 5, 4, 2), (4, 8)),
    "more parts than fit": ((26, 5, 5, 2, 5, 8, 1), (1, 1)),
    "run longer than a step, cut short": ((57, 3, 5, 1, 3, 2, 2), (1, 1)),
    "several blocks": ((6, 19, 21, 2, 5, 1, 2), (1, 1)),
    "widest window": ((40, 3, 4, 1, 31, 2, 1), (1, 1)),
}


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("name", SHAPES)
def test_the_kernel_agrees_with_the_definition_on_activations_in_the_hundreds(name, dtype, computed):
    (channels, height, width, groups, size, parts, images), vectors = SHAPES[name]
    spec = LRN(name="norm", groups=groups, size=size)
    plan = Plan(spec=spec, channels=channels, height=height, width=width, dtype=dtype, parts=parts)
    assert plan.vector == vectors[dtype == "fp16"], "the case does not match its name"
    x = hundreds(plan, images)
    assert np.median(lrn(x.astype(np.float64), spec) / x) < 0.5, "the sum of squares must matter"
    assert_agree(computed(plan, x), x, spec)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize(
    "constants", [{"beta": 0.6}, {"beta": 0.0}, {"k": 1e-6, "alpha": 0.3}, {"alpha": 2e-5, "k": 1.0}]
)
def test_constants_other_than_the_papers_agree(constants, dtype, computed):
    spec = LRN(name="norm", groups=2, **constants)
    plan = Plan(spec=spec, channels=10, height=3, width=5, dtype=dtype)
    x = hundreds(plan, 2)
    assert_agree(computed(plan, x), x, spec)


@pytest.mark.parametrize(
    "wrong", [{"alpha": 5e-4}, {"alpha": 1.01e-4}, {"groups": 1}, {"k": 1.0}, {"beta": 0.76}, {"size": 3}]
)
def test_a_wrong_constant_is_far_outside_the_tolerance(wrong, computed):
    spec = LRN(name="norm", groups=2)
    plan = Plan(spec=spec, channels=10, height=3, width=5, dtype="fp32")
    x = hundreds(plan, 1)
    actual = computed(plan, x)
    right, mistaken = (lrn(x.astype(np.float64), s) for s in (spec, replace(spec, **wrong)))
    assert np.abs(actual - mistaken).max() > 100 * np.abs(actual - right).max()


def test_half_squares_are_summed_in_float(computed):
    """The largest half is 65504, so squares of values of 256 or more overflow."""
    spec = LRN(name="norm")
    plan = Plan(spec=spec, channels=12, height=4, width=4, dtype="fp16")
    x = hundreds(plan, 2, 8000)
    with np.errstate(over="ignore"):
        assert np.isinf(x * x).mean() > 0.9
    assert_agree(computed(plan, x), x, spec)


def test_small_values_after_large_ones_lose_nothing(computed):
    """A running sum would keep the rounding error of 1e8 after the large value has left the window."""
    spec = LRN(name="norm", alpha=1.0, k=1e-3)
    plan = Plan(spec=spec, channels=24, height=3, width=3, dtype="fp32")
    x = hundreds(plan, 1, 1.0)
    x[:, 3] = 1e4
    assert_agree(computed(plan, x), x, spec)


def test_zeros_stay_zero_and_squares_beyond_float_give_zero_not_nan(computed):
    plan = Plan(spec=LRN(name="norm", k=1e-6), channels=12, height=2, width=3, dtype="fp32")
    x = np.zeros((1, 12, 2, 3), np.float32)
    x[:, 6] = 3e38
    assert (computed(plan, x) == 0).all()


def test_offsets_beyond_2_to_the_31_are_reached(built):
    """Only image 7424 of conv1's maps exists, at its offset in a larger tensor."""
    spec = LRN(name="norm", groups=2)
    plan = Plan(spec=spec, channels=96, height=55, width=55, dtype="fp32")
    before, image = 7424, 96 * 55 * 55
    assert before * image > 2**31
    assert before * plan.packs % BLOCK == 0, "a block must begin with the image"
    x = hundreds(plan, 1)
    y = np.full_like(x, np.nan)
    columns, rows, _ = plan.grid(before + 1)
    built(plan).run(
        pointer(x, before * image), before + 1, pointer(y, before * image), before * plan.packs // BLOCK, columns, rows
    )
    assert_agree(y, x, spec)
