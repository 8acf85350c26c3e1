"""Counting right answers. Counts are integers, so that parts of a set add up to exactly one result."""

from __future__ import annotations

import numpy as np

from alexnet_infer.errors import UsageError


def topk_correct(scores: np.ndarray, labels: np.ndarray, k: int) -> int:
    """How many of N images have their label among the `k` highest scores.

    `scores` [N, C] (probabilities or logits), `labels` whole numbers [N] from 0 to C - 1. Of equal scores the lower
    class index ranks higher. With k >= C every image counts.

    Raises UsageError on NaN, which no order can rank, and on labels, shapes or a `k` that make no sense.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise UsageError(f"scores {scores.shape} and labels {labels.shape}: expected [N, C] and [N]")
    if k < 1:
        raise UsageError(f"k={k}: expected at least 1")
    if not len(labels):
        return 0
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise UsageError(f"labels: expected whole numbers from 0 to {scores.shape[1] - 1}")
    if np.isnan(scores).any():
        raise UsageError(f"image {int(np.isnan(scores).any(1).argmax())} has scores that are NaN")
    return int((classes_ahead(scores, labels) < k).sum())


def classes_ahead(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each of N images, how many classes rank ahead of its label: int [N]. Of equal scores the lower index does.

    `scores` [N, C] without NaN, `labels` whole numbers [N] below C.
    """
    own = scores[np.arange(len(labels)), labels][:, None]
    lower = np.arange(scores.shape[1]) < labels[:, None]
    return (scores > own).sum(1) + ((scores == own) & lower).sum(1)
