"""The page: what `measure` found, arranged for a reader, and written by a template."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet_infer import pages
from alexnet_infer.explain.answers import view_of_answers
from alexnet_infer.explain.diagram import diagram
from alexnet_infer.explain.hidden import view_of_occlusion
from alexnet_infer.explain.inside import view_of_softmax, view_of_steps
from alexnet_infer.explain.measure import Explained
from alexnet_infer.explain.stages import stages
from alexnet_infer.explain.words import about, against_paper, describe, exact, size, title
from alexnet_infer.preprocess import Preprocessing
from alexnet_infer.version import __version__

LARGEST_PHOTO, SMALL_PHOTO = 720, 400
"""The larger side of the photo on the page, in pixels, and of the one beside the answer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Photographed:
    """The photo as it was read: its name, its size in pixels and a smaller copy for the page."""

    name: str
    width: int
    height: int
    copy: np.ndarray
    """uint8 [H, W, 3]."""

    @property
    def small_width(self) -> int:
        """The width on the page of the copy beside the answer, in pixels."""
        return max(1, round(self.copy.shape[1] * SMALL_PHOTO / max(SMALL_PHOTO, *self.copy.shape[:2])))

    @property
    def small_height(self) -> int:
        return max(1, round(self.copy.shape[0] * SMALL_PHOTO / max(SMALL_PHOTO, *self.copy.shape[:2])))

    @classmethod
    def of(cls, image: Image.Image, name: str) -> Photographed:
        copy = image.copy()
        copy.thumbnail((LARGEST_PHOTO, LARGEST_PHOTO), Image.Resampling.LANCZOS)
        return cls(name=name, width=image.width, height=image.height, copy=np.asarray(copy))


def check_out(out: Path) -> None:
    """Raise BackendError if jinja2 is missing, and UsageError if `out` is a file that must not be overwritten."""
    pages.check_jinja("explain")
    pages.check_page(out, f"--out {out}", "another file")


def write(photo: Photographed, nets: Sequence[Explained], out: Path) -> Path:
    """Write the page `out` on one net, or on two beside each other, and return its path.

    Raises the errors of `check_out`, and UsageError if the page can't be written.
    """
    check_out(out)
    return pages.write_page(out.parent, out.name, _page(photo, nets), f"--out {out}", "another file")


def _page(photo: Photographed, nets: Sequence[Explained]) -> str:
    script = resources.files(__package__).joinpath("explain.js").read_text("utf-8")
    parts = _parts(nets)
    values = {
        "version": __version__,
        "photo": photo,
        "picture": pages.jpeg(photo.copy, LARGEST_PHOTO),
        "small": pages.jpeg(photo.copy, SMALL_PHOTO),
        "nets": [_view(net, photo, [part["name"] for part in parts]) for net in nets],
        "parts": parts,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    filters = {"exact": exact, "size": size, "describe": describe, "short": _short, "against_paper": against_paper}
    return pages.render(__package__, "explain.html.jinja", values, filters)


def _short(value: float) -> str:
    """Format a value without a unit with three significant digits: 0, 0.0123, 4.56, 123, 12,300."""
    if not value:
        return "0"
    if abs(value) >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    text = f"{value:#.3g}" if abs(value) >= 0.001 else f"{value:.2e}"
    return text.rstrip(".").replace("-", "\N{MINUS SIGN}")


def _view(net: Explained, photo: Photographed, names: Sequence[str]) -> dict[str, Any]:
    """Return what the template shows of one net. `names` are all parts of the page, in its order.

    "begins" are the first operations of its stages, and "earlier" those that run right before an operation that is
    above them on the page, with the name of that one.
    """
    preprocessing = net.manifest.preprocessing
    own = [operation.name for operation in net.manifest.architecture.operations]
    return {
        "net": net,
        "name": net.manifest.name,
        "architecture": net.manifest.architecture,
        "preprocessing": preprocessing,
        "box": _box(photo, preprocessing),
        "answers": view_of_answers(net),
        "diagram": diagram(net.manifest.architecture),
        "steps": view_of_steps(net),
        "begins": {stage.name for stage in stages(net.manifest.architecture)},
        "earlier": {a: b for a, b in pairwise(own) if names.index(b) < names.index(a)},
        "softmax": view_of_softmax(net),
        "occlusion": view_of_occlusion(net),
    }


def _box(photo: Photographed, preprocessing: Preprocessing) -> tuple[float, float, float, float]:
    """Return x, y, width and height of the part that the square shows, in pixels of the photo's copy."""
    height, width = photo.copy.shape[:2]
    if preprocessing.fit == "stretch":
        return 0, 0, width, height
    side = min(height, width)
    return (width - side) / 2, (height - side) / 2, side, side


def _parts(nets: Sequence[Explained]) -> list[dict[str, Any]]:
    """Return name, title, paragraphs and remarks of each operation of the nets, in order.

    An operation that only one of two nets has is in its place. "begins" is whether it is the first one of a stage.
    """
    architectures = [net.manifest.architecture for net in nets]
    named = [{step.operation.name: step for step in architecture.steps} for architecture in architectures]
    first = {stage.name for architecture in architectures for stage in stages(architecture)}
    said: dict[str, str] = {}
    parts = []
    for name in _merged(named):
        owners = [(steps[name], own) for steps, own in zip(named, architectures, strict=True) if name in steps]
        words = dict.fromkeys(about(step.operation, own, said) for step, own in owners)
        parts.append(
            {
                "name": name,
                "title": title(owners[0][0].operation),
                "begins": name in first,
                "words": [paragraph for paragraph, _ in words if paragraph is not None],
                "said": [where for paragraph, where in words if paragraph is None and where != name],
            }
        )
    return parts


def _merged(named: Sequence[Iterable[str]]) -> list[str]:
    """Return the names of all lists. A name that only a later list has follows the one before it there."""
    names = [*named[0]]
    for other in named[1:]:
        place = 0
        for name in other:
            if name in names:
                place = names.index(name) + 1
            else:
                names.insert(place, name)
                place += 1
    return names
