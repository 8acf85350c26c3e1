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
from alexnet_infer.explain.numbers import counted, exact, fixed, short
from alexnet_infer.explain.stages import stages
from alexnet_infer.explain.words import about, describe, position, size, title
from alexnet_infer.preprocess import Preprocessing
from alexnet_infer.version import __version__

KIND = "explain"
"""What the page is, in its generator mark."""

LARGEST_PHOTO, SMALL_PHOTO = 720, 400
"""The larger side of the photo on the page, in pixels, and of the one beside the answer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Photographed:
    """The photo as it was read: its name, its size in pixels and a smaller copy for the page."""

    name: str
    width: int
    height: int
    """Of the file, turned as its EXIF orientation says."""
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
    def of(cls, image: Image.Image, name: str, size: tuple[int, int] | None = None) -> Photographed:
        """Make the copy of a photo. `size` is that of its file, which may have been decoded at a part of it."""
        width, height = max(image.size, size or image.size, key=max)
        copy = image.copy()
        copy.thumbnail((LARGEST_PHOTO, LARGEST_PHOTO), Image.Resampling.LANCZOS)
        return cls(name=name, width=width, height=height, copy=np.asarray(copy))


def check_out(out: Path) -> None:
    """Raise BackendError if jinja2 is missing, and UsageError if `out` can't be written or must not be."""
    pages.check_jinja("explain")
    pages.check_file(out, f"--out {out}")
    pages.check_page(out, f"--out {out}", "another file", KIND)


def write(photo: Photographed, nets: Sequence[Explained], out: Path) -> Path:
    """Write the page `out` on one net, or on two beside each other, and return its path.

    Raises the errors of `check_out`, and UsageError if the page can't be written.
    """
    check_out(out)
    return pages.write_page(out.parent, out.name, _page(photo, nets), f"--out {out}", "another file", KIND)


def _page(photo: Photographed, nets: Sequence[Explained]) -> str:
    script = resources.files(__package__).joinpath("explain.js").read_text("utf-8")
    names = _names(nets)
    parts = _parts(nets, names)
    order = [part["name"] for part in parts]
    values = {
        "version": __version__,
        "kind": KIND,
        "photo": photo,
        "picture": pages.jpeg(photo.copy, LARGEST_PHOTO),
        "small": pages.jpeg(photo.copy, SMALL_PHOTO),
        "nets": [_view(net, photo, name, order) for net, name in zip(nets, names, strict=True)],
        "parts": parts,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    filters = {"exact": exact, "size": size, "describe": describe, "short": short, "fixed": fixed, "counted": counted}
    return pages.render(__package__, "explain.html.jinja", values, filters)


def _names(nets: Sequence[Explained]) -> list[str]:
    """Return the nets' names. Equal ones have the beginning of the file's SHA-256, or a number."""
    for names in (
        [net.manifest.name for net in nets],
        [f"{net.manifest.name} ({net.sha256[:8]})" for net in nets],
    ):
        if len(set(names)) == len(names):
            return names
    return [f"{net.manifest.name} ({i})" for i, net in enumerate(nets, 1)]


def _view(net: Explained, photo: Photographed, name: str, order: Sequence[str]) -> dict[str, Any]:
    """Return what the template shows of one net. `order` has all parts of the page.

    "begins" are the first operations of its stages, and "earlier" those that run right before an operation that is
    above them on the page, with the name of that one.
    """
    preprocessing = net.manifest.preprocessing
    own = [operation.name for operation in net.manifest.architecture.operations]
    return {
        "net": net,
        "name": name,
        "architecture": net.manifest.architecture,
        "preprocessing": preprocessing,
        "box": _box(photo, preprocessing),
        "answers": view_of_answers(net),
        "diagram": diagram(net.manifest.architecture),
        "steps": view_of_steps(net),
        "begins": {stage.name for stage in stages(net.manifest.architecture)},
        "earlier": {a: b for a, b in pairwise(own) if order.index(b) < order.index(a)},
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


def _parts(nets: Sequence[Explained], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return name, title, paragraphs and remarks of each operation of the nets, in order.

    An operation that only one of two nets has is in its place. "begins" is whether it is the first one of a stage. Each
    of the "words" is a paragraph, or None and the operation that has it, with the name of the net that it is true of,
    or "" if that is not needed.
    """
    architectures = [net.manifest.architecture for net in nets]
    named = [{step.operation.name: step for step in architecture.steps} for architecture in architectures]
    first = {stage.name for architecture in architectures for stage in stages(architecture)}
    said: dict[str, str] = {}
    parts = []
    for name in _merged(named):
        owners = [own for own in zip(names, named, architectures, strict=True) if name in own[1]]
        kinds = {position(architecture, steps[name].operation) for _, steps, architecture in owners}
        words = [
            (*about(steps[name].operation, architecture, said), net if len(kinds) > 1 else "")
            for net, steps, architecture in owners
        ]
        parts.append(
            {
                "name": name,
                "title": " or ".join(dict.fromkeys(title(steps[name].operation) for _, steps, _ in owners)),
                "begins": name in first,
                "words": [word for word in dict.fromkeys(words) if word[0] is not None or word[1] != name],
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
