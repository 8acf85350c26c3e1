"""Preprocessing conventions of other tools. Their files don't state them, so they are recorded here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from alexnet_infer import strict_json
from alexnet_infer.architecture import Architecture, Conv
from alexnet_infer.errors import ModelFileError, SpecError, UsageError, one_line
from alexnet_infer.files import MAX_JSON_BYTES, read_limited
from alexnet_infer.importing.roles import as_float32
from alexnet_infer.preprocess import ALIASED, TORCHVISION, ChannelOrder, Fit, Preprocessing, Resample, Side, ValueRange
from alexnet_infer.strict_json import Record

_Factor = Annotated[float, Meta(gt=0, lt=1e6)]


class Convention(Record, kw_only=True):
    """Preprocessing as other tools define it: like `Preprocessing`, with a division by `std` and without a patch size.

    `mean` and `std` have one number per channel, in `channel_order` and in the unit of `value_range`. Raises SpecError
    on invalid values.
    """

    size: Side
    fit: Fit
    resample: Resample
    channel_order: ChannelOrder
    value_range: ValueRange
    mean: Annotated[tuple[float, float, float], Meta(description="three numbers")]
    std: Annotated[tuple[_Factor, _Factor, _Factor], Meta(description="three numbers above 0")] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.preprocessing(1)

    def preprocessing(self, patch: int) -> Preprocessing:
        """Return the same preprocessing without `std`, for patches of this side. Raises SpecError on invalid values."""
        fields = msgspec.structs.asdict(self) | {"mean": np.array(self.mean)}
        del fields["std"]
        return Preprocessing(patch=patch, **fields)


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
        fit=TORCHVISION,
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
        fields = strict_json.parse(read_limited(path, MAX_JSON_BYTES), "preprocessing")
        if isinstance(fields, dict):
            fields.setdefault("std", [1.0, 1.0, 1.0])
        return strict_json.build(fields, Convention, "preprocessing")
    except FileNotFoundError:
        raise UsageError(
            f"--preprocessing {name}: expected {', '.join(CONVENTIONS)}, or a JSON file with the fields in "
            "docs/published.md"
        ) from None
    except (OSError, SpecError) as error:
        raise ModelFileError(f"--preprocessing {path}: {one_line(error)}") from None


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
        convention = msgspec.structs.replace(convention, channel_order="RGB", mean=convention.mean[::-1])
    return {**tensors, name: as_float32(kernels)}, convention.preprocessing(architecture.patch)
