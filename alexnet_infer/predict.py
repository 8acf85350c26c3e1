"""Labels for photos: squares -> patches -> backend -> mean over the views -> mean over the nets.

`load`, `Net` and `Ensemble` are the Python API. The package exports them.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from alexnet_infer.backends import Backend
from alexnet_infer.decode import read_squares
from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.manifest import ClassName, Manifest, check_same_classes
from alexnet_infer.metrics import mean_probabilities
from alexnet_infer.photos import Photo, fetched, named
from alexnet_infer.preprocess import Rescaling, Views, patches

LARGEST_BATCH = 1024
"""Maximum number of images per call of a net: ten views of 1,024 images at 227 x 227 pixels are 6 GB."""

PHOTOS_PER_CALL = 8
"""Photos per call of a net. With ten views, eight photos are 80 patches: enough to keep two cores busy, and about
500 MB of activations in the full-size net."""

Squares = Mapping[Rescaling, np.ndarray]
"""The square uint8 [S, S, 3] RGB of one photo for each rescaling."""


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
    """The result for one photo: `labels`, most probable first, or `error`, one line with the reason."""

    photo: Photo
    labels: tuple[Label, ...] = ()
    error: str | None = None


class _Classifier(ABC):
    """Base of `Net` and `Ensemble`: labels photos by the mean probabilities of one or more nets."""

    @property
    @abstractmethod
    def nets(self) -> tuple[Net, ...]:
        """The nets whose probabilities are averaged."""

    @property
    def classes(self) -> tuple[ClassName, ...]:
        """The classes, in the order of the outputs."""
        return self.nets[0].manifest.classes

    def classify(self, photo: str | Path | bytes | BinaryIO | Image.Image, top: int = 5) -> list[Label]:
        """Return the `top` most probable labels of one photo.

        `photo` is a path, an http or https URL (as str), an encoded image, an open file or a Pillow image. Raises
        UnreadableInputError if it can't be read as an image.
        """
        self._check_top(top)
        if isinstance(photo, (str, Path)):
            squares = named(photo).squares(self._rescalings)
        else:
            squares = read_squares(photo, name="the image", rescalings=self._rescalings)
        return list(self._labels(self._mean_probabilities([squares])[0], top))

    def classify_all(self, photos: Iterable[str | Path | Photo], top: int = 5) -> Iterator[Result]:
        """Yield the labels of many photos, in order. A photo that can't be read yields its error.

        `photos` are paths, http or https URLs (as str), or what `alexnet_infer.photos.expand` yields. They are fetched
        and decoded in parallel, PHOTOS_PER_CALL at a time, so memory doesn't grow with their number. Raises
        UsageError if `photos` is a single path or URL.
        """
        self._check_top(top)
        if isinstance(photos, (str, Path)):
            raise UsageError(f"photos={named(photos).name!r}: expected several photos; use classify for one")
        entries = (photo if isinstance(photo, Photo) else named(photo) for photo in photos)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # more threads would only hold more decoded photos
            while chunk := list(islice(entries, PHOTOS_PER_CALL)):
                # URLs are fetched outside the pool: an interrupted program waits for its threads before it exits.
                squares = list(pool.map(self._squares_or_error, fetched(chunk)))
                readable = [item for item in squares if not isinstance(item, UnreadableInputError)]
                rows = iter(self._mean_probabilities(readable) if readable else ())
                for photo, item in zip(chunk, squares, strict=True):
                    if isinstance(item, UnreadableInputError):
                        yield Result(photo=photo, error=str(item))
                    else:
                        yield Result(photo=photo, labels=self._labels(next(rows), top))

    @property
    def _rescalings(self) -> set[Rescaling]:
        return {net.manifest.preprocessing.rescaling for net in self.nets}

    def _mean_probabilities(self, photos: Sequence[Squares]) -> np.ndarray:
        """Probabilities [N, classes], averaged over the views and over the nets."""
        probabilities = []
        for net in self.nets:
            rescaling = net.manifest.preprocessing.rescaling
            probabilities.append(net.probabilities([squares[rescaling] for squares in photos]))
        return mean_probabilities(probabilities)

    def _check_top(self, top: int) -> None:
        if not 1 <= top <= len(self.classes):
            raise UsageError(f"top={top}: expected 1 to {len(self.classes)}, the number of classes")

    def _squares_or_error(self, photo: Photo) -> Squares | UnreadableInputError:
        try:
            return photo.squares(self._rescalings)
        except UnreadableInputError as error:
            return error

    def _labels(self, probabilities: np.ndarray, top: int) -> tuple[Label, ...]:
        order = np.argsort(-probabilities, kind="stable")[:top]  # stable: ties go to the lower index
        return tuple(
            Label(
                index=int(i),
                wnid=self.classes[i].wnid,
                name=self.classes[i].name,
                probability=float(probabilities[i]),
            )
            for i in order
        )


class Net(_Classifier):
    """A trained net on a device. Made by `load`.

    `views`: "ten" averages the probabilities of the paper's ten patches (section 4.1), "center" uses the central patch.
    """

    def __init__(self, manifest: Manifest, backend: Backend, views: Views = "ten") -> None:
        if views not in ("ten", "center"):
            raise UsageError(f"views={views!r}: expected ten or center")
        self.manifest, self.backend, self.views = manifest, backend, views

    @property
    def nets(self) -> tuple[Net, ...]:
        """This net alone."""
        return (self,)

    def probabilities(self, squares: Sequence[np.ndarray]) -> np.ndarray:
        """Return class probabilities float32 [N, classes], averaged over the views, of squares uint8 [S, S, 3] RGB."""
        inputs = np.concatenate([self.inputs(square) for square in squares])
        return self.mean_over_views(self.backend.infer(inputs), len(squares))

    def inputs(self, square_hwc: np.ndarray) -> np.ndarray:
        """Return the backend's input for one square uint8 [S, S, 3] RGB.

        This is its views float32 [V, 3, patch, patch], or the square itself [1, S, S, 3] if the backend cuts the views.
        """
        if self.backend.takes_squares:
            return square_hwc[None]
        return patches(square_hwc, self.manifest.preprocessing, self.views)

    @staticmethod
    def mean_over_views(scores: np.ndarray, images: int) -> np.ndarray:
        """Average the backend's outputs [images * V, classes] over the V views: float32 [images, classes]."""
        return scores.reshape(images, -1, scores.shape[1]).mean(1)


class Ensemble(_Classifier):
    """Several nets. Their probabilities are averaged with equal weights.

    Each net has its own preprocessing and views. A photo is read and decoded once for all of them. Raises UsageError if
    there is no net, or if their classes differ.

    >>> ensemble = Ensemble([load("caffenet"), load("bvlc-alexnet")])
    >>> ensemble.classify("photo.jpg")[0].name
    """

    def __init__(self, nets: Iterable[Net]) -> None:
        self._nets = tuple(nets)
        if not self._nets:
            raise UsageError("an ensemble of 0 nets: expected at least 1")
        manifests = [net.manifest for net in self._nets]
        check_same_classes([[c.wnid for c in m.classes] for m in manifests], [m.name for m in manifests])

    @property
    def nets(self) -> tuple[Net, ...]:
        """The nets, in the order given."""
        return self._nets
