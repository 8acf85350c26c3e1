"""Which parts of a photo matter: the probability of a class while a square hides one part after another.

Source: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from alexnet_infer.backends import Backend
from alexnet_infer.errors import UsageError
from alexnet_infer.predict import Net, finite
from alexnet_infer.preprocess import Preprocessing, Views, patch_offsets, patches

PER_CALL = 20
"""Patches per call of the net. More take longer each, since their maps no longer fit into the processor's caches."""

OF_SQUARE, OF_STRIDE = 5, 10
"""The patch's side divided by the default side of the hiding square, and by its default stride."""


class View(NamedTuple):
    """Where a view is cut: its upper left corner in the square, in pixels, and whether it is mirrored."""

    row: int
    column: int
    mirrored: bool


@dataclass(frozen=True, kw_only=True)
class Hiding:
    """The square that hides a part, and how it moves. All in pixels of the net's square of S x S pixels."""

    views: Views
    """ten: the mean over the ten views. center: the central patch alone."""
    square: int
    stride: int
    begin: int
    """The first row and column that may be hidden: 0, or the corner of the central patch if only that is looked at."""
    extent: int
    """The number of rows and columns that may be hidden."""

    @classmethod
    def of(
        cls, preprocessing: Preprocessing, views: Views, square: int | None, stride: int | None, net: str = "the net"
    ) -> Hiding:
        """Return what a user asked for. Raises UsageError if the square doesn't fit or would leave parts out."""
        size, patch = preprocessing.size, preprocessing.patch
        extent = size if views == "ten" else patch
        if square is None:
            square = max(1, round(patch / OF_SQUARE))
        elif not 1 <= square <= extent:
            where = f"{net}'s square" if views == "ten" else f"the central patch of {net}"
            raise UsageError(f"--square {square}: expected 1 to {extent}, the side of {where} in pixels")
        if stride is None:
            stride = min(square, max(1, round(patch / OF_STRIDE)))
        elif not 1 <= stride <= square:
            raise UsageError(
                f"--stride {stride}: expected 1 to {square}, the side of the hiding square of {net} in pixels; with "
                "a longer step, some pixels would never be hidden"
            )
        begin = 0 if views == "ten" else patch_offsets(size, patch, "center")[0][0]
        return cls(views=views, square=square, stride=stride, begin=begin, extent=extent)

    @property
    def offsets(self) -> tuple[int, ...]:
        """The rows, and also the columns, at which the square begins.

        They are `stride` apart. The last one is at the far edge, and may be closer. So the square is never cut off, and
        hides every pixel at least once.
        """
        last = self.extent - self.square
        return tuple(self.begin + offset for offset in (*range(0, last, self.stride), last))

    @property
    def regular(self) -> bool:
        """Whether the last step is as long as the others."""
        return (self.extent - self.square) % self.stride == 0

    @property
    def positions(self) -> int:
        """The number of places at which the square is put."""
        return len(self.offsets) ** 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Occlusion:
    """The answers with one part hidden after another. Row r, column c: the square begins at offsets[r], offsets[c]."""

    hiding: Hiding
    label: int
    """The class whose probability is measured."""
    whole: float
    """Its probability with nothing hidden, with the same views."""
    whole_first: int
    """The most probable class with nothing hidden."""
    probability: np.ndarray
    """float32 [n, n]: its probability at each position."""
    first: np.ndarray
    """int64 [n, n]: the most probable class at each position."""


def view_places(preprocessing: Preprocessing, views: Views) -> tuple[View, ...]:
    """Return where each view is cut, in the order of `preprocess.patches`."""
    offsets = patch_offsets(preprocessing.size, preprocessing.patch, views)
    mirrored = (False, True) if views == "ten" else (False,)
    return tuple(View(row, column, mirror) for mirror in mirrored for row, column in offsets)


def occlude(
    square_hwc: np.ndarray,
    preprocessing: Preprocessing,
    backend: Backend,
    hiding: Hiding,
    label: int,
    advance: Callable[[int], None] = lambda count: None,
    name: str = "the net",
) -> Occlusion:
    """Hide one part of the square uint8 [S, S, 3] RGB after another, and return the probabilities of class `label`.

    The hidden pixels get the training set's mean, which is 0 after the mean is subtracted. The part is hidden in the
    square, before the views are cut. `backend` must take patches. `advance` is called with the number of positions
    just completed. Raises ModelFileError, beginning with the net's `name`, if probabilities are not finite.
    """
    whole = patches(square_hwc, preprocessing, hiding.views)
    places = view_places(preprocessing, hiding.views)
    corners = [(row, column) for row in hiding.offsets for column in hiding.offsets]
    answers = []
    for begin in range(0, len(corners), max(1, PER_CALL // len(places))):
        part = corners[begin : begin + max(1, PER_CALL // len(places))]
        hidden = np.concatenate([_hidden(whole, places, corner, hiding.square) for corner in part])
        answers.append(Net.mean_over_views(backend.infer(hidden), len(part)))
        advance(len(part))
    mean = finite(np.concatenate(answers), name)
    unhidden = Net.mean_over_views(backend.infer(whole), 1)[0]
    side = len(hiding.offsets)
    return Occlusion(
        hiding=hiding,
        label=label,
        whole=float(unhidden[label]),
        whole_first=int(unhidden.argmax()),
        probability=mean[:, label].reshape(side, side),
        first=mean.argmax(1).reshape(side, side),
    )


def _hidden(patches_nchw: np.ndarray, places: tuple[View, ...], corner: tuple[int, int], square: int) -> np.ndarray:
    """Return a copy of the views float32 [V, 3, patch, patch] in which the square at `corner` is 0."""
    hidden, side = patches_nchw.copy(), patches_nchw.shape[2]
    for patch, place in zip(hidden, places, strict=True):
        rows, columns = (
            [min(max(edge, 0), side) for edge in (first, first + square)]
            for first in (corner[0] - place.row, corner[1] - place.column)
        )
        if place.mirrored:
            columns = [side - columns[1], side - columns[0]]
        patch[:, slice(*rows), slice(*columns)] = 0
    return hidden


def boundaries(hiding: Hiding) -> Iterator[tuple[int, int]]:
    """Yield, for each offset, the first and the end pixel of its tile on the map of the answers.

    A tile reaches halfway to the centres of its neighbours, and to the edge. The tiles cover everything once.
    """
    centers = [offset + hiding.square / 2 for offset in hiding.offsets]
    halfway = [round((a + b) / 2) for a, b in pairwise(centers)]
    edges = [hiding.begin, *halfway, hiding.begin + hiding.extent]
    yield from pairwise(edges)
