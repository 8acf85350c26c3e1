"""Preprocessing conventions of other tools. Their files don't state them, so they are recorded here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_infer.architecture import Architecture, Conv
from alexnet_infer.errors import ModelFileError, SpecError, UsageError, one_line, shown
from alexnet_infer.importing.roles import as_float32
from alexnet_infer.preprocess import ALIASED, Preprocessing


@dataclass(frozen=True, kw_only=True)
class Convention:
    """Preprocessing as other tools define it: like `Preprocessing`, with a division by `std` and without a patch size.

    `mean` and `std` have one number per channel, in `channel_order` and in the unit of `value_range`. Raises SpecError
    on invalid values.
    """

    size: int
    fit: str
    resample: str
    channel_order: str
    value_range: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        self.preprocessing(1)
        if not (_are_numbers(self.std) and all(0 < value < 1e6 for value in self.std)):
            raise SpecError(f"preprocessing: std={shown(self.std)}: expected three numbers above 0")

    def preprocessing(self, patch: int) -> Preprocessing:
        """Return the same preprocessing without `std`, for patches of this side. Raises SpecError on invalid values."""
        if not _are_numbers(self.mean):
            raise SpecError(f"preprocessing: mean={shown(self.mean)}: expected three numbers")
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("mean", "std")}
        return Preprocessing(patch=patch, mean=np.array(self.mean), **fields)


def _are_numbers(values: Any) -> bool:
    return (
        isinstance(values, tuple)
        and len(values) == 3
        and all(type(value) in (int, float) and abs(value) < 1e9 for value in values)
    )


CONVENTIONS = {
    # create_imagenet.sh with RESIZE=true, which uses OpenCV, and models/bvlc_alexnet/train_val.prototxt. Caffe
    # subtracted a mean image from a separate file. Caffe's examples use the means over its pixels instead, as here.
    "caffe": Convention(
        size=256, fit="stretch", resample=ALIASED, channel_order="BGR", value_range="0-255", mean=(104.0, 117.0, 123.0)
    ),
    # The convention with which the ONNX Model Zoo's README measured its files: the whole image is the patch.
    "caffe-zoo": Convention(
        size=224,
        fit="stretch",
        resample="bicubic",
        channel_order="BGR",
        value_range="0-255",
        mean=(103.939, 116.779, 123.68),
    ),
    # torchvision.transforms._presets.ImageClassification, with PIL images.
    "torchvision": Convention(
        size=256,
        fit="crop",
        resample="bilinear",
        channel_order="RGB",
        value_range="0-1",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
}

OF_PRESETS = {"caffe": "caffe", "caffenet": "caffe", "owt": "torchvision"}
"""Preset -> the convention with which its published nets were trained."""

ZOO_PATCH = 224
"""Side of the patches in the ONNX Model Zoo's files of Caffe's nets."""


def published_convention(preset: str | None, patch: int) -> str | None:
    """Return the convention with which a preset's published nets were measured on patches of this side.

    None if the preset has no published nets.
    """
    name = OF_PRESETS.get(preset or "")
    return "caffe-zoo" if name == "caffe" and patch == ZOO_PATCH else name


def convention(name: str) -> Convention:
    """Return the convention called `name`, or the one in the JSON file `name`, which has the fields of `Convention`.

    Raises UsageError if there is no such convention or file. Raises ModelFileError if the file is invalid.
    """
    if name in CONVENTIONS:
        return CONVENTIONS[name]
    path = Path(name)
    try:
        fields = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(
            f"--preprocessing {name}: expected {', '.join(CONVENTIONS)}, or a JSON file with the fields in "
            "docs/published.md"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: can't be read as JSON ({one_line(error)})") from None
    names = [f.name for f in dataclasses.fields(Convention)]
    if not isinstance(fields, dict) or not {*names} - {"std"} <= fields.keys() <= {*names}:
        raise ModelFileError(f"{path}: expected an object with {', '.join(names[:-1])} and optionally std")
    try:
        return Convention(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
    except (SpecError, TypeError) as error:
        raise ModelFileError(f"{path}: {one_line(error)}") from None


def fold(
    tensors: Mapping[str, np.ndarray], architecture: Architecture, convention: Convention
) -> tuple[dict[str, np.ndarray], Preprocessing]:
    """Return the same net for RGB values without a division by `std`, and its preprocessing.

    The first convolution sums over the channels, so reversing the channels of its weights and of the image together is
    exact. It is linear, so dividing its weights by `std` is the same as dividing the pixels, up to float32 rounding;
    zero padding stays zero. After folding, the first kernels show the colours they respond to, and no runtime or export
    needs to know about the convention.

    Raises SpecError if the net doesn't begin with a convolution over all three channels.
    """
    first = architecture.operations[0]
    if not isinstance(first, Conv) or first.groups != 1 or architecture.channels != 3:
        raise SpecError(
            f"begins with {first.name} on {architecture.channels} channels: expected a convolution over all three, "
            "into which --preprocessing is folded"
        )
    name = f"{first.name}.weight"
    with np.errstate(all="ignore"):  # weights that are not finite are refused later, by name
        kernels = tensors[name].astype(np.float64) / np.array(convention.std)[:, None, None]
    if convention.channel_order == "BGR":
        kernels = kernels[:, ::-1]
        convention = dataclasses.replace(convention, channel_order="RGB", mean=convention.mean[::-1])
    return {**tensors, name: as_float32(kernels)}, convention.preprocessing(architecture.patch)
