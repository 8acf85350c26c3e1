"""The result of an evaluation, from which the tables, the JSON, the report and `--fail-if` are made.

It contains no times, so an interrupted and resumed run gives the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from alexnet_infer.errors import UsageError, shown
from alexnet_infer.evaluation.statistics import ErrorRate, Pairing
from alexnet_infer.evaluation.tally import Reliability, Tally
from alexnet_infer.manifest import ClassName
from alexnet_infer.preprocess import Views
from alexnet_infer.reading import Unreadable
from alexnet_infer.version import __version__

CONFUSIONS = 20
"""The largest number of confused pairs in a result."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sample: `images` of the set's `of` images were evaluated."""

    images: int
    of: int


@dataclass(frozen=True, kw_only=True)
class Data:
    """The image set."""

    name: str
    listing: str
    """SHA-256 of the evaluated images' file names and WordNet ids in sorted order. It does not depend on the layout of
    the set."""
    images: int
    """Images evaluated, unreadable ones included."""
    classes: int
    sample: Sample | None = None
    unreadable: tuple[Unreadable, ...] = ()
    """They count as wrong."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The test protocol: views per image and number of nets."""

    views: Views
    nets: int
    classes: str = "all"
    """The classes among which the nets choose: "all" theirs, "shared" with the data, or the name of a file."""
    outputs: int | None = None
    """The number of these classes."""
    labels: str | None = None
    """The file with the right classes, or None for the data's own labels."""
    notes: tuple[str, ...] = ()
    """What a reader must know before the errors, one sentence each: which classes only the data or only the nets
    have."""
    deviations: tuple[str, ...] = ()
    """Differences from the paper's protocol, one sentence each."""


@dataclass(frozen=True, kw_only=True)
class NetFacts:
    """A net and the backend that ran it."""

    name: str
    sha256: str | None
    """SHA-256 of the model file."""
    backend: str
    parameters: int


@dataclass(frozen=True, kw_only=True)
class NetResult(NetFacts):
    """A net and its errors."""

    top1: ErrorRate
    top5: ErrorRate


@dataclass(frozen=True, kw_only=True)
class Against:
    """The ensemble compared with the net named `net`. The ensemble is the first of each pair."""

    net: str
    top1: Pairing
    top5: Pairing


@dataclass(frozen=True, kw_only=True)
class EnsembleResult:
    """Errors of the mean of the nets' probabilities."""

    top1: ErrorRate
    top5: ErrorRate
    against: tuple[Against, ...]
    """Comparisons with each net, in the order of `Evaluation.nets`."""


@dataclass(frozen=True, kw_only=True)
class ClassResult:
    """A class of the data: its number of images, and how many of them are wrong in the top 1 and in the top 5."""

    wnid: str
    name: str
    images: int
    top1: int
    top5: int

    @property
    def short(self) -> str:
        """The first of the English names."""
        return ClassName(wnid=self.wnid, name=self.name).short


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """`images` of the `of` images of class `label` were classified as `guess` (WordNet ids)."""

    label: str
    guess: str
    images: int
    of: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All results of an evaluation.

    Calibration, classes and confusions are those of the headline: the ensemble, or the only net.
    """

    alexnet_infer: str
    """The version of this package."""
    data: Data
    protocol: Protocol
    nets: tuple[NetResult, ...]
    ensemble: EnsembleResult | None
    calibration: Reliability
    classes: tuple[ClassResult, ...]
    confusions: tuple[Confusion, ...]

    @property
    def errors(self) -> EnsembleResult | NetResult:
        """The headline's `top1` and `top5`: the ensemble's, or the only net's."""
        return self.ensemble or self.nets[0]

    @property
    def against_best(self) -> Against | None:
        """The ensemble compared with its best net, or None if there is only one net.

        The best net has the lowest top-1 error. Ties are resolved by the top-5 error, then by the order of the nets.
        """
        if self.ensemble is None:
            return None
        best = min(range(len(self.nets)), key=lambda i: (self.nets[i].top1.wrong, self.nets[i].top5.wrong))
        return self.ensemble.against[best]

    def to_json(self) -> dict[str, Any]:
        """Return the result as objects that `json.dumps` accepts. The order of the keys is part of the format."""
        return plain(self)


