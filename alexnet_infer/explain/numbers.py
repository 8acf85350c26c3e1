"""Numbers for a reader: a real minus sign, commas between thousands, and an exponent only where it is shorter."""

from __future__ import annotations

import numpy as np

MINUS = "\N{MINUS SIGN}"


def short(value: float) -> str:
    """Return a value with three significant digits, such as 0, 0.0123, 4.56, 12,300.

    Magnitudes of at least 1e6 and below 1e-4 have an exponent, as in 1.86e6.
    """
    if not value:
        return "0"
    value = float(f"{value:.3g}")
    if not 1e-4 <= abs(value) < 1e6:
        digits, exponent = f"{value:.2e}".split("e")
        return _signed(f"{digits}e{int(exponent)}")
    return _signed(f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip("."))


def fixed(value: float, digits: int) -> str:
    """Return a value with this number of digits after the point. From a magnitude of 1e6 on, it is `short`."""
    if abs(value) >= 1e6:
        return short(value)
    text = f"{value:,.{digits}f}"
    return _signed(text if text.strip("-0.,") else text.lstrip("-"))


def exact(value: float) -> str:
    """Return a number with all its digits, such as "0.00002". Below 1e-6, it has an exponent."""
    return _signed(f"{value:g}" if 0 < abs(value) < 1e-6 else np.format_float_positional(value, trim="-"))


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, as in "1 unit" and "4,096 units"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _signed(text: str) -> str:
    return text.replace("-", MINUS)
