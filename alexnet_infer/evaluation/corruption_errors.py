"""The result of `eval --mce`: errors on ImageNet-C, corruption errors (CE) and their mean (mCE).

A corruption's CE is the sum of a net's top-1 errors over the five severities, divided by the baseline's sum. The mCE is
the mean of the CEs of the 15 standard corruptions. Everything is computed in fractions of integers and rounded once.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from alexnet_infer.datasets.ilsvrc import ILSVRC, identify
from alexnet_infer.evaluation.imagenet_c import EXTRA, GROUPS, PUBLISHED, SEVERITIES, STANDARD, Baseline, mean
from alexnet_infer.evaluation.paper import VALIDATION_IMAGES
from alexnet_infer.evaluation.result import Data, Evaluation, NetFacts, Protocol, plain
from alexnet_infer.reading import Unreadable
from alexnet_infer.version import __version__


@dataclass(frozen=True, kw_only=True)
class SeverityErrors:
    """The headline's top-1 errors on one set."""

    severity: int
    images: int
    wrong: int
    error: float


@dataclass(frozen=True, kw_only=True)
class CorruptionErrors:
    """The errors on one corruption. Errors are fractions of 1."""

    name: str
    group: str
    standard: bool
    """Whether it counts towards the mCE."""
    severities: tuple[SeverityErrors, ...]
    error: float | None
    """The mean over the five severities, or None if a set is missing or has other images than the others."""
    baseline: float | None
    """That of the baseline, or None if it is not known."""
    ce: float | None
    """The quotient of both."""


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """The errors of a net, or of the mean of several, on ImageNet-C."""

    alexnet_infer: str
    data: Data
    """`images`, `classes` and `sample` are those of each set. `unreadable` has the images of all sets."""
    protocol: Protocol
    nets: tuple[NetFacts, ...]
    baseline: str
    mce: float | None
    """The mean of the 15 standard CEs, as a fraction (1 for the baseline itself), or None if one of them is None."""
    error: float | None
    """The mean of the 15 standard errors, or None if one of them is None."""
    problems: tuple[str, ...]
    """Why there is no mCE, or no CE of an extra corruption: the sets that are missing, and those with other images."""
    corruptions: tuple[CorruptionErrors, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the result as objects that `json.dumps` accepts. `read_baseline` reads it."""
        return plain(self)


def corruption_errors(
    results: Mapping[tuple[str, int], Evaluation],
    *,
    name: str,
    missing: Sequence[str],
    baseline: Baseline = PUBLISHED,
    scored: Sequence[str] = (),
    sizes: str = "",
) -> Robustness:
    """Compute the CEs and the mCE from the results on the sets, given by corruption and severity.

    `missing` are the sets that are not there. `scored` are the differences in the scoring, and `sizes` is the sentence
    on the size of the images, or empty.
    """
    usual = Counter(result.data.listing for result in results.values()).most_common(1)[0][0]
    differing = [key for key, result in results.items() if result.data.listing != usual]
    same = next(result for result in results.values() if result.data.listing == usual)
    others = [f"{corruption}/{severity}" for corruption, severity in differing]
    problems = [f"missing: {', '.join(missing)}"] if missing else []
    problems += [f"other images than in most sets: {', '.join(others)}"] if others else []
    corruptions, errors, quotients = [], {}, {}
    for corruption in (*STANDARD, *EXTRA):
        own = {severity: results[corruption, severity] for severity in SEVERITIES if (corruption, severity) in results}
        if not own:
            continue
        whole = len(own) == len(SEVERITIES) and not any((corruption, severity) in differing for severity in own)
        if whole:
            errors[corruption] = mean([_error(result) for result in own.values()])
            if corruption in baseline.errors:
                quotients[corruption] = errors[corruption] / baseline.errors[corruption]
        corruptions.append(
            CorruptionErrors(
                name=corruption,
                group=next(group for group, names in GROUPS.items() if corruption in names),
                standard=corruption in STANDARD,
                severities=tuple(_severity(severity, result) for severity, result in own.items()),
                error=_float(errors.get(corruption)),
                baseline=_float(baseline.errors.get(corruption)),
                ce=_float(quotients.get(corruption)),
            )
        )
    complete = all(corruption in quotients for corruption in STANDARD)
    unreadable = [
        Unreadable(image=f"{corruption}/{severity}/{image.image}", reason=image.reason)
        for (corruption, severity), result in results.items()
        for image in result.data.unreadable
    ]
    return Robustness(
        alexnet_infer=__version__,
        data=dataclasses.replace(same.data, name=name, unreadable=tuple(unreadable)),
        protocol=dataclasses.replace(
            same.protocol,
            notes=tuple(f"Each set: {sentence}" for sentence in same.protocol.notes),
            deviations=tuple(_deviations(same, baseline, scored, sizes)),
        ),
        nets=tuple(
            NetFacts(**{f.name: getattr(net, f.name) for f in dataclasses.fields(NetFacts)}) for net in same.nets
        ),
        baseline=baseline.name,
        mce=_float(mean([quotients[corruption] for corruption in STANDARD])) if complete else None,
        error=_float(mean([errors[corruption] for corruption in STANDARD])) if complete else None,
        problems=tuple(problems),
        corruptions=tuple(corruptions),
    )


def _error(result: Evaluation) -> Fraction:
    return Fraction(result.errors.top1.wrong, result.data.images)


def _severity(severity: int, result: Evaluation) -> SeverityErrors:
    wrong, images = result.errors.top1.wrong, result.data.images
    return SeverityErrors(severity=severity, images=images, wrong=wrong, error=wrong / images)


def _float(value: Fraction | None) -> float | None:
    return None if value is None else float(value)


def _deviations(result: Evaluation, baseline: Baseline, scored: Sequence[str], sizes: str) -> Iterator[str]:
    """Yield the differences from ImageNet-C's protocol and between the run and the baseline, one sentence each."""
    data, protocol = result.data, result.protocol
    full = data.images if data.sample is None else data.sample.of
    ilsvrc = identify([named.wnid for named in result.classes]) == ILSVRC
    if full != VALIDATION_IMAGES or not ilsvrc:
        of = "the same" if ilsvrc else f"{data.classes:,}"
        yield f"The sets are not ImageNet-C's (50,000 images of 1,000 classes each): {full:,} images of {of} classes."
    if data.sample is not None:
        yield f"Only a sample of {data.images:,} of the {full:,} images of each set was evaluated."
    if sizes:
        yield sizes
    if protocol.views != baseline.views:
        views = {"ten": "ten views", "center": "one central view"}
        yield f"This run uses {views[protocol.views]} of each image, the baseline {views[baseline.views]}."
    yield from scored
    if baseline.listing is not None:
        if baseline.listing != data.listing:
            yield "The baseline was measured on other images."
        if baseline.scoring != (protocol.classes, protocol.labels, protocol.outputs):
            yield "The baseline was scored in another way: its classes or its labels differ."
