"""The results of a net on each image, and the counts and the calibration that follow from them.

Everything is counted in integers and divided once, so no figure depends on how the images were divided into chunks or
among workers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alexnet_infer.errors import UsageError
from alexnet_infer.metrics import are_probabilities, check_labels, classes_ahead

BINS = 15
"""The number of confidence bins, as in Guo et al., "On Calibration of Modern Neural Networks" (2017)."""

UNIT_BITS = 40
"""Confidences are stored as integers in units of 2^-40. Unlike a sum of floats, their sum does not depend on the order.
The sum over eight million images fits in 64 bits. A float32 above 2^-16 has no finer digits."""

RECORD = np.dtype([("label", "<i4"), ("guess", "<i4"), ("ahead", "<i4"), ("confidence", "<i8")])
"""One image: its label (position in the data's classes); the net's best class, or -1 if the image can't be read; the
number of classes ahead of the best right one, or NEVER; the probability of the best class in units of 2^-40."""

NEVER = 2**31 - 1
"""The value of `ahead` for an image that can't be right: it is unreadable, or no right class is one of the net's."""


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The images whose confidence is at least `low` and below `high`. The last bin includes 1."""

    low: float
    high: float
    images: int
    confidence: float | None
    """The mean confidence, or None if the bin is empty."""
    accuracy: float | None
    """The top-1 accuracy, or None if the bin is empty."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """A net's calibration: confidence (the probability of the best class) against top-1 accuracy, in bins."""

    ece: float | None
    """Expected calibration error: the mean of |accuracy - confidence| over the bins, weighted by their numbers of
    images. None if there are no images."""
    bins: tuple[Bin, ...]

    @classmethod
    def of(cls, confidences: np.ndarray, right: np.ndarray) -> Reliability:
        """Divide the images into BINS bins of equal width.

        `confidences` is int64 [N] in units of 2^-40, at most 1. `right` is bool [N].
        """
        indices = np.minimum(confidences * BINS >> UNIT_BITS, BINS - 1)
        sums = np.zeros(BINS, np.int64)
        np.add.at(sums, indices, confidences)
        images, rights = (np.bincount(chosen, minlength=BINS).tolist() for chosen in (indices, indices[right]))
        unit = 1 << UNIT_BITS
        gaps = sum(abs(total - unit * count) for total, count in zip(sums.tolist(), rights, strict=True))
        return cls(
            ece=gaps / (unit * len(indices)) if len(indices) else None,
            bins=tuple(
                Bin(
                    low=i / BINS,
                    high=(i + 1) / BINS,
                    images=n,
                    confidence=total / (unit * n) if n else None,
                    accuracy=count / n if n else None,
                )
                for i, (n, total, count) in enumerate(zip(images, sums.tolist(), rights, strict=True))
            ),
        )


class Tally:
    """The results of a net, or of an ensemble, on the images of a set with `classes` classes, in the set's order.

    A tally stores four integers per image (RECORD) and computes every figure from them on request. The figures do not
    depend on the chunks in which images are added.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._parts: list[np.ndarray] = []

    def __len__(self) -> int:
        """The number of images so far, including unreadable ones."""
        return sum(map(len, self._parts))

    def add(self, probabilities: np.ndarray, data_labels: np.ndarray, right: np.ndarray) -> None:
        """Add the next B images.

        `probabilities` is [B, C]. `data_labels` [B] are positions in the data's classes. `right` [B] or [B, R] are the
        indices of the net's C classes that are right. -1 is no class of the net: an image without any other counts as
        wrong. With C <= 5, all other images are right in the top 5. If probabilities are equal, the lower index ranks
        first.

        Raises UsageError if shapes or labels are invalid, or if a value is NaN or not a probability.
        """
        probabilities, data_labels, right = map(np.asarray, (probabilities, data_labels, right))
        right = right[:, None] if right.ndim == 1 else right
        if probabilities.ndim != 2 or not probabilities.shape[1]:
            raise UsageError(f"probabilities {probabilities.shape}: expected [B, C] with C at least 1")
        images, outputs = probabilities.shape
        _check_labels("data_labels", data_labels, images, 0, self.classes)
        for labels in right.T:
            _check_labels("right", labels, images, -1, outputs)
        valid = are_probabilities(probabilities)
        if not valid.all():
            image, index = np.argwhere(~valid)[0]
            value = probabilities[image, index]
            raise UsageError(f"probabilities[{image}, {index}]={value}: expected a number from 0 to 1")
        records = np.empty(images, RECORD)
        records["label"] = data_labels
        records["guess"] = guess = probabilities.argmax(1)  # the first of equal ones
        best = probabilities[np.arange(images), guess].astype(np.float64)
        records["confidence"] = np.rint(np.minimum(best, 1) * 2.0**UNIT_BITS)
        ahead = [np.where(labels < 0, NEVER, classes_ahead(probabilities, np.maximum(labels, 0))) for labels in right.T]
        records["ahead"] = np.min(ahead, axis=0)
        self._parts.append(records)

    def add_unreadable(self, data_label: int) -> None:
        """Add the next image, which can't be read. It counts as wrong. Calibration and confusions exclude it."""
        _check_labels("data_label", np.asarray([data_label]), 1, 0, self.classes)
        self._parts.append(np.array([(data_label, -1, NEVER, 0)], RECORD))

    @property
    def records(self) -> np.ndarray:
        """The images in order, RECORD [images]."""
        self._parts = [np.concatenate([np.empty(0, RECORD), *self._parts])]
        return self._parts[0]

    def wrong(self, k: int) -> np.ndarray:
        """Mark the images whose label is not among the `k` best classes, including unreadable images: bool [images]."""
        return self.records["ahead"] >= k

    @property
    def judged(self) -> np.ndarray:
        """Mark the images that a net can get right: those that can be read and are of a class that it has."""
        return self.records["ahead"] != NEVER

    def per_class(self, k: int | None = None) -> np.ndarray:
        """Count the images of each class of the data, or with `k` only those that are wrong: int [classes]."""
        labels = self.records["label"]
        return np.bincount(labels if k is None else labels[self.wrong(k)], minlength=self.classes)

    def confusions(self) -> dict[tuple[int, int], int]:
        """Count the wrong images by (label, best class). Unreadable images are left out.

        The label is a position in the data's classes. The best class is an index of the net's classes.
        """
        confused = self.records[self.wrong(1) & self._read]
        pairs, images = np.unique(confused[["label", "guess"]], return_counts=True)
        return {(int(label), int(guess)): int(count) for (label, guess), count in zip(pairs, images, strict=True)}

    def reliability(self) -> Reliability:
        """Compute the calibration over the images that can be read."""
        read = self._read
        return Reliability.of(self.records["confidence"][read], ~self.wrong(1)[read])

    @property
    def _read(self) -> np.ndarray:
        return self.records["guess"] >= 0


def _check_labels(name: str, labels: np.ndarray, images: int, lowest: int, end: int) -> None:
    """Raise UsageError unless `labels` are integers [images] from `lowest` to `end` - 1."""
    if labels.shape != (images,):
        raise UsageError(f"{name} {labels.shape}: expected ({images},), one label per image")
    check_labels(name, labels, lowest, end)
