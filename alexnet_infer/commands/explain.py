"""`alexnet-infer explain`: a page on how a net comes to its answer for a photo."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from io import BytesIO
from itertools import islice
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from alexnet_infer.artifact import embedded_model
from alexnet_infer.backends import Choice, Device
from alexnet_infer.decode import quiet_pillow, read_rgb
from alexnet_infer.errors import UsageError
from alexnet_infer.explain.answers import view_name
from alexnet_infer.explain.measure import Explained, measure, subject
from alexnet_infer.explain.page import Photographed, check_out, write
from alexnet_infer.explain.stages import values as layers_of
from alexnet_infer.files import safe_name
from alexnet_infer.output import say, say_json
from alexnet_infer.packages import installed
from alexnet_infer.photos import Photo, expand
from alexnet_infer.preprocess import Views, square_of
from alexnet_infer.progress import counting

SUFFIXES = (".html", ".htm")


def run(
    photo: str,
    *,
    model: Path | None,
    compare: Path | None,
    views: Views,
    label: str | None,
    square: int | None,
    stride: int | None,
    device: Device,
    backend: Choice,
    out: Path | None,
    as_json: bool,
) -> None:
    """Write the page and print its path, or the page's numbers as JSON.

    Raises UsageError for invalid options, several photos or a page that can't be written, UnreadableInputError if the
    photo can't be read, and the errors of `nets.load`.
    """
    entry = _one(photo)
    out = _default_name(entry) if out is None else out
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--out {out}: expected a file name ending in .html")
    check_out(out)
    subjects = [
        subject(path, views, square, stride, label) for path in (model or embedded_model(), compare) if path is not None
    ]
    rescalings = {s.manifest.preprocessing.rescaling for s in subjects}
    source = entry.source()
    image = read_rgb(source, name=entry.name, shrink_to=max(rescaling.size for rescaling in rescalings))
    squares = {rescaling: square_of(image, rescaling) for rescaling in rescalings}
    if backend == "auto" and installed("onnxruntime"):
        backend = "onnxruntime"  # as in `classify` of one photo, so that all digits are the same
    with counting("hiding parts", sum(s.hiding.positions for s in subjects), "positions") as advance:
        nets = [
            measure(s, squares[s.manifest.preprocessing.rescaling], device=device, backend=backend, advance=advance)
            for s in subjects
        ]
    page = write(Photographed.of(image, _shown_name(entry), _size(source, image)), nets, out)
    if as_json:
        say_json({"photo": entry.name, "page": str(page), "nets": [_json(net) for net in nets]})
    else:
        say(page)


def _one(text: str) -> Photo:
    """Return the photo that a user names. Raises UsageError if there are several."""
    photos = list(islice(expand([text]), 2))
    if len(photos) > 1:
        raise UsageError(f"{text}: several photos; expected one")
    return photos[0]


def _shown_name(photo: Photo) -> str:
    """Return the name of a photo without its folders: they may be private, and a page is passed on."""
    if photo.path is not None:
        return photo.path.name
    if photo.url is None:
        return "the photo"
    parts = urlsplit(photo.url)  # without a password or a query, which may be secret
    last = PurePosixPath(parts.path).name
    return f"{parts.hostname}: {last}" if last else str(parts.hostname)


def _size(source: object, image: Image.Image) -> tuple[int, int] | None:
    """Return the size of the photo's file, turned as the decoded one; None if it can't be read a second time.

    `read_rgb` decodes a very large JPEG at a part of its size.
    """
    if not isinstance(source, (bytes, Path)):
        return None
    with (
        suppress(Exception),
        quiet_pillow,
        Image.open(BytesIO(source) if isinstance(source, bytes) else source) as file,
    ):
        upright = (file.width > file.height) == (image.width > image.height)
        return file.size if upright else file.size[::-1]
    return None


def _default_name(photo: Photo) -> Path:
    """Return the photo's name with .html, in the current folder. That of a URL is made safe."""
    if photo.path is not None:
        return Path(f"{photo.path.stem}.html")
    stem = PurePosixPath(urlsplit(photo.url).path).stem if photo.url else "photo"
    return Path(f"{safe_name(stem, 100)}.html")


def _json(net: Explained) -> dict:
    layers = layers_of(net.manifest.architecture)
    return {
        "net": net.manifest.name,
        "sha256": net.sha256,
        "backend": net.backend,
        "labels": _labels(net, net.mean),
        "views": [
            {
                "view": view_name(i, place),
                "row": place.row,
                "column": place.column,
                "mirrored": place.mirrored,
                "labels": _labels(net, votes),
                "answer": [{"index": c, "probability": float(votes[c])} for c in net.top(net.mean)],
            }
            for i, (place, votes) in enumerate(zip(net.places, net.votes, strict=True))
        ],
        "layers": [
            {
                "operation": name,
                "layer": layers[name],
                "shape": list(values.shape),
                "min": float(values.min()),
                "max": float(values.max()),
                "mean": float(values.mean(dtype=np.float64)),
                "not_zero": int(np.count_nonzero(values)),
            }
            for name, values in net.values.items()
        ],
        "occlusion": _occlusion(net),
    }


def _labels(net: Explained, probabilities: np.ndarray) -> list[dict]:
    return [
        {"index": i, "wnid": net.classes[i].wnid, "name": net.classes[i].name, "probability": float(probabilities[i])}
        for i in net.top(probabilities)
    ]


def _occlusion(net: Explained) -> dict:
    found = net.occlusion
    label = net.classes[found.label]
    return {
        "index": found.label,
        "wnid": label.wnid,
        "name": label.name,
        "whole": found.whole,
        **{key: value for key, value in asdict(found.hiding).items() if key in ("views", "square", "stride")},
        "offsets": list(found.hiding.offsets),
        "probability": found.probability.astype(float).tolist(),
        "first": found.first.tolist(),
    }
