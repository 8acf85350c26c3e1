"""Preprocessing: from a decoded image to the patches that a net sees.

The paper, section 2: rescale so that the shorter side is S, take the central S x S, subtract the training set's mean,
and nothing else. Section 4.1: the views at test time are the four corner patches, the central patch, and their mirror
images.
"""

from __future__ import annotations

import base64
import functools
import math
from typing import Annotated, Any, Literal, get_args

import msgspec
import numpy as np
from PIL import Image

from alexnet_infer import bilinear, strict_json
from alexnet_infer.errors import SpecError, UnreadableInputError, shown
from alexnet_infer.strict_json import Record

Views = Literal["ten", "center"]
Resample = Literal["nearest", "bilinear", "bicubic", "lanczos", "bilinear-aliased"]
Fit = Literal["crop", "crop-torchvision", "stretch"]
ChannelOrder = Literal["RGB", "BGR"]
ValueRange = Literal["0-255", "0-1"]
Side = Annotated[int, strict_json.whole(1, 4096)]

ALIASED = "bilinear-aliased"
TORCHVISION = "crop-torchvision"

WHOLE_PIXELS = 2**23
"""Up to this number of pixels, `crop-torchvision` rescales the complete image, as torchvision does. A longer strip
would take seconds and hundreds of megabytes, so only the part of it that the square needs is rescaled."""

