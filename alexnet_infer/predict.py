"""From photos to labels: squares -> patches -> backend -> mean of the probabilities over the views.

`load` and `Net` are the Python API, re-exported by the package.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from alexnet_infer.artifact import Manifest, embedded_model
from alexnet_infer.backends import Backend, Device, Runtime
from alexnet_infer.backends.opening import open_model
from alexnet_infer.decode import read_square
from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.nets import find_net
from alexnet_infer.photos import Photo
from alexnet_infer.preprocess import Views, patches

LARGEST_BATCH = 1024
"""Images that may go through a net at once: ten views of so many, of 227 pixels, are 6 GB."""

PHOTOS_PER_CALL = 8
"""Photos that go through the net at once. Eight are 80 patches: enough to keep two cores busy, and about 500 MB of
activations in the full-size net."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """One guess about a photo."""

    index: int
    """Position in the net's outputs."""
    wnid: str
    name: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one photo: `labels`, likeliest first, or `error`, one line saying why it could not be read."""

    photo: Photo
    labels: tuple[Label, ...] = ()
    error: str | None = None


class Net:
    """A trained net on a device. Made by `load`.

    `views`: "ten" averages the probabilities of the paper's ten patches (section 4.1), "center" takes the central one.
    """

    def __init__(self, manifest: Manifest, backend: Backend, views: Views = "ten") -> None:
        if views not in ("ten", "center"):
            raise UsageError(f"views={views!r}: expected ten or center")
        self.manifest, self.backend, self.views = manifest, backend, views

    def classify(self, photo: str | Path | bytes | BinaryIO | Image.Image, top: int = 5) -> list[Label]:
        """The `top` likeliest labels of one photo (a path, an encoded image, an open file or a Pillow image).

        Raises UnreadableInputError when it can't be read as an image.
        """
        self._check_top(top)
        name = photo if isinstance(photo, str | Path) else "the image"
        source = Path(photo) if isinstance(photo, str) else photo
        square = read_square(source, name=str(name), rescaling=self.manifest.preprocessing.rescaling)
        return list(self._labels(self.probabilities([square])[0], top))

    def classify_all(self, photos: Iterable[Photo], top: int = 5) -> Iterator[Result]:
        """Labels of many photos, in their order. One that can't be read yields its error and the rest go on.

        Photos are decoded on all cores, a few at a time; memory does not grow with their number.
        """
        self._check_top(top)
        photos = iter(photos)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # more would only hold more decoded photos
            while chunk := list(islice(photos, PHOTOS_PER_CALL)):
                squares = list(pool.map(self._square_or_error, chunk))
                readable = [square for square in squares if isinstance(square, np.ndarray)]
                rows = iter(self.probabilities(readable) if readable else ())
                for photo, square in zip(chunk, squares, strict=True):
                    if isinstance(square, np.ndarray):
                        yield Result(photo=photo, labels=self._labels(next(rows), top))
                    else:
                        yield Result(photo=photo, error=str(square))

    def probabilities(self, squares: Sequence[np.ndarray]) -> np.ndarray:
        """Class probabilities float32 [N, classes], averaged over the views, of squares uint8 [S, S, 3] RGB."""
        inputs = np.concatenate([self.inputs(square) for square in squares])
        return self.mean_over_views(self.backend.infer(inputs), len(squares))

    def inputs(self, square_hwc: np.ndarray) -> np.ndarray:
        """What the backend takes for one square uint8 [S, S, 3] RGB: its views float32 [V, 3, patch, patch], or the
        square itself [1, S, S, 3] where the backend cuts the views."""
        if self.backend.takes_squares:
            return square_hwc[None]
        return patches(square_hwc, self.manifest.preprocessing, self.views)

    @staticmethod
    def mean_over_views(scores: np.ndarray, images: int) -> np.ndarray:
        """Probabilities [images * V, classes] of what `inputs` gave for the images -> float32 [images, classes]."""
        return scores.reshape(images, -1, scores.shape[1]).mean(1)

    def _check_top(self, top: int) -> None:
        if not 1 <= top <= len(self.manifest.classes):
            raise UsageError(f"top={top}: expected 1 to {len(self.manifest.classes)}, the number of classes")

    def _square_or_error(self, photo: Photo) -> np.ndarray | UnreadableInputError:
        try:
            return photo.square(self.manifest.preprocessing)
        except UnreadableInputError as error:
            return error

    def _labels(self, probabilities: np.ndarray, top: int) -> tuple[Label, ...]:
        order = np.argsort(-probabilities, kind="stable")[:top]  # stable: ties go to the lower index
        classes = self.manifest.classes
        return tuple(
            Label(index=int(i), wnid=classes[i].wnid, name=classes[i].name, probability=float(probabilities[i]))
            for i in order
        )


def load(
    model: str | Path | None = None,
    *,
    device: Device = "auto",
    views: Views | None = None,
    backend: Runtime = "auto",
    trust_engine: bool = False,
) -> Net:
    """A net ready to classify: the embedded one, a published one by its name (once pulled), or the one in the file
    `model`: a model file of ours, an exported .onnx file, or an .engine.

    `views`: "ten" or "center"; without, what the file does itself, or else ten. `device`: "cpu", "cuda", or "auto" for
    a CUDA GPU where one works. `backend`: "onnxruntime", "openvino", or "auto" for the faster one that is installed.
    `trust_engine`: run an engine that this user's cache did not build, though engines are code. Raises ModelFileError
    when the file can't be used, BackendError when the runtime or the device is missing, UsageError for other values.
    """
    path = find_net(model) if model is not None else embedded_model()
    opened = open_model(path, device=device, runtime=backend, trust_engine=trust_engine, views=views or "ten")
    if opened.views and views not in (None, opened.views):
        raise UsageError(f"{path}: was exported with views={opened.views}, and views={views} can't be had from it")
    return Net(opened.manifest, opened.backend, opened.views or views or "ten")
