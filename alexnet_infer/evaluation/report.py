"""An evaluation as a web page to read, print and pass on: `eval --report`.

One file that needs nothing else: no script, no network. The same inputs give the same bytes, so no time stands in it.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from alexnet_infer.artifact import Artifact, Manifest
from alexnet_infer.decode import printable
from alexnet_infer.errors import BackendError, UsageError
from alexnet_infer.evaluation.examples import Examples
from alexnet_infer.evaluation.kernels import Kernels
from alexnet_infer.evaluation.result import ClassResult, Evaluation
from alexnet_infer.evaluation.tables import STARRED, Row, rows
from alexnet_infer.files import write_atomically

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE = "index.html"

_THUMBNAIL = 256
"""Side of an image on the page in pixels, at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportedNet:
    """What the page tells of a net beyond its errors. `kernels` is None where a net doesn't begin with any."""

    manifest: Manifest
    kernels: Kernels | None

    @classmethod
    def of(cls, artifact: Artifact) -> ReportedNet:
        """From a net, of which only the first kernels are kept."""
        try:
            kernels = Kernels.of(artifact)
        except UsageError:
            kernels = None
        return cls(manifest=artifact.manifest, kernels=kernels)


def check_report() -> None:
    """Raises BackendError when a package is missing that `write_report` needs."""
    try:
        import jinja2  # noqa: F401
    except ImportError:
        raise BackendError('--report needs jinja2: pip install "alexnet-infer[report]"') from None


def write_report(result: Evaluation, examples: Examples, nets: Sequence[ReportedNet], out: Path) -> Path:
    """Writes the page `out`/index.html, making the folder, and returns its path.

    `nets` are the result's, in its order. Where their files aren't at hand (several machines' predictions are joined,
    say) give none: the page then has no kernels and says nothing of training. Raises BackendError without jinja2,
    UsageError when the page can't be written.
    """
    assert len(nets) in (0, len(result.nets)), (len(nets), len(result.nets))
    page = _page(result, examples, nets).encode()
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / PAGE, page)
    except OSError as error:
        raise UsageError(f"--report {out}: can't be written ({error.strerror or error})") from None
    return out / PAGE


def _page(result: Evaluation, examples: Examples, nets: Sequence[ReportedNet]) -> str:
    check_report()
    template = resources.files(__package__).joinpath("report.html.jinja").read_text("utf-8")
    ranked = _ranked(result.classes)
    present = [one for one in ranked if one.images]
    return (
        _environment()
        .from_string(template)
        .render(
            result=result,
            subject=f"The mean of {len(result.nets)} nets" if result.ensemble else result.nets[0].name,
            published=_by_source([row for row in rows(result) if row.images is None]),
            starred=STARRED,
            ranked=ranked,
            present=len(present),
            tops={k: _tops([getattr(one, k) / one.images for one in present]) for k in ("top1", "top5")},
            names=_names(result, nets),
            examples=examples,
            nets=nets,
            pictures_of_kernels=[(net, _picture(net.kernels)) for net in nets if net.kernels is not None],
        )
    )


def _environment() -> Environment:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Names may hold what no page can show, or what turns the text around it.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters.update(
        count="{:,}".format,
        percent=_percent,
        points=_points,
        chance=_chance,
        jpeg=_jpeg,
        breaks=_breaks,
        px="{:.2f}".format,
        plain=lambda value: json.dumps(value, sort_keys=True, ensure_ascii=False, default=dict),
    )
    return environment


def _percent(fraction: float | None, digits: int = 2) -> str:
    return "\N{EN DASH}" if fraction is None else f"{100 * fraction:.{digits}f}"


def _points(fraction: float) -> str:
    """A difference in points of per cent, always with its sign."""
    size = f"{100 * abs(fraction):.2f}"
    return size if float(size) == 0 else ("\N{MINUS SIGN}" if fraction < 0 else "+") + size


def _chance(p: float) -> str:
    """A p-value, as a power of ten where it is small."""
    from markupsafe import Markup

    if p >= 0.001:
        return f"{p:.3f}"
    if p < 1e-300:  # near the smallest float digits get lost
        return Markup("&lt;&nbsp;10<sup>&minus;300</sup>")
    digits, power = f"{p:.1e}".split("e-")
    return Markup("{}&nbsp;&times;&nbsp;10<sup>&minus;{}</sup>").format(digits, int(power))


def _breaks(path: str) -> str:
    """A path that may be broken after its slashes."""
    from markupsafe import Markup

    return Markup("/<wbr>").join(map(printable, path.split("/")))


def _ranked(classes: Iterable[ClassResult]) -> list[ClassResult]:
    """The worst class first; those without images last."""

    def key(one: ClassResult) -> tuple:
        errors = (-one.top1 / one.images, -one.top5 / one.images) if one.images else (1, 1)
        return *errors, one.wnid

    return sorted(classes, key=key)


def _tops(heights: Iterable[float]) -> str:
    """An SVG path around bars of width 1 without gaps, heights 0..1 as 0..100, standing on y = 100."""
    return "M0 100" + "".join(f"V{100 - 100 * height:.2f}h1" for height in heights) + "V100z"


def _by_source(published: Iterable[Row]) -> list[list[Row]]:
    return [list(group) for _, group in groupby(published, lambda row: (row.data, row.source))]


def _names(result: Evaluation, nets: Iterable[ReportedNet]) -> dict[str, str]:
    """The first name of every class of the nets and of the data, by WordNet id."""
    every = [*(one for net in nets for one in net.manifest.classes), *result.classes]
    return {one.wnid: one.name.split(",")[0].strip() for one in every}


def _picture(kernels: Kernels) -> dict[str, Any]:
    height, width, _ = kernels.image().shape
    return {"uri": _uri("png", kernels.png()), "width": width, "height": height}


def _jpeg(square: np.ndarray) -> str:
    image = Image.fromarray(square)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    return _uri("jpeg", file.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
