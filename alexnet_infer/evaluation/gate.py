"""Whether a candidate is good enough: how far its error may rise, and how far its probabilities may differ.

A rise of the error is judged as in a non-inferiority trial. Not the measured difference counts, which a few images may
have moved, but its 95 % paired interval: the candidate passes if the upper end is at most the limit. So a candidate
whose error really rises by the limit or more passes once in forty comparisons, and too few images can't pass anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from alexnet_infer.errors import UsageError
from alexnet_infer.evaluation.agreement import Agreement
from alexnet_infer.evaluation.statistics import images_to_decide
from alexnet_infer.max_drop import Metric

Outcome = Literal["passed", "failed", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """An error of the candidate, judged by the interval of its difference from the reference's. All are fractions."""

    metric: Metric
    max_drop: float
    """The limit: the most by which the error may rise."""
    outcome: Outcome
    """"passed": the whole interval is at most the limit. "failed": the whole interval is above it. "undecided": the
    limit is inside."""
    difference: float
    low: float
    high: float
    """The ends of the 95 % interval, `statistics.paired_score`."""
    more_images: int | None
    """If undecided, the estimate of `statistics.images_to_decide` without the images that there were."""


def judge(agreement: Agreement, limits: Mapping[Metric, float]) -> tuple[Judgement, ...]:
    """Judge a comparison on labelled images by `limits` in percentage points.

    Raises UsageError if there are limits and no image says anything about them.
    """
    if limits and not agreement.pairs:
        raise UsageError(
            f"--max-drop: none of the {agreement.images:,} images can be read and is of a class that the nets know: "
            "expected another labelled set"
        )
    return tuple(_judgement(agreement, metric, points / 100) for metric, points in limits.items())


def _judgement(agreement: Agreement, metric: Metric, limit: float) -> Judgement:
    pair = agreement.pairs[metric]
    outcome: Outcome = "passed" if pair.high <= limit else "failed" if pair.low > limit else "undecided"
    more = None
    if outcome == "undecided":
        needed = images_to_decide(pair.first_only, pair.second_only, agreement.judged, limit)
        more = None if needed is None else max(1, needed - agreement.judged)
    return Judgement(
        metric=metric,
        max_drop=limit,
        outcome=outcome,
        difference=pair.difference,
        low=pair.low,
        high=pair.high,
        more_images=more,
    )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A comparison, and what it had to meet. Without a tolerance, probabilities may differ by any amount."""

    agreement: Agreement
    tolerance: float | None
    gate: tuple[Judgement, ...] = ()

    @property
    def within(self) -> bool | None:
        """Whether no probability differs by more than the tolerance, if there is one."""
        return None if self.tolerance is None else self.agreement.within(self.tolerance)

    @property
    def gate_passed(self) -> bool:
        """Whether no error may have risen by more than its limit."""
        return all(judgement.outcome == "passed" for judgement in self.gate)

    @property
    def judgements(self) -> dict[Metric, Judgement]:
        """The gate by metric."""
        return {judgement.metric: judgement for judgement in self.gate}

    @property
    def passed(self) -> bool:
        """Whether the candidate meets everything."""
        return self.within is not False and self.gate_passed

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as objects that `json.dumps` accepts. Without limits, "gate" is None."""
        judgements = {metric: asdict(judgement) for metric, judgement in self.judgements.items()}
        for judgement in judgements.values():
            del judgement["metric"]
        gate = {"passed": self.gate_passed, **judgements} if judgements else None
        return {**self.agreement.to_json(), "tolerance": self.tolerance, "within": self.within, "gate": gate}
