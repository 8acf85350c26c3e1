"""A passport as a file: a web page that loads nothing from the network, or JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path

from alexnet_infer import pages
from alexnet_infer.errors import UsageError
from alexnet_infer.evaluation.gate import Judgement
from alexnet_infer.files import write_atomically, writing
from alexnet_infer.marks import is_marked
from alexnet_infer.max_drop import METRICS
from alexnet_infer.passport import contents
from alexnet_infer.passport.contents import Passport
from alexnet_infer.version import __version__

KIND = "passport"
"""What the page is, in its generator mark."""

PAGE, JSON = ".html", ".json"
_MARK = f'"kind": "{contents.KIND}"'.encode()


def check_out(out: Path) -> None:
    """Raise UsageError if a passport can't be written to `out`, or would replace another file there.

    Raises BackendError if jinja2, which a page needs, is missing.
    """
    option = f"--passport {out}"
    if out.suffix.lower() not in (PAGE, JSON):
        raise UsageError(f"{option}: expected a file name ending in {PAGE} or {JSON}")
    if out.suffix.lower() == PAGE:
        pages.check_jinja("--passport")
    pages.check_file(out, option)
    if out.suffix.lower() == PAGE:
        pages.check_page(out, option, "another file", KIND)
    elif os.path.lexists(out) and not is_marked(out, _MARK):
        raise UsageError(f"{option}: was not written by alexnet-infer and would be overwritten; expected another file")


def write(passport: Passport, out: Path) -> None:
    """Write the passport to `out`, in the form that its suffix says. Raises the errors of `check_out`."""
    check_out(out)
    option = f"--passport {out}"
    if out.suffix.lower() == PAGE:
        pages.write_page(out.parent, out.name, page(passport), option, "another file", KIND)
        return
    with writing(option):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, (json.dumps(passport.to_json(), indent=1) + "\n").encode())


def page(passport: Passport) -> str:
    """Return the web page. Raises BackendError if jinja2 is missing."""
    pages.check_jinja("--passport")
    values = {"version": __version__, "kind": KIND, "passport": passport, "info": passport.info, "metrics": METRICS}
    filters = {"points": _points, "bar": _bar}
    return pages.render(__package__, "passport.html.jinja", values, filters)


def _points(fraction: float) -> str:
    """Format a difference in percentage points, with its sign."""
    return f"{100 * fraction:+.2f}".replace("-", "\N{MINUS SIGN}")


def _bar(judgement: Judgement) -> dict[str, float]:
    """Return where the interval, the difference, the limit and 0 are on an axis from 0 to 100, all of which fit on it.

    The axis has the same scale to both sides of 0.
    """
    values = {
        "low": judgement.low,
        "high": judgement.high,
        "difference": judgement.difference,
        "limit": judgement.max_drop,
        "zero": 0.0,
    }
    reach = 1.1 * max(1e-9, *map(abs, values.values()))
    return {name: 50 + 50 * value / reach for name, value in values.items()}