def plain(value: Any) -> Any:
    """Return a result or a part of it as objects that `json.dumps` accepts."""
    if isinstance(value, Pairing):
        return value.to_json(ensemble_only_wrong=value.first_only, net_only_wrong=value.second_only)
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def evaluation(
    *,
    data: Data,
    protocol: Protocol,
    classes: Sequence[ClassName],
    guesses: Sequence[ClassName],
    nets: Sequence[tuple[NetFacts, Tally]],
    ensemble: Tally | None,
) -> Evaluation:
    """Build the result from tallies of the same images in the same order.

    `classes` are the data's classes. `guesses` are the nets' classes, in the order of their outputs. `ensemble` is the
    tally of the nets' mean, or None if there is only one net.
    """
    assert (ensemble is None) == (len(nets) == 1), "expected the mean's tally if and only if there are several nets"
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
        calibration=headline.reliability(),
        classes=_classes(headline, classes),
        confusions=_confusions(headline, classes, guesses),
    )


def _errors(tally: Tally) -> dict[str, ErrorRate]:
    return {f"top{k}": ErrorRate.of(tally.wrong(k)) for k in (1, 5)}


def _ensemble(ensemble: Tally, nets: Sequence[tuple[NetFacts, Tally]]) -> EnsembleResult:
    against = (
        Against(net=facts.name, **{f"top{k}": Pairing.of(ensemble.wrong(k), tally.wrong(k)) for k in (1, 5)})
        for facts, tally in nets
    )
    return EnsembleResult(**_errors(ensemble), against=tuple(against))


def _classes(tally: Tally, classes: Sequence[ClassName]) -> tuple[ClassResult, ...]:
    counts = zip(*(tally.per_class(k).tolist() for k in (None, 1, 5)), strict=True)
    return tuple(
        ClassResult(wnid=named.wnid, name=named.name, images=images, top1=top1, top5=top5)
        for named, (images, top1, top5) in zip(classes, counts, strict=True)
    )


def _confusions(tally: Tally, classes: Sequence[ClassName], guesses: Sequence[ClassName]) -> tuple[Confusion, ...]:
    totals = tally.per_class().tolist()
    pairs = (
        Confusion(label=classes[label].wnid, guess=guesses[guess].wnid, images=images, of=totals[label])
        for (label, guess), images in tally.confusions().items()
    )
    return tuple(sorted(pairs, key=lambda pair: (-pair.images, pair.label, pair.guess))[:CONFUSIONS])


_COMPARATORS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A condition on the headline's error, such as `--fail-if "top5>18.2"`. `value` is in per cent."""

    metric: Literal["top1", "top5"]
    comparator: Literal[">", ">=", "<", "<="]
    value: Fraction

    def __str__(self) -> str:
        return f"{self.metric} {self.comparator} {float(self.value):g} %"

    def holds(self, result: Evaluation) -> bool:
        """Return whether the condition holds. The comparison is exact: 182 wrong of 1,000 is not above 18.2 %."""
        error = Fraction(100 * getattr(result.errors, self.metric).wrong, result.data.images)
        return _COMPARATORS[self.comparator](error, self.value)


def parse_condition(text: str) -> Condition:
    """Parse a condition such as "top5>18.2". Raises UsageError if the text is not a condition."""
    match = re.fullmatch(r"\s*(top[15])\s*([<>]=?)\s*([0-9]{1,3}(?:\.[0-9]{1,9})?)\s*%?\s*", text, re.ASCII)
    if not match or Fraction(match[3]) > 100:
        raise UsageError(
            f"--fail-if {shown(text)}: expected top1 or top5, a comparison (> >= < <=) and per cent from 0 to 100, "
            'as in "top5>18.2"'
        )
    return Condition(metric=match[1], comparator=match[2], value=Fraction(match[3]))
