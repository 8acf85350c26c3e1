"""What a net's probabilities say about labels: the likelihood of a labelling, and the share of labels that fit.

For one image, the ratio r = p(class | image) / p(class | images with other labels) says how much more probable a class
is than for an unrelated image. It needs no right guess: a class in third place counts too, so an image that the net
gets wrong still tells whether its label fits. If a share a of the labels fits and the others are unrelated to their
images, the likelihood of a label, relative to an unrelated one, is 1 - a + a r.

Nets state their probabilities too boldly or too timidly. So the probabilities are also tried at other temperatures T,
p^(1/T) normalised, and the one that fits best counts (Guo et al. 2017, as in calibration). With few classes, wrong
labels look much like a net that is too bold. So no high T is tried for a net that is known to be calibrated, and the
interval is wider for others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CALIBRATED = (0.7, 0.85, 1.0, 1.2)
"""The temperatures that are tried for a net that is known to be calibrated."""
UNKNOWN = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 2.8, 4.0)
"""The temperatures that are tried for other nets."""
SHARES = np.array([*np.arange(100) / 100, 0.995])
"""The values of a that are tried. 1 would rule out a single wrong label."""

_ASSUMED = 0.9
"""The share a with which labellings are compared."""
_UNIFORM = 10
"""The number of images that a uniform guess counts for in the mean over images with other labels."""
_DROP = 4.5
"""A share belongs to the interval if its log-likelihood is at most this much below the highest: 99.7 % by Wilks."""
_UNSURE, _UNSURE_EACH = 10.0, 0.05
"""The same limit for the lower end if the net's calibration is unknown, and an addition to it for each image."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """The share of labels that fit the images: the most likely value, and a 99.7 % interval. All from 0 to 0.995."""

    low: float
    best: float
    high: float
    fits: np.ndarray
    """Per image, bool [N]: whether its label is more likely to fit than to be unrelated, given `best`."""


class Evidence:
    """Compare labellings of the same images. Classes are those of the net, K; labels are the set's.

    `probabilities` float [N, K], each row with the sum 1; `labels` int [N]. `calibrated`: whether the net is known not
    to be too bold.

    `present` holds the distinct labels, [L], and `counts` their numbers of images. `table` float [L, K] is the
    log-likelihood of each class for each present label, relative to unrelated images, at the best temperature.
    """

    def __init__(self, probabilities: np.ndarray, labels: np.ndarray, *, calibrated: bool) -> None:
        self._calibrated = calibrated
        self.present, self._row, self.counts = np.unique(labels, return_inverse=True, return_counts=True)
        self._order = np.argsort(self._row, kind="stable")
        self._starts = np.cumsum(self.counts) - self.counts
        self.images, self.classes = probabilities.shape
        temperatures = CALIBRATED if calibrated else UNKNOWN
        self._ratios = [self._ratio(_tempered(probabilities, t)) for t in temperatures]
        self._by_label = np.array([self._sum(np.log1p(_ASSUMED * (ratio - 1))) for ratio in self._ratios])
        gains = np.maximum(self._by_label.max(2) - np.log(self.classes), 0).sum(1)
        self.table = self._by_label[int(gains.argmax())]

    def _ratio(self, probabilities: np.ndarray) -> np.ndarray:
        """r of every image and class, [N, K]."""
        others = self.images - self.counts[:, None]
        unrelated = probabilities.sum(0) - self._sum(probabilities)
        usual = (unrelated + _UNIFORM / self.classes) / (others + _UNIFORM)
        return np.minimum(probabilities / usual[self._row], self.classes)  # one image is never certain

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """The sums over the images of each label, [L, K]."""
        return np.add.reduceat(values[self._order], self._starts)

    def scores(self, true: np.ndarray) -> np.ndarray:
        """Log-likelihoods of labellings, [H]: `true` int [H, L] is the net's class for each present label, or -1.

        They are relative to labels that are unrelated to the images. A label with -1 says nothing.
        """
        rows = np.arange(len(self.present))
        return np.where(true >= 0, self._by_label[:, rows, true], 0).sum(-1).max(0)

    def share(self, true: np.ndarray) -> Share:
        """The share of images whose label fits, if label `present[i]` is the net's class `true[i]`, int [L].

        Images of labels with -1 are left out.
        """
        classes = true[self._row]
        used = np.flatnonzero(classes >= 0)
        ratios = np.array([ratio[used, classes[used]] for ratio in self._ratios])
        likelihood = np.array([np.log1p(share * (ratios - 1)).sum(1) for share in SHARES])  # [shares, temperatures]
        profile = likelihood.max(1)
        low, high = _interval(profile, _DROP)
        if not self._calibrated:
            low = _interval(profile, _UNSURE + _UNSURE_EACH * len(used))[0]
        best = int(profile.argmax())
        fits = np.zeros(self.images, bool)
        share, ratio = SHARES[best], ratios[likelihood[best].argmax()]
        fits[used] = share * ratio > 1 - share
        return Share(
            low=low,
            best=float(share),
            high=high,
            fits=fits,
        )

    def elsewhere(self, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each present label, the net's class other than `own` int [L] that fits best, and by how much: two [L].

        The second value is a log-likelihood relative to the label's own class, or to unrelated images if that is more
        likely. The logarithm of the number of classes is subtracted, since the best of so many is taken.
        """
        rows = np.arange(len(self.present))
        others = self.table.copy()
        others[rows, own] = -np.inf
        there = others.argmax(1)
        return there, others[rows, there] - np.log(self.classes) - np.maximum(self.table[rows, own], 0)

    def at_home(self, own: np.ndarray) -> np.ndarray:
        """Log-likelihood of each present label's `own` class, relative to unrelated images, [L]."""
        return self.table[np.arange(len(self.present)), own]


def _interval(profile: np.ndarray, drop: float) -> tuple[float, float]:
    """The lowest and the highest share whose log-likelihood is at most `drop` below the highest."""
    inside = SHARES[profile >= profile.max() - drop]
    return float(inside[0]), float(inside[-1])


def _tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
