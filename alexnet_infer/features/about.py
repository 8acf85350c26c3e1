"""What a file of features says of itself: the net, the layers, the images, and how the values were computed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
import numpy as np

from alexnet_infer import strict_json
from alexnet_infer.errors import AlexNetInferError, SpecError, UnreadableInputError, printable
from alexnet_infer.preprocess import Preprocessing, Views
from alexnet_infer.strict_json import Record, Sha256, Text, matching, whole

FORMAT = 1

MAX_IMAGES = 2**24
"""Images of one file. ImageNet's 21,841 classes have 14 million."""

MAX_LAYERS = 1000
"""Layers of one file. The paper's net has 24 operations."""

MAX_VALUES = 2**24
"""Values of one layer for one image, as `architecture.MAX_VALUES`."""

Count = Annotated[int, whole(0, 2**53)]
Positive = Annotated[int, whole(1, 2**53)]
LayerName = Annotated[
    str, matching("[A-Za-z][A-Za-z0-9_-]{0,63}(:pre)?", "a layer's name, with or without :pre, such as fc6:pre")
]
DType = Literal["float32", "float16"]


class FeaturesError(AlexNetInferError):
    """A file of features is missing, damaged, or of another kind."""

    exit_code = UnreadableInputError.exit_code


class AboutLayer(Record, frozen=True, kw_only=True):
    """A layer and the shape of its values for one image. Raises SpecError if a value is out of range."""

    name: LayerName
    shape: tuple[Annotated[int, whole(1, MAX_VALUES)], ...]
    """(channels, height, width) for maps, (units,) for vectors."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.shape) <= 3 or self.size > MAX_VALUES:
            raise SpecError(f"{self.name}: shape {list(self.shape)}: expected 1 to 3 axes, {MAX_VALUES:,} values")

    @property
    def size(self) -> int:
        """Values per image."""
        return math.prod(self.shape)


class AboutImages(Record, frozen=True, kw_only=True):
    """The images, in their order. Raises SpecError if a value is out of range."""

    data: Text
    """The name of the labelled set, or "photos"."""
    path: Text | None
    """The set's folder or archive as the user named it. None for photos: their names are paths."""
    layout: Text | None
    split: Literal["train", "validation"] | None
    sample: bool
    """Whether they are a sample of the set."""
    count: Annotated[int, whole(1, MAX_IMAGES)]
    unreadable: Annotated[int, whole(0, MAX_IMAGES)]
    """Images that could not be read. Their values are NaN."""
    listing: Sha256
    """`hash_of` their names and labels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unreadable > self.count:
            raise SpecError(f"unreadable={self.unreadable}: expected at most {self.count}, the number of images")


class About(Record, frozen=True, kw_only=True):
    """The description of a file of features. Raises SpecError if a value is invalid or a layer occurs twice."""

    net: Text
    sha256: Sha256
    """Of the net's file."""
    layers: tuple[AboutLayer, ...]
    views: Views
    """center: the values for the central patch. ten: the mean of those for the paper's ten patches."""
    dtype: DType
    preprocessing: Preprocessing
    batch: Positive
    """Images per call of the net. Another number may change the last digit of a value."""
    backend: Text
    software: Text
    images: AboutImages

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [layer.name for layer in self.layers]
        if not 1 <= len(names) <= MAX_LAYERS or len({*names}) < len(names):
            raise SpecError(f"layers: {len(names)} names: expected 1 to {MAX_LAYERS:,}, each once")

    @property
    def numpy_dtype(self) -> np.dtype:
        """The type of the stored values, little-endian."""
        return np.dtype({"float32": "<f4", "float16": "<f2"}[self.dtype])

    @property
    def row_bytes(self) -> int:
        """Bytes of all layers for one image."""
        return self.numpy_dtype.itemsize * sum(layer.size for layer in self.layers)

    def to_json(self) -> str:
        """Return the description as canonical JSON in ASCII: equal descriptions give equal text."""
        fields = {
            **msgspec.structs.asdict(self),
            "layers": msgspec.to_builtins(self.layers),
            "images": msgspec.to_builtins(self.images),
            "preprocessing": self.preprocessing.to_json(),
        }
        return json.dumps({"format": FORMAT, **fields}, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "about") -> About:
        """Inverse of `to_json`. Raises SpecError if a field is missing, unknown, out of range or contradictory."""
        _, fields = strict_json.parse_format(text, where, FORMAT)
        return strict_json.build(fields, cls, where, preprocessing=Preprocessing.from_json)


def difference(earlier: About, now: About) -> tuple[list[str], list[str]]:
    """Return what differs between two descriptions: what a user can choose, as in "views (center, now ten)", and facts.

    A run whose facts differ can't be continued.
    """
    options = [
        f"{name} ({_short(before)}, now {_short(after)})"
        for (name, before), after in zip(_options(earlier).items(), _options(now).values(), strict=True)
        if before != after
    ]
    if earlier.images.listing != now.images.listing:
        options.append(f"the list of images ({earlier.images.count:,}, now {now.images.count:,})")
    facts = []
    if earlier.net == now.net and earlier.sha256 != now.sha256:
        facts.append("the net's file")
    if earlier.software != now.software:
        facts.append(f"software ({_short(earlier.software)}, now {_short(now.software)})")
    return options, facts


def _options(about: About) -> dict[str, str]:
    images = about.images
    return {
        "net": about.net,
        "layers": " ".join(layer.name for layer in about.layers),
        "images": images.data if images.path is None else f"{images.data} in {images.path}",
        "format": images.layout or "photos",
        "split": images.split or "none",
        "limit": "a sample" if images.sample else "all",
        "views": about.views,
        "type": about.dtype,
        "batch": f"{about.batch:,}",
        "backend": about.backend,
    }


def _short(text: str) -> str:
    """Return a text for a message, of at most 60 characters. The end of a path says most."""
    text = printable(text)
    return text if len(text) <= 60 else f"...{text[-57:]}"


def hash_of(images: Iterable[tuple[str, str | None]]) -> str:
    """Return the SHA-256 of the names and labels of images, in hexadecimal."""
    digest, encode = hashlib.sha256(), json.JSONEncoder(check_circular=False).encode
    for image in images:
        digest.update(encode(image).encode() + b"\n")
    return digest.hexdigest()
