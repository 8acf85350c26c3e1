"""Ranks and top-k counts, and the mean of several nets.

Counts are integers, so the counts of parts of a set add up to exactly the count of the set.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alexnet_infer.errors import UsageError


def topk_correct(scores: np.ndarray, labels: np.ndarray, k: int) -> int:
    """Return the number of images whose label is among the `k` classes with the highest scores.

    `scores` is [N, C], probabilities or logits. `labels` is [N], integers from 0 to C - 1. If scores are equal, the
    lower class index ranks first. With k >= C every image counts.

    Raises UsageError if the scores contain NaN, which has no rank, or if labels, shapes or `k` are invalid.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise UsageError(f"scores {scores.shape} and labels {labels.shape}: expected [N, C] and [N]")
    if k < 1:
        raise UsageError(f"k={k}: expected at least 1")
    if not len(labels):
        return 0
    check_labels("labels", labels, 0, scores.shape[1])
    if np.isnan(scores).any():
        raise UsageError(f"image {int(np.isnan(scores).any(1).argmax())} has scores that are NaN: expected numbers")
    return int((classes_ahead(scores, labels) < k).sum())


def check_labels(name: str, labels: np.ndarray, lowest: int, end: int) -> None:
    """Raise UsageError, which names the first wrong label, unless `labels` [N] are integers from `lowest` to `end` - 1.

    `name` is what the message calls them.
    """
    if not len(labels):
        return
    if not np.issubdtype(labels.dtype, np.integer):
        raise UsageError(f"{name} of type {labels.dtype}: expected integers from {lowest} to {end - 1}")
    if labels.min() < lowest or labels.max() >= end:
        wrong = int(((labels < lowest) | (labels >= end)).argmax())
        raise UsageError(f"{name}[{wrong}]={labels[wrong]}: expected an integer from {lowest} to {end - 1}")


def classes_ahead(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the number of classes that rank ahead of each image's label, int [N].

    `scores` is [N, C] without NaN. `labels` is [N], integers from 0 to C - 1. If scores are equal, the lower class
    index ranks first.
    """
    own = scores[np.arange(len(labels)), labels][:, None]
    lower = np.arange(scores.shape[1]) < labels[:, None]
    return (scores > own).sum(1) + ((scores == own) & lower).sum(1)


def highest(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the indices of the `k` highest scores, the highest first: int [..., k] for scores [..., C].

    If scores are equal, the lower index is first. With k > C, all C indices are returned.
    """
    return np.argsort(-scores, axis=-1, kind="stable")[..., :k]


def are_probabilities(values: np.ndarray) -> np.ndarray:
    """Return for each value whether it can be a probability, bool [...]: at least 0, at most 1, and not NaN.

    Values slightly above 1 pass, since rounding can raise a mean that far.
    """
    return (values >= 0) & (values < 1.001)


def mean_probabilities(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """Return the equal-weight mean of several nets' probabilities, each [N, C], as float32."""
    return np.mean(probabilities, axis=0, dtype=np.float64).astype(np.float32)
