"""Maps, kernels and vectors as small images, each a data URI.

Maps are grey: each has its own scale, on which its value of largest magnitude is black or white. Where a layer has
negative values, 0 is middle grey; elsewhere 0 is black.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from alexnet_infer.architecture import LRN
from alexnet_infer.pages import png

FLAT = 6
"""About how many times as wide as high a strip is."""

LARGEST_MAP = 128
"""The larger side of a map or kernel on the page, in pixels. A larger one is reduced."""

_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image for the page, with its size in pixels."""

    uri: str
    width: int
    height: int

    @classmethod
    def reduced(cls, pixels: np.ndarray) -> Picture:
        """Encode an image as `of` does, with at most LARGEST_MAP rows and columns: each a mean of those it replaces."""
        image = Image.fromarray(np.ascontiguousarray(pixels))
        scale = max(image.size) / LARGEST_MAP
        if scale <= 1:
            return cls.of(pixels)
        width, height = (max(1, round(side / scale)) for side in image.size)
        return cls.of(np.asarray(image.resize((width, height), Image.Resampling.BOX)))

    @classmethod
    def of(cls, pixels: np.ndarray) -> Picture:
        """Encode uint8 [H, W] (grey), [H, W, 2] (grey and alpha) or [H, W, 3] (RGB)."""
        pixels = np.ascontiguousarray(pixels)
        return cls(uri=png(pixels), width=pixels.shape[1], height=pixels.shape[0])


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One map among others."""

    number: int
    """The map's position in its layer, from 0."""
    mean: float
    """The mean of its values' magnitudes, which for values of at least 0 is the mean of the values."""
    share: float
    """This mean divided by that of the layer's most active map: 0 to 1."""
    picture: Picture
    place: str
    """Where its value of largest magnitude is, such as "top left", or "" if all values are 0."""
    kernel: Picture | None = None
    """The kernel that made it, in the first layer."""


def activity(maps: np.ndarray) -> np.ndarray:
    """Return the measure by which maps [C, h, w] are sorted: the mean magnitude of each one's values, float64 [C]."""
    return np.abs(maps.astype(np.float64)).mean((1, 2))


def most_active(maps: np.ndarray, columns: int) -> list[list[int]]:
    """Return the numbers of the maps [C, h, w] of each column, the most active first; equal ones by their numbers."""
    order = np.argsort(-activity(maps).reshape(columns, -1), axis=1, kind="stable")
    return (order + np.arange(columns)[:, None] * order.shape[1]).tolist()


def grey(values: np.ndarray, signed: bool, peak: float | None = None) -> np.ndarray:
    """Return values of any shape as grey levels, uint8.

    `peak` becomes white, and 0 becomes black or, if `signed`, middle grey; -`peak` then becomes black. By default the
    peak is the largest magnitude. If that is 0, all values are shown as 0.
    """
    if peak is None:
        peak = float(np.abs(values).max())
    scaled = values.astype(np.float64) / (peak or 1)
    return np.rint(np.clip(127.5 + 127.5 * scaled if signed else 255 * scaled, 0, 255)).astype(np.uint8)


def tiles(maps: np.ndarray, numbers: Sequence[int], kernels: np.ndarray | None = None) -> list[Tile]:
    """Return the maps of these numbers, of the maps [C, h, w] of a layer.

    `kernels` float32 [C, 3, h, w] in RGB order are those of the first layer.
    """
    strengths, signed = activity(maps), bool((maps < 0).any())
    most = strengths.max() or 1
    return [
        Tile(
            number=number,
            mean=float(strengths[number]),
            share=float(strengths[number] / most),
            picture=Picture.reduced(grey(maps[number], signed)),
            place=_place(maps[number]),
            kernel=None if kernels is None else kernel_picture(kernels[number]),
        )
        for number in numbers
    ]


def kernel_picture(kernel: np.ndarray) -> Picture:
    """Draw a kernel [3, h, w] in RGB order. Grey is a weight of 0; the largest magnitude of any colour is 0 or 255."""
    return Picture.reduced(grey(kernel, signed=True).transpose(1, 2, 0))


