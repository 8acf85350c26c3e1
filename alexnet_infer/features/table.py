"""Features as a table, whatever the form of the file: one row per image, and one array per layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_infer.errors import SpecError, UsageError, cause_of, listed, one_line, shown
from alexnet_infer.features.about import About, AboutLayer, FeaturesError

BLOCK_BYTES = 2**24
"""Bytes of a block of rows, unless one row has more."""

LONGEST_TEXT = 2**15
"""Characters of a name, a label or an error. Paths have at most 4,096 bytes."""

RESERVED = ("about", "names", "labels", "error_rows", "errors", "name", "label", "error")
"""What a layer may not be called: the forms of files have arrays and columns with these names."""


class Row(NamedTuple):
    """One image."""

    name: str
    """As the user named it, or relative to the set's folder. Bytes that aren't UTF-8 are escaped. Print it only through
    `errors.printable`."""
    label: str | None
    """The WordNet id of its class, or None for photos."""
    error: str | None = None
    """Why it can't be read, without its name, or None if it can. Its values are then NaN."""


class Features(ABC):
    """The values of layers for images. `opening.open_features` reads a file.

    Raises SpecError if the texts are not those of `about.images`.
    """

    def __init__(
        self,
        path: Path,
        about: About,
        names: Sequence[str],
        labels: Sequence[str | None],
        errors: Mapping[int, str],
    ) -> None:
        images = about.images
        if not len(names) == len(labels) == images.count:
            raise SpecError(f"has {len(names):,} names and {len(labels):,} labels: expected {images.count:,} of each")
        if len(errors) != images.unreadable or any(not 0 <= row < images.count for row in errors):
            raise SpecError(
                f"has errors of {len(errors):,} images: expected {images.unreadable:,} of rows below {images.count:,}"
            )
        self.path, self.about = path, about
        self.names, self.labels = names, labels
        self.errors = errors
        """Row -> why the image can't be read. Its values are NaN."""

    def __len__(self) -> int:
        """Return the number of images."""
        return self.about.images.count

    @property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """Layer -> the shape of its values for one image, in the order of the file."""
        return {layer.name: layer.shape for layer in self.about.layers}

    def layer(self, name: str) -> AboutLayer:
        """Return the description of a layer. Raises UsageError, with the names there are, if there is none."""
        for layer in self.about.layers:
            if layer.name == name:
                return layer
        raise UsageError(f"{self.path}: has no layer {shown(name)}; expected one of {listed(self.layers)}")

    def rows(self) -> Iterator[Row]:
        """Yield the images, in order."""
        for i, (name, label) in enumerate(zip(self.names, self.labels, strict=True)):
            yield Row(name, label, self.errors.get(i))

    def array(self, layer: str) -> np.ndarray:
        """Return the values of a layer, [N, *shape] of `about.numpy_dtype`, read-only. Unreadable images are NaN.

        They are mapped into memory, except from Parquet, which is read. Raises UsageError if there is no such layer,
        and FeaturesError if the file is damaged or the memory is not enough.
        """
        with refusing(self.path):
            return self._array(self.layer(layer))

    def blocks(self, layer: str, rows: int | None = None) -> Iterator[np.ndarray]:
        """Yield the values of a layer in order, [B, *shape] each. Memory does not grow with the number of images.

        B is `rows`, or what BLOCK_BYTES hold; the last block may be shorter. Errors are those of `array`.
        """
        about = self.layer(layer)
        if rows is not None and rows < 1:
            raise UsageError(f"rows={rows}: expected at least 1")
        row_bytes = about.size * self.about.numpy_dtype.itemsize
        with refusing(self.path):
            yield from self._blocks(about, rows or max(1, BLOCK_BYTES // row_bytes))

    @abstractmethod
    def _array(self, layer: AboutLayer) -> np.ndarray: ...

    def _blocks(self, layer: AboutLayer, rows: int) -> Iterator[np.ndarray]:
        values = self._array(layer)
        for begin in range(0, len(self), rows):
            yield values[begin : begin + rows]

    def __repr__(self) -> str:
        layers = ", ".join(f"{name} {list(shape)}" for name, shape in self.layers.items())
        return f"Features({str(self.path)!r}, {self.about.net!r}, {len(self):,} images, {layers})"


class Damaged(Exception):  # noqa: N818 (it is turned into a FeaturesError)
    """A file of features is not what its form or its description says. The message is the reason."""


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn the errors that reading a file raises into FeaturesError, which names the file."""
    try:
        yield
    except FileNotFoundError:
        raise FeaturesError(f"{path}: no such file; `alexnet-infer features` writes one") from None
    except (OSError, SpecError, Damaged) as error:
        raise FeaturesError(f"{path}: can't be read as features ({cause_of(error)})") from None
    except MemoryError as error:
        raise FeaturesError(
            f"{path}: this machine has not enough memory for it ({one_line(error) or 'MemoryError'})"
        ) from None


def text_of(value: object) -> str:
    """Return a text from a file, if it is one of at most LONGEST_TEXT characters. Raises Damaged for another value."""
    if not isinstance(value, str) or len(value) > LONGEST_TEXT:
        raise Damaged(f"{shown(value)}: expected a text of at most {LONGEST_TEXT:,} characters")
    return value


def labels_of(texts: Sequence[str]) -> list[str | None]:
    """Return labels as `Features` has them: None for an empty text, and one object for each class."""
    seen: dict[str, str | None] = {"": None}
    return [seen.setdefault(text, text) for text in texts]
