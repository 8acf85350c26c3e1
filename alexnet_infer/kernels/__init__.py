"""The kernels of a net's first layer: as a picture, as in the paper's Figure 3, and how much of them is colour."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import SafetensorError

from alexnet_infer.architecture import Conv
from alexnet_infer.artifact import Artifact, load_manifest
from alexnet_infer.errors import ModelFileError, SpecError, UsageError, cause_of
from alexnet_infer.kernels.tiles import kernel_image
from alexnet_infer.manifest import Manifest
from alexnet_infer.tensor_file import open_tensors

__all__ = ["TILE", "Kernels", "kernel_image"]

TILE = 33
"""The approximate side of a kernel in the picture in pixels: three times the paper's 11 x 11."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Kernels:
    """The kernels of a net's first layer."""

    weights: np.ndarray
    """float32 [K, 3, h, w] in RGB order."""
    columns: int
    """The number of columns (GPUs in the paper) into which the kernels are divided: the first K / `columns` kernels are
    those of the first column."""
    net: str
    """The net's name."""
    layer: Conv
    """The layer."""
    sorted_by_colour: bool = False
    """Whether the kernels are in the order of `by_colour` instead of the net's."""

    @classmethod
    def of(cls, artifact: Artifact) -> Kernels:
        """Read the kernels of a net. Raises UsageError if its first layer is not a convolution over three colours."""
        layer = _first_layer(artifact.manifest)
        # Copy, since a view would keep all of the net's weights in memory.
        return cls._in_rgb(artifact.manifest, layer, artifact.tensors[f"{layer.name}.weight"].copy())

    @classmethod
    def read(cls, path: Path) -> Kernels:
        """Read the kernels from a model file, without its other weights.

        Raises UsageError as `of` does, and ModelFileError if the file or the kernels in it are invalid.
        """
        manifest = load_manifest(path)
        layer = _first_layer(manifest)
        name = f"{layer.name}.weight"
        expected = manifest.architecture.tensors[name]
        try:
            with open_tensors(path) as file:
                part = file.get_slice(name)
                if part.get_dtype() not in ("F16", "F32", "F64") or tuple(part.get_shape()) != expected:
                    found = f"{part.get_dtype()} {list(part.get_shape())}"
                    raise SpecError(f"{name} is {found}: expected floats {list(expected)}")
                with np.errstate(over="ignore"):
                    weights = file.get_tensor(name).astype(np.float32)
            if not np.isfinite(weights).all():
                raise SpecError(f"{name} has weights that are NaN, infinite or beyond float32")
        except (OSError, SafetensorError, SpecError) as error:
            raise ModelFileError(f"{path}: {cause_of(error)}") from None
        return cls._in_rgb(manifest, layer, weights)

    @classmethod
    def _in_rgb(cls, manifest: Manifest, layer: Conv, weights: np.ndarray) -> Kernels:
        if manifest.preprocessing.channel_order == "BGR":
            weights = weights[:, ::-1]
        columns = max(o.groups for o in manifest.architecture.operations if isinstance(o, Conv))
        columns = 1 if layer.kernels % columns else columns
        return cls(weights=weights, columns=columns, net=manifest.name, layer=layer)

    @property
    def in_column(self) -> int:
        """The number of kernels in a column."""
        return len(self.weights) // self.columns

    @property
    def scale(self) -> int:
        """Pixels per weight at which a kernel's side is about TILE pixels."""
        return max(1, round(TILE / max(self.weights.shape[2:])))

    def kernel_colour_shares(self) -> np.ndarray:
        """Return the share of colour in each kernel: float64 [K], from 0 for a grey kernel to 1.

        With w the weights (R, G, B) of one pixel of a kernel, |w|^2 is its energy, and |w|^2 - (R + G + B)^2 / 3 is the
        part outside the grey axis, the line on which R = G = B. The share is the sum of the latter over the kernel's
        pixels, divided by the sum of the former. A kernel of zeros has 0.
        """
        return _share(*self._energies())

    def colour_shares(self) -> tuple[float, ...]:
        """Return the share of colour in the kernels of each column, from 0 to 1.

        Both sums of `kernel_colour_shares` run over all kernels of the column, so that a kernel counts by its energy.
        The paper's section 6.1 finds the kernels on one GPU "largely color-agnostic" and those on the other "largely
        color-specific" (Figure 3).
        """
        colour, energy = (of_kernels.reshape(self.columns, -1).sum(1) for of_kernels in self._energies())
        return tuple(_share(colour, energy).tolist())

    def _energies(self) -> tuple[np.ndarray, np.ndarray]:
        """Return each kernel's energy outside the grey axis and its whole energy, float64 [K], up to one factor."""
        # The largest weight becomes 1, since the squares of very small weights would be 0.
        weights = self.weights.astype(np.float64)
        weights /= np.abs(weights).max() or 1
        # The distance from the grey axis, which unlike |w|^2 - (R + G + B)^2 / 3 can't be rounded to less than 0.
        outside = weights - weights.mean(1, keepdims=True)
        return (outside**2).sum((1, 2, 3)), (weights**2).sum((1, 2, 3))

    def by_colour(self) -> Kernels:
        """Return the same kernels sorted within each column by their share of colour, grey first."""
        shares = self.kernel_colour_shares().reshape(self.columns, -1)
        starts = np.arange(self.columns)[:, None] * self.in_column
        order = (np.argsort(shares, axis=1, kind="stable") + starts).ravel()
        return replace(self, weights=self.weights[order], sorted_by_colour=True)

    def column(self, number: int) -> np.ndarray:
        """Return the kernels float32 [K / columns, 3, h, w] of a column. The first column is 0."""
        return self.weights[number * self.in_column : (number + 1) * self.in_column]

    def image(self, scale: int | None = None) -> np.ndarray:
        """Draw the picture, uint8 [H, W, 3]. See `kernel_image`. `scale` is by default such that a tile has TILE."""
        return kernel_image(self.weights, self.columns, scale=scale or self.scale)

    def png(self, scale: int | None = None) -> bytes:
        """Return the picture as a PNG file."""
        file = io.BytesIO()
        Image.fromarray(self.image(scale)).save(file, "PNG", optimize=True)
        return file.getvalue()


def _first_layer(manifest: Manifest) -> Conv:
    first = manifest.architecture.operations[0]
    if not isinstance(first, Conv) or first.groups != 1:
        raise UsageError(f"{manifest.name} begins with {first.name}: expected a convolution over all three colours")
    return first


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.where(whole > 0, whole, 1)
