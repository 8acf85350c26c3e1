"""Numbers are written in one way, and none loses its sign or its size."""

from __future__ import annotations

import pytest

from alexnet_infer.explain.numbers import counted, exact, fixed, short


@pytest.mark.parametrize(("value", "text"), [(1e-4 / 5, "0.00002"), (2.0, "2"), (0.75, "0.75"), (1e-4, "0.0001")])
def test_constants_have_no_exponent(value, text):
    assert exact(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-1864, "\u22121,860"),
        (999.7, "1,000"),
        (-0.0123, "\u22120.0123"),
        (4.0, "4.00"),
        (123.4, "123"),
        (3.4e38, "3.40e38"),
        (-2e-5, "\u22122.00e\u22125"),
    ],
)
def test_values_have_three_digits_a_minus_sign_and_commas(value, text):
    assert short(value) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(-1234.5678, 2, "\u22121,234.57"), (-0.0001, 2, "0.00"), (1e30, 3, "1.00e30"), (0.5, 4, "0.5000")],
)
def test_values_of_fixed_digits(value, digits, text):
    assert fixed(value, digits) == text


def test_one_thing_has_no_plural():
    assert [counted(1, "unit"), counted(4096, "unit"), counted(0, "unit")] == ["1 unit", "4,096 units", "0 units"]