FILTERS = {  # Pillow's
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

RESAMPLES = get_args(Resample)


class Rescaling(Record, kw_only=True):
    """How an image is rescaled to the square that patches are cut from. Raises SpecError for invalid values."""

    size: Side
    """S: the side of the square, in pixels."""
    resample: Resample = "bicubic"
    """nearest, bilinear, bicubic or lanczos: Pillow's filters. All but nearest antialias when shrinking.
    bilinear-aliased: OpenCV's filter, as in Caffe. It interpolates between the four nearest pixels at any scale."""
    fit: Fit = "crop"
    """crop: rescale the shorter side to S, then take the central square (section 2). crop-torchvision: the same with
    torchvision's rounding, see `torchvision_square`. stretch: rescale both sides to S, whatever the shape, as Caffe's
    tools do."""


class Preprocessing(Record, kw_only=True, eq=False, dict=True):
    """Everything between a decoded image and a net's input. Every model file contains it.

    Raises SpecError for invalid values.
    """

    size: Side
    """S, the side of the square. `size`, `resample` and `fit` are the fields of `Rescaling`."""
    patch: Side
    """Side of the patches, in pixels. At most `size`."""
    mean: np.ndarray
    """float32 [3] (per channel) or [size, size, 3] (per pixel), in `value_range` and `channel_order`. Read-only."""
    resample: Resample = "bicubic"
    fit: Fit = "crop"
    channel_order: ChannelOrder = "RGB"
    value_range: ValueRange = "0-255"

    def __post_init__(self) -> None:
        with np.errstate(over="ignore"):
            mean = np.array(self.mean, np.float32, order="C")  # a copy: the caller's array stays writable
        mean.setflags(write=False)
        msgspec.structs.force_setattr(self, "mean", mean)
        super().__post_init__()
        if self.patch > self.size:
            raise SpecError(f"patch={self.patch} is larger than size={self.size}")
        if mean.shape not in ((3,), (self.size, self.size, 3)):
            raise SpecError(f"mean has shape {mean.shape}: expected (3,) or {(self.size, self.size, 3)}")
        high = 1 if self.value_range == "0-1" else 255
        if not ((mean >= 0) & (mean <= high)).all():
            raise SpecError(
                f"mean has values from {mean.min():g} to {mean.max():g}: expected 0 to {high}, "
                f"since value_range is {self.value_range}"
            )

    @functools.cached_property
    def rescaling(self) -> Rescaling:
        """How an image is rescaled before patches are cut."""
        return Rescaling(size=self.size, resample=self.resample, fit=self.fit)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description. A per-pixel mean is stored as its little-endian float32 values in base64."""
        if self.mean.ndim == 1:
            mean = [float(v) for v in self.mean]
        else:
            mean = {"float32": base64.b64encode(self.mean.astype("<f4").tobytes()).decode()}
        return msgspec.structs.asdict(self) | {"mean": mean}

    @classmethod
    def from_json(cls, data: Any, where: str = "preprocessing") -> Preprocessing:
        """Inverse of `to_json`. Every field is required: a wrong default would silently reduce accuracy.

        Raises SpecError for missing or unknown fields and invalid values.
        """
        return strict_json.build(data, cls, where, mean=_mean_from_json)


def _mean_from_json(data: Any, where: str) -> np.ndarray:
    if isinstance(data, dict) and data.keys() == {"float32"} and isinstance(data["float32"], str):
        try:
            values = base64.b64decode(data["float32"], validate=True)
        except ValueError as error:
            raise SpecError(f"{where} is not base64 ({error})") from None
        side = math.isqrt(len(values) // 12)
        if len(values) != side * side * 3 * 4:
            raise SpecError(f"{where} has {len(values)} bytes: expected size x size x 3 x 4")
        return np.frombuffer(values, "<f4").reshape(side, side, 3)
    if isinstance(data, list) and strict_json.fits(data, tuple[float, float, float]):
        with np.errstate(over="ignore"):
            return np.array(data, np.float32)
    raise SpecError(f"{where}={shown(data)}: expected three numbers, or float32 values in base64")


def square_of(image: Image.Image, rescaling: Rescaling) -> np.ndarray:
    """Rescale an RGB image to the square that patches are cut from: uint8 [S, S, 3].

    Raises UnreadableInputError if the image has no pixels.
    """
    if rescaling.fit == "crop":
        return central_square(image, rescaling.size, rescaling.resample)
    if rescaling.fit == TORCHVISION:
        return torchvision_square(image, rescaling.size, rescaling.resample)
    _check_pixels(image)
    return _resized(image, rescaling.size, rescaling.resample, (0, 0, *image.size))


def central_square(image: Image.Image, size: int, resample: str = "bicubic") -> np.ndarray:
    """Rescale the shorter side of an RGB image to `size` and take the central square: uint8 [size, size, 3].

    Only the part of the image that the square needs is resampled, so a 20 x 60,000 strip costs no more than a square.
    Up to rounding, the result is that of rescaling the complete image and then cropping (section 2). Values differ by
    at most one level in landscape photos, and by a few in portrait photos: Pillow rounds between its passes along rows
    and columns, and their order depends on the shape (docs/preprocessing.md). The corner of the square is at whole
    pixels of the rescaled image, rounded down.

    Raises UnreadableInputError if the image has no pixels.
    """
    _check_pixels(image)
    scale = min(image.size) / size
    scaled = [max(size, round(side / scale)) for side in image.size]
    return _part(image, size, resample, scaled, [(side - size) // 2 for side in scaled])


def torchvision_square(image: Image.Image, size: int, resample: str = "bilinear") -> np.ndarray:
    """Return the central square as torchvision's Resize(S) and CenterCrop round it: uint8 [S, S, 3].

    The longer side, S * long / short, is rounded down. The corner of the square, (side - S) / 2, is rounded to the
    nearest pixel, halves to the even one. The complete image is rescaled and then cropped. With Pillow's filters the
    pixels are those of torchvision's transforms of a PIL image to the last bit. So are those of the central patch if
    S - patch is divisible by 4, as 256 - 224 is. An exception, which differs by a few levels: an image of more than
    WHOLE_PIXELS pixels after rescaling (at S = 256, a strip 128 times as long as it is wide).

    Raises UnreadableInputError if the image has no pixels.
    """
    _check_pixels(image)
    short = min(image.size)
    scaled = [int(size * side / short) for side in image.size]
    corner = [round((side - size) / 2) for side in scaled]
    if resample != ALIASED and math.prod(scaled) <= WHOLE_PIXELS:
        image = image.resize(scaled, FILTERS[resample])
    return _part(image, size, resample, scaled, corner)


def _part(image: Image.Image, size: int, resample: str, scaled: list[int], corner: list[int]) -> np.ndarray:
    """Return uint8 [size, size, 3]: the square at `corner` of the image after its sides are rescaled to `scaled`.

    Only that part is resampled, and not if the image has these sides already. Lists are (x, y) in pixels.
    """
    if scaled == list(image.size):
        left, top = corner
        return np.asarray(image.crop((left, top, left + size, top + size)))
    (left, right), (top, bottom) = (
        (first * side / after, (first + size) * side / after)
        for side, after, first in zip(image.size, scaled, corner, strict=True)
    )
    return _resized(image, size, resample, (left, top, right, bottom))


def _resized(image: Image.Image, size: int, resample: str, box: bilinear.Box) -> np.ndarray:
    """Resample the region `box` of the image to uint8 [size, size, 3]."""
    if resample == ALIASED:
        return bilinear.resize(np.asarray(image), size, box)
    return np.asarray(image.resize((size, size), FILTERS[resample], box=box))


def _check_pixels(image: Image.Image) -> None:
    width, height = image.size
    if not width or not height:
        raise UnreadableInputError(f"an image of {width} x {height} pixels: expected at least 1 x 1")


def patch_offsets(size: int, patch: int, views: Views) -> list[tuple[int, int]]:
    """Return (row, column) of each unmirrored view's upper left corner: the centre, or four corners and the centre."""
    last = size - patch
    center = (last // 2, last // 2)
    return [(0, 0), (0, last), (last, 0), (last, last), center] if views == "ten" else [center]


def patches(square_hwc: np.ndarray, preprocessing: Preprocessing, views: Views = "ten") -> np.ndarray:
    """Cut the views of one image, ready for a net: float32 [10 or 1, 3, patch, patch], mean subtracted.

    `square_hwc` is uint8 [S, S, 3] RGB. The order of the ten views is upper left, upper right, lower left, lower right,
    centre, then the mirror image of each in the same order (section 4.1). A per-pixel mean is cropped and mirrored with
    its patch.
    """
    side = preprocessing.size
    assert square_hwc.shape == (side, side, 3), square_hwc.shape
    assert square_hwc.dtype == np.uint8, square_hwc.dtype
    image = square_hwc.astype(np.float32)
    if preprocessing.value_range == "0-1":
        image /= 255
    if preprocessing.channel_order == "BGR":
        image = image[:, :, ::-1]
    image = (image - preprocessing.mean).transpose(2, 0, 1)
    p = preprocessing.patch
    cut = [image[:, y : y + p, x : x + p] for y, x in patch_offsets(preprocessing.size, p, views)]
    if views == "ten":
        cut += [patch[:, :, ::-1] for patch in cut]
    return np.stack(cut, out=np.empty((len(cut), 3, p, p), np.float32))  # `out` makes the result C-contiguous