def _place(values: np.ndarray) -> str:
    """Return in which ninth of the map [h, w] its largest magnitude is, or "" if all values are 0."""
    magnitudes = np.abs(values)
    if not magnitudes.any():
        return ""
    at = np.unravel_index(magnitudes.argmax(), values.shape)
    row, column = (3 * i // n for i, n in zip(at, values.shape, strict=True))
    return "centre" if row == column == 1 else f"{_ROWS[row]} {_COLUMNS[column]}"


def strip(values: np.ndarray) -> Picture:
    """Draw a vector [units] as rows of grey pixels, unit 0 at the upper left. What is over at the end is transparent.

    A row has about sqrt(FLAT x units) units, if possible a number that divides them all.
    """
    units = len(values)
    ideal = math.sqrt(FLAT * units)
    widths = [w for w in range(round(0.8 * ideal), round(1.25 * ideal) + 1) if w and units % w == 0]
    width = min(widths, key=lambda w: abs(w - ideal), default=min(units, round(ideal)))
    rows = -(-units // width)
    pixels = np.zeros((rows * width, 2), np.uint8)
    pixels[:units, 0] = grey(values, bool((values < 0).any()))
    pixels[:units, 1] = 255
    return Picture.of(pixels.reshape(rows, width, 2))


@dataclass(frozen=True, kw_only=True)
class Normalised:
    """LRN at work on one map."""

    number: int
    """The map, which is the most active one before LRN."""
    spec: LRN
    before: Picture
    after: Picture
    """On the grey scale of `before`."""
    ratio: Picture
    """After divided by before at each position. White is `most`."""
    signed: bool
    """Whether the map has negative values: 0 is then grey in `before` and `after`, and -`peak` is black."""
    peak: float
    """The value that is white in `before` and `after`."""
    lowest: float
    highest: float
    first: int
    """The first map of the sum."""
    last: int
    """The last one."""
    most: float
    """The ratio of a position where the whole sum is 0: 1 / k ^ beta."""
    row: int
    column: int
    """The position of the map's largest value, for which the formula is worked out."""
    value: float
    total: float
    """The sum of squares there."""
    result: float


def normalised(maps: np.ndarray, after: np.ndarray, spec: LRN) -> Normalised:
    """Return how LRN changed the most active of its input maps [C, h, w] to the one of `after` [C, h, w].

    The ratio is computed from the formula, since 0 divided by 0 says nothing.
    """
    number = int(activity(maps).argmax())
    near = _near(len(maps), spec, number)
    totals = (maps[near.start : near.stop].astype(np.float64) ** 2).sum(0)
    ratio = (spec.k + spec.alpha * totals) ** -spec.beta
    peak = float(np.abs(maps[number]).max())
    signed = bool((maps[number] < 0).any())
    most = spec.k**-spec.beta
    row, column = (int(i) for i in np.unravel_index(maps[number].argmax(), maps[number].shape))
    return Normalised(
        number=number,
        spec=spec,
        before=Picture.reduced(grey(maps[number], signed, peak)),
        after=Picture.reduced(grey(after[number], signed, peak)),
        ratio=Picture.reduced(grey(ratio, signed=False, peak=most)),
        signed=signed,
        peak=peak,
        lowest=float(ratio.min()),
        highest=float(ratio.max()),
        first=near.start,
        last=near.stop - 1,
        most=most,
        row=row,
        column=column,
        value=float(maps[number, row, column]),
        total=float(totals[row, column]),
        result=float(after[number, row, column]),
    )


def _near(count: int, spec: LRN, number: int) -> range:
    """Return the numbers of the maps, of `count`, in LRN's sum for one map: its neighbours in its own column."""
    width = count // spec.groups
    first = number - number % width
    return range(max(first, number - spec.size // 2), min(first + width, number + spec.size // 2 + 1))
