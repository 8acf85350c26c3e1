"""A photo's bytes -> its square, and probabilities -> labels, as in `classify`."""

from __future__ import annotations

from typing import Any

import numpy as np

from alexnet_infer.answers import labels_row
from alexnet_infer.decode import read_square
from alexnet_infer.errors import UnreadableInputError, shown
from alexnet_infer.serve.limits import RequestError
from alexnet_infer.serve.model import Model

TOP = 5
"""Labels if the request doesn't say how many, or all if the net knows fewer classes."""


def square_of(content: bytes, model: Model, max_pixels: int) -> np.ndarray:
    """Decode a photo, turned as its EXIF orientation says: uint8 [1, S, S, 3].

    Raises RequestError with the status 400 if it can't be read.
    """
    rescaling = model.net.nets[0].rescaling
    try:
        return read_square(content, name="the photo", rescaling=rescaling, max_pixels=max_pixels)[None]
    except UnreadableInputError as error:
        raise RequestError(400, str(error)) from None


def top_of(text: str | None, model: Model) -> int:
    """Return the number of labels that a request asks for. Raises RequestError."""
    most = len(model.net.classes)
    if text is None:
        return min(TOP, most)
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise RequestError(400, f"top={shown(text)}: expected 1 to {most}, the number of classes")
    return int(text)


def answer(model: Model, probabilities: np.ndarray, top: int) -> dict[str, Any]:
    """Return a photo's labels, with `probabilities` [classes], as `classify --json` prints them."""
    return {"model": model.name, **labels_row(model.net, model.net.labels(probabilities, top))}
