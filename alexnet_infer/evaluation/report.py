"""An evaluation as a web page to read, print and share: `eval --report`.

The page is one file without scripts and loads nothing from the network. It contains no time, so equal inputs give equal
bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from alexnet_infer import pages
from alexnet_infer.artifact import Artifact
from alexnet_infer.errors import UsageError, printable
from alexnet_infer.evaluation.examples import Examples
from alexnet_infer.evaluation.result import ClassResult, Evaluation
from alexnet_infer.evaluation.statistics import SIGNIFICANCE
from alexnet_infer.evaluation.tables import STARRED, ErrorRow, rows, verdict
from alexnet_infer.kernels import Kernels
from alexnet_infer.manifest import Manifest

PAGE = "index.html"


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportedNet:
    """What the page shows about a net besides its errors."""

    manifest: Manifest
    kernels: Kernels | None
    """The first layer's kernels, or None if the first layer is not a convolution over three colours."""

    @classmethod
    def of(cls, artifact: Artifact) -> ReportedNet:
        """Take the manifest and the first layer's kernels of a net, but not its other weights."""
        try:
            kernels = Kernels.of(artifact)
        except UsageError:
            kernels = None
        return cls(manifest=artifact.manifest, kernels=kernels)


def check_report() -> None:
    """Raise BackendError if a package that `write_report` needs is missing."""
    pages.check_jinja("--report")


def check_page(out: Path) -> None:
    """Raise UsageError if `out`/index.html is not a page of alexnet-infer, which may be overwritten."""
    pages.check_page(out / PAGE, f"--report {out}")


def write_report(result: Evaluation, examples: Examples | None, nets: Sequence[ReportedNet], out: Path) -> Path:
    """Write the page `out`/index.html and return its path. The folder is created if necessary.

    `nets` are the nets of the result in the same order. If their files are not available, `nets` is empty, and the page
    has no kernels and no information about training. Without `examples`, the page has no images and says so. All
    published errors are on the page.

    Raises BackendError if jinja2 is missing, and UsageError if the page can't be written or `check_page` refuses it.
    """
    assert len(nets) in (0, len(result.nets)), (len(nets), len(result.nets))
    return pages.write_page(out, PAGE, _page(result, examples, nets), f"--report {out}")


def _page(result: Evaluation, examples: Examples | None, nets: Sequence[ReportedNet]) -> str:
    check_report()
    ranked = _ranked(result.classes)
    present = [counts for counts in ranked if counts.images]
    values = {
        "result": result,
        "subject": f"The mean of {len(result.nets)} nets" if result.ensemble else result.nets[0].name,
        "published": _by_source([row for row in rows(result, "all") if row.images is None]),
        "verdict": verdict(result.against_best) if result.against_best else "",
        "significance": SIGNIFICANCE,
        "starred": STARRED,
        "ranked": ranked,
        "present": len(present),
        "tops": {k: _tops([getattr(counts, k) / counts.images for counts in present]) for k in ("top1", "top5")},
        "names": _names(result, nets),
        "examples": examples or Examples(mistakes=(), sample=()),
        "has_examples": examples is not None,
        "nets": nets,
        "pictures_of_kernels": [(net, _picture(net.kernels)) for net in nets if net.kernels is not None],
    }
    filters = {"points": _points, "chance": _chance, "breaks": _breaks}
    return pages.render(__package__, "report.html.jinja", values, filters)


def _points(fraction: float) -> str:
    """Format a difference in percentage points, with its sign unless it rounds to 0."""
    size = f"{100 * abs(fraction):.2f}"
    return size if float(size) == 0 else ("\N{MINUS SIGN}" if fraction < 0 else "+") + size


def _chance(p: float) -> str:
    """Format a p-value. Values below 0.001 are in scientific notation."""
    from markupsafe import Markup

    if p >= 0.001:
        return f"{p:.3f}"
    if p < 1e-300:  # floats near the smallest one lose digits
        return Markup("&lt;&nbsp;10<sup>&minus;300</sup>")
    digits, power = f"{p:.1e}".split("e-")
    return Markup("{}&nbsp;&times;&nbsp;10<sup>&minus;{}</sup>").format(digits, int(power))


def _breaks(path: str) -> str:
    """Format a path, with line breaks allowed after its slashes."""
    from markupsafe import Markup

    return Markup("/<wbr>").join(map(printable, path.split("/")))


def _ranked(classes: Iterable[ClassResult]) -> list[ClassResult]:
    """Sort classes by their errors, the worst first. Classes without images are last."""

    def key(counts: ClassResult) -> tuple:
        errors = (-counts.top1 / counts.images, -counts.top5 / counts.images) if counts.images else (1, 1)
        return *errors, counts.wnid

    return sorted(classes, key=key)


def _tops(heights: Iterable[float]) -> str:
    """Return the SVG path of adjacent bars of width 1 on y = 100. A height from 0 to 1 is 0 to 100 units."""
    return "M0 100" + "".join(f"V{100 - 100 * height:.2f}h1" for height in heights) + "V100z"


def _by_source(published: Iterable[ErrorRow]) -> list[list[ErrorRow]]:
    return [list(group) for _, group in groupby(published, lambda row: (row.data, row.source))]


def _names(result: Evaluation, nets: Iterable[ReportedNet]) -> dict[str, str]:
    """Return the short name of each class of the nets and of the data, by WordNet id."""
    classes = [*(named for net in nets for named in net.manifest.classes), *result.classes]
    return {named.wnid: named.short for named in classes}


def _picture(kernels: Kernels) -> dict[str, Any]:
    height, width, _ = kernels.image().shape
    return {"uri": pages.uri("png", kernels.png()), "width": width, "height": height}
