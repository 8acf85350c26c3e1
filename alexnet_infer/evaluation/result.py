"""The result of an evaluation, the same for people, JSON and conditions. No times in it: a run that was stopped and
resumed gives the same bytes."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from alexnet_infer import __version__
from alexnet_infer.artifact import ClassName
from alexnet_infer.errors import UsageError, shown
from alexnet_infer.evaluation.statistics import Calibration, Tally, pairing, wilson
from alexnet_infer.preprocess import Views

CONFUSIONS = 20
"""Pairs that a result lists at most."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """That only `images` of the set's `of` were taken."""

    images: int
    of: int


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """An image that counts as wrong because it can't be read."""

    image: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images. `listing`, the SHA-256 of all images' file names and WordNet ids in sorted order, is the same for
    every layout in which the same set is kept; `images` counts those evaluated."""

    name: str
    listing: str
    images: int
    classes: int
    sample: Sample | None = None
    unreadable: tuple[Unreadable, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How: the views of an image, the number of nets, and a sentence on each departure from the paper."""

    views: Views
    nets: int
    deviations: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ErrorRate:
    """`wrong` images, their share of all, and its 95 % Wilson interval, as fractions."""

    wrong: int
    error: float
    low: float
    high: float

    @classmethod
    def of(cls, wrong: np.ndarray) -> ErrorRate:
        """From bool [images]."""
        count, images = int(wrong.sum()), len(wrong)
        low, high = wilson(count, images)
        return cls(wrong=count, error=count / images, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The ensemble's error minus a net's on the same images, with its 95 % bootstrap interval; the images that only one
    of them got wrong, and McNemar's exact p-value that the errors are equal."""

    difference: float
    low: float
    high: float
    ensemble_only_wrong: int
    net_only_wrong: int
    p: float

    @classmethod
    def of(cls, ensemble: np.ndarray, net: np.ndarray) -> Paired:
        """From bool [images] each: which are wrong."""
        found = pairing(ensemble, net)
        return cls(
            difference=found.difference,
            low=found.low,
            high=found.high,
            ensemble_only_wrong=found.first_only,
            net_only_wrong=found.second_only,
            p=found.p,
        )


@dataclass(frozen=True, kw_only=True)
class NetFacts:
    """Which net: SHA-256 of its file, and what ran it."""

    name: str
    sha256: str
    backend: str
    parameters: int


@dataclass(frozen=True, kw_only=True)
class NetResult(NetFacts):
    """A net and its errors."""

    top1: ErrorRate
    top5: ErrorRate


@dataclass(frozen=True, kw_only=True)
class Against:
    """The ensemble compared with one of its nets."""

    net: str
    top1: Paired
    top5: Paired


@dataclass(frozen=True, kw_only=True)
class EnsembleResult:
    """Errors of the mean of the nets' probabilities."""

    top1: ErrorRate
    top5: ErrorRate
    against: tuple[Against, ...]


@dataclass(frozen=True, kw_only=True)
class ClassResult:
    """A class of the data: its images, and how many are wrong."""

    wnid: str
    name: str
    images: int
    top1: int
    top5: int


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """`images` of the `of` images of the class `label` were taken for `guess` (WordNet ids)."""

    label: str
    guess: str
    images: int
    of: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All that an evaluation says. Calibration, classes and confusions are the headline's: the ensemble's, or the only
    net's."""

    alexnet_infer: str
    """Version of this package."""
    data: Data
    protocol: Protocol
    nets: tuple[NetResult, ...]
    ensemble: EnsembleResult | None
    calibration: Calibration
    classes: tuple[ClassResult, ...]
    confusions: tuple[Confusion, ...]

    @property
    def errors(self) -> EnsembleResult | NetResult:
        """The headline: `top1` and `top5` of the ensemble, or of the only net."""
        return self.ensemble or self.nets[0]

    def to_json(self) -> dict[str, Any]:
        """The result as JSON can say it; the order of keys is part of the format."""
        return _plain(self)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def evaluation(
    *,
    data: Data,
    protocol: Protocol,
    classes: Sequence[ClassName],
    guesses: Sequence[ClassName],
    nets: Sequence[tuple[NetFacts, Tally]],
    ensemble: Tally | None,
) -> Evaluation:
    """The result of tallies of the same images in the same order.

    `classes` are the data's, `guesses` the classes that the headline's guesses are indices of: the ensemble's, or the
    only net's. `ensemble` is None for one net.
    """
    assert (ensemble is None) == (len(nets) == 1), "an ensemble has several nets"
    assert protocol.nets == len(nets)
    headline = nets[0][1] if ensemble is None else ensemble
    for tally in (headline, *(tally for _, tally in nets)):
        assert len(tally) == data.images, (len(tally), data.images)
        assert tally.classes == data.classes == len(classes), (tally.classes, data.classes, len(classes))
    return Evaluation(
        alexnet_infer=__version__,
        data=data,
        protocol=protocol,
        nets=tuple(NetResult(**dataclasses.asdict(facts), **_errors(tally)) for facts, tally in nets),
        ensemble=None if ensemble is None else _ensemble(ensemble, nets),
        calibration=headline.calibration(),
        classes=_classes(headline, classes),
        confusions=_confusions(headline, classes, guesses),
    )


def _errors(tally: Tally) -> dict[str, ErrorRate]:
    return {f"top{k}": ErrorRate.of(tally.wrong(k)) for k in (1, 5)}


def _ensemble(ensemble: Tally, nets: Sequence[tuple[NetFacts, Tally]]) -> EnsembleResult:
    against = (
        Against(net=facts.name, **{f"top{k}": Paired.of(ensemble.wrong(k), tally.wrong(k)) for k in (1, 5)})
        for facts, tally in nets
    )
    return EnsembleResult(**_errors(ensemble), against=tuple(against))


def _classes(tally: Tally, classes: Sequence[ClassName]) -> tuple[ClassResult, ...]:
    counts = zip(*(tally.per_class(k).tolist() for k in (None, 1, 5)), strict=True)
    return tuple(
        ClassResult(wnid=one.wnid, name=one.name, images=images, top1=top1, top5=top5)
        for one, (images, top1, top5) in zip(classes, counts, strict=True)
    )


def _confusions(tally: Tally, classes: Sequence[ClassName], guesses: Sequence[ClassName]) -> tuple[Confusion, ...]:
    of = tally.per_class().tolist()
    pairs = (
        Confusion(label=classes[label].wnid, guess=guesses[guess].wnid, images=images, of=of[label])
        for (label, guess), images in tally.confusions().items()
    )
    return tuple(sorted(pairs, key=lambda pair: (-pair.images, pair.label, pair.guess))[:CONFUSIONS])


_COMPARATORS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A condition on the headline's error, as in `--fail-if "top5>18.2"`. `value` is in per cent."""

    metric: Literal["top1", "top5"]
    comparator: Literal[">", ">=", "<", "<="]
    value: Fraction

    def __str__(self) -> str:
        return f"{self.metric} {self.comparator} {float(self.value):g} %"

    def holds(self, result: Evaluation) -> bool:
        """Compared as fractions of whole numbers: 182 wrong of 1,000 is 18.2 %, not a rounding error more."""
        error = Fraction(100 * getattr(result.errors, self.metric).wrong, result.data.images)
        return _COMPARATORS[self.comparator](error, self.value)


def parse_condition(text: str) -> Condition:
    """From text such as "top5>18.2". Raises UsageError on any other."""
    found = re.fullmatch(r"\s*(top[15])\s*([<>]=?)\s*([0-9]{1,3}(?:\.[0-9]{1,9})?)\s*%?\s*", text, re.ASCII)
    if not found or Fraction(found[3]) > 100:
        raise UsageError(
            f"--fail-if {shown(text)}: expected top1 or top5, a comparison (> >= < <=) and per cent from 0 to 100, "
            'as in "top5>18.2"'
        )
    return Condition(metric=found[1], comparator=found[2], value=Fraction(found[3]))
