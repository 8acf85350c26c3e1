"""Labels for photos: squares -> patches -> backend -> mean over the views -> mean over the nets.

`load`, `Net` and `Ensemble` are the Python API. The package exports them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_infer.backends import Backend
from alexnet_infer.backends.opening import Opened, reopened
from alexnet_infer.decode import Encoded, Squares, read_squares
from alexnet_infer.errors import ModelFileError, UsageError, listed
from alexnet_infer.layers import find_layers
from alexnet_infer.manifest import ClassName, Manifest, check_same_classes
from alexnet_infer.metrics import highest, mean_probabilities
from alexnet_infer.photos import Photo, named
from alexnet_infer.preprocess import Rescaling, Views, patches
from alexnet_infer.reading import PHOTOS_PER_CALL, batches, decode_photos

LARGEST_BATCH = 1024
"""Maximum number of images per call of a net: ten views of 1,024 images at 227 x 227 pixels are 6 GB."""


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

    def classify(self, photo: str | Encoded | Image.Image | np.ndarray, top: int = 5) -> list[Label]:
        """Return the `top` most probable labels of one photo.

        `photo` is a path, an http or https URL (as str), an encoded image, an open file, a Pillow image, or an array
        uint8 [H, W, 3] in RGB order (OpenCV's is BGR: pass `array[:, :, ::-1]`). Raises UnreadableInputError if it
        can't be read as an image, and UsageError for another array.
        """
        self._check_top(top)
        return list(self.labels(self._mean_probabilities([_squares(photo, self._rescalings)])[0], top))

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
        read = decode_photos(entries, partial(Photo.squares, rescalings=self._rescalings))
        for batch in batches(read, PHOTOS_PER_CALL):
            readable = [photo.image for photo in batch if photo.image is not None]
            rows = iter(self._mean_probabilities(readable) if readable else ())
            for photo in batch:
                if photo.error is not None:
                    yield Result(photo=photo.source, error=str(photo.error))
                else:
                    yield Result(photo=photo.source, labels=self.labels(next(rows), top))

    @property
    def _rescalings(self) -> set[Rescaling]:
        return {net.rescaling for net in self.nets}

    def _mean_probabilities(self, photos: Sequence[Squares]) -> np.ndarray:
        """Probabilities [N, classes], averaged over the views and over the nets."""
        return mean_probabilities(
            [
                finite(net.probabilities([squares[net.rescaling] for squares in photos]), net.manifest.name)
                for net in self.nets
            ]
        )

    def _check_top(self, top: int) -> None:
        if not 1 <= top <= len(self.classes):
            raise UsageError(f"top={top}: expected 1 to {len(self.classes)}, the number of classes")

    def labels(self, probabilities: np.ndarray, top: int) -> tuple[Label, ...]:
        """Return the `top` most probable labels of a photo with these probabilities [classes]."""
        return tuple(
            Label(
                index=int(i), wnid=self.classes[i].wnid, name=self.classes[i].name, probability=float(probabilities[i])
            )
            for i in highest(probabilities, top)
        )


class Net(_Classifier):
    """A trained net on a device. Made by `load`.

    `views`: "ten" averages the probabilities of the paper's ten patches (section 4.1), "center" uses the central patch.
    `opened` is the net's file.
    """

    def __init__(
        self, manifest: Manifest, backend: Backend, views: Views = "ten", opened: Opened | None = None
    ) -> None:
        if views not in ("ten", "center"):
            raise UsageError(f"views={views!r}: expected ten or center")
        self.manifest, self.backend, self.views, self.opened = manifest, backend, views, opened
        self._others: dict[tuple[str, ...], Net] = {}

    @property
    def nets(self) -> tuple[Net, ...]:
        """This net alone."""
        return (self,)

    @property
    def rescaling(self) -> Rescaling:
        """How an image becomes the square from which the views are cut."""
        return self.manifest.preprocessing.rescaling

    def probabilities(self, squares: Sequence[np.ndarray]) -> np.ndarray:
        """Return class probabilities float32 [N, classes], averaged over the views, of squares uint8 [S, S, 3] RGB.

        S is `manifest.preprocessing.size`. Raises UsageError for other arrays, or if there are none.
        """
        return self.mean_over_views(self.backend.infer(self._inputs(squares)), len(squares))

    def activations(self, squares: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Return the values of the layers that the net was loaded with, averaged over the views, of squares as above.

        Each is float32 [N, *shape of the layer]: [N, channels, height, width] for maps, [N, units] for vectors.
        """
        values = self.backend.activations(self._inputs(squares))
        return {name: self.mean_over_views(value, len(squares)) for name, value in values.items()}

    def features(
        self, photo: str | Path | Encoded | Image.Image | np.ndarray, layers: Iterable[str] = ("fc7",)
    ) -> dict[str, np.ndarray]:
        """Return the values of layers for one photo, averaged over the views: float32 [*shape of the layer], by name.

        `layers` are names that `alexnet-infer info` prints. The name of a convolution or a fully-connected layer means
        the value after its activation; with ":pre", the value before. Maps are [channels, height, width], vectors
        [units], "probabilities" [classes]. `photo` is as in `classify`.

        The net's file is opened again with these layers, and kept open for further calls with the same ones. Raises
        UsageError for an unknown layer, ModelFileError if the file has changed, and the errors of `classify`.

        >>> load("bvlc-alexnet").features("photo.jpg", ["fc6:pre", "pool5"])["fc6:pre"].shape
        (4096,)
        """
        net = self._computing(tuple(layer.name for layer in find_layers(self.manifest.architecture, layers)))
        return {
            name: value[0]
            for name, value in net.activations([_squares(photo, {self.rescaling})[self.rescaling]]).items()
        }

    def check_unchanged(self) -> None:
        """Raise ModelFileError if a server no longer has the net that was loaded, as far as it tells.

        Does nothing for a file. A replaced net is noticed only by this if the server sends no digest with each answer.
        """
        if self.opened is not None and self.opened.address is not None:
            self.backend.check_unchanged()

    def _computing(self, layers: tuple[str, ...]) -> Net:
        if layers == self.backend.outputs:
            return self
        if layers not in self._others:
            if self.opened is None:
                raise UsageError(
                    f"{self.manifest.name} computes only {listed(self.backend.outputs)}: it was made without a file"
                )
            opened = reopened(self.opened, layers, self.views)
            self._others = {layers: Net(opened.manifest, opened.backend, self.views, opened)}
        return self._others[layers]

    def _inputs(self, squares: Sequence[np.ndarray]) -> np.ndarray:
        self._check_squares(squares)
        return np.concatenate([self.inputs(square) for square in squares])

    def _check_squares(self, squares: Sequence[np.ndarray]) -> None:
        side = self.manifest.preprocessing.size
        expected = f"squares uint8 [{side}, {side}, 3] RGB, of at least one image"
        if not len(squares):
            raise UsageError(f"0 squares: expected {expected}")
        for i, square in enumerate(squares):
            if (np.shape(square), getattr(square, "dtype", None)) != ((side, side, 3), np.uint8):
                raise UsageError(f"squares[{i}] is {_described(square)}: expected {expected}")

    def __repr__(self) -> str:
        facts = f"{len(self.classes)} classes, views={self.views!r}, {self.backend.description!r}"
        return f"Net({self.manifest.name!r}, {facts})"

    def inputs(self, square_hwc: np.ndarray) -> np.ndarray:
        """Return the backend's input for one square uint8 [S, S, 3] RGB.

        This is its views float32 [V, 3, patch, patch], or the square itself [1, S, S, 3] if the backend cuts the views.
        """
        if self.backend.takes_squares:
            return square_hwc[None]
        return patches(square_hwc, self.manifest.preprocessing, self.views)

    @staticmethod
    def mean_over_views(scores: np.ndarray, images: int) -> np.ndarray:
        """Average a backend's output [images * V, ...] over the V views: float32 [images, ...]."""
        return scores.reshape(images, -1, *scores.shape[1:]).mean(1)


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
        check_same_classes([m.wnids for m in manifests], [m.name for m in manifests])

    @property
    def nets(self) -> tuple[Net, ...]:
        """The nets, in the order given."""
        return self._nets

    def __repr__(self) -> str:
        return f"Ensemble({list(self._nets)!r})"


def finite(values: np.ndarray, net: str, what: str = "probabilities") -> np.ndarray:
    """Return `values`, which the net of this name computed, if all are finite. Raises ModelFileError otherwise."""
    if not np.isfinite(values).all():
        raise ModelFileError(
            f"{net}: its {what} are not finite: its weights are too large for float32; use another model file"
        )
    return values


def _squares(photo: str | Path | Encoded | Image.Image | np.ndarray, rescalings: set[Rescaling]) -> Squares:
    """Read a photo and return its square for each of `rescalings`."""
    if isinstance(photo, (str, Path)):
        return named(photo).squares(rescalings)
    image = _picture(photo) if isinstance(photo, np.ndarray) else photo
    return read_squares(image, name="the image", rescalings=rescalings)


def _picture(array: np.ndarray) -> Image.Image:
    """Return an array uint8 [H, W, 3] RGB as an image. Raises UsageError for another array."""
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise UsageError(f"photo is {_described(array)}: expected an array uint8 [H, W, 3] in RGB order")
    return Image.fromarray(array)


def _described(value: object) -> str:
    """Return an array's type and shape for a message, as in "float32 [227, 227, 3]"."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return f"of type {type(value).__name__}"
