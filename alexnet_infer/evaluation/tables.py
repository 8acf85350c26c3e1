"""The errors of a run and published errors as rows, and these rows as CSV and Markdown. Errors are in per cent.

Names come from untrusted files. They are shown as text on one line and never parsed as markup.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from alexnet_infer.csv_text import csv_text
from alexnet_infer.datasets.ilsvrc import identify
from alexnet_infer.evaluation.paper import PUBLISHED, Published, is_papers_validation_set
from alexnet_infer.evaluation.result import Against, Evaluation
from alexnet_infer.evaluation.statistics import ErrorRate
from alexnet_infer.output import no_markdown

References = Literal["near", "all"]
"""Which published rows follow the rows of a run: the nearest ones, or all of them."""

NEAREST = 3
"""The largest number of published rows with "near"."""

STARRED = "*: a sixth convolution, pre-trained on 22,000 classes (two of the 7 CNNs*)."
"""The paper's mark after the name of a net."""

_VIEWS = {"ten": "ten", "center": "centre", None: ""}

Figure = tuple[float, float, float] | tuple[float] | None
"""An error and the ends of its interval in per cent, or an error without an interval, or None if it is not known."""


@dataclass(frozen=True, kw_only=True)
class ErrorRow:
    """One row of the error table."""

    net: str
    data: str
    views: str
    images: int | None
    """None for published rows."""
    top1: Figure
    top5: Figure
    note: str
    """For published rows, what limits or prevents a comparison with the run. For the run, the size of the sample if it
    used one."""
    source: str
    trained_on: str = ""
    comparable: bool = True
    """Whether the data has the same classes as the run's."""


def rows(evaluation: Evaluation, references: References = "near") -> list[ErrorRow]:
    """Return the rows of this run's nets and of their ensemble, then published rows.

    With "all", every published row follows, those for the same classes first. With "near", at most NEAREST rows for the
    same classes follow, the most similar ones first: rows are similar if they agree in images, in views, and in being
    one net or an ensemble. If no row is for the same classes, the most similar row of another data set follows. It is
    not comparable.
    """
    known = identify(_wnids(evaluation))
    published = sorted(PUBLISHED, key=lambda row: row.data_set != known)
    if references == "near":
        published.sort(key=lambda row: (row.data_set != known, _differences(row, evaluation)))
        same_classes = sum(row.data_set == known for row in published)
        published = published[: min(same_classes, NEAREST) or 1]
    return [*_of_run(evaluation), *(_published(row, evaluation, known) for row in published)]


def _of_run(evaluation: Evaluation) -> Iterator[ErrorRow]:
    data = evaluation.data
    results = [(net.name, net) for net in evaluation.nets]
    if evaluation.ensemble is not None:
        results.append((f"mean of {len(evaluation.nets)} nets", evaluation.ensemble))
    for name, errors in results:
        yield ErrorRow(
            net=name,
            data=data.name,
            views=_VIEWS[evaluation.protocol.views],
            images=data.images,
            top1=_figure(errors.top1),
            top5=_figure(errors.top5),
            note="" if data.sample is None else f"{data.images:,} of {data.sample.of:,} images",
            source="this run",
        )


def _figure(rate: ErrorRate) -> Figure:
    return 100 * rate.error, 100 * rate.low, 100 * rate.high


def _published(row: Published, evaluation: Evaluation, known: str | None) -> ErrorRow:
    comparable = row.data_set == known
    differing = []
    if not _same_images(row, evaluation):
        differing.append("images")
    if row.views not in (None, evaluation.protocol.views):
        differing.append("views")
    note = f"other {', '.join(differing)}" if differing else ""
    return ErrorRow(
        net=row.net,
        data=row.data,
        views=_VIEWS[row.views],
        images=None,
        top1=None if row.top1 is None else (row.top1,),
        top5=None if row.top5 is None else (row.top5,),
        note=note if comparable else "not comparable",
        source=row.source,
        trained_on=row.trained_on,
        comparable=comparable,
    )


def _differences(row: Published, evaluation: Evaluation) -> int:
    """The number of properties, of three, in which a published row and the run differ."""
    return (
        (not _same_images(row, evaluation))
        + (row.views != evaluation.protocol.views)
        + (row.ensemble is not (evaluation.ensemble is not None))
    )


def _same_images(row: Published, evaluation: Evaluation) -> bool:
    data = evaluation.data
    full = data.images if data.sample is None else data.sample.of
    return row.data == "ILSVRC-2012 validation" and is_papers_validation_set(_wnids(evaluation), full)


def _wnids(evaluation: Evaluation) -> list[str]:
    return [result.wnid for result in evaluation.classes]


def verdict(against: Against) -> str:
    """Say in one sentence whether the ensemble is significantly better than a net."""
    words = {"better": "significantly better", "worse": "significantly worse", "undecided": "not significantly better"}
    top1, top5 = words[against.top1.verdict], words[against.top5.verdict]
    if top1 == top5:
        return f"The mean is {top1} in top-1 {'or' if top1.startswith('not') else 'and'} top-5 error."
    return f"The mean is {top1} in top-1 error and {top5} in top-5 error."


def csv(evaluation: Evaluation, references: References = "near") -> str:
    """Return `rows` as CSV with a header. Errors are in per cent. Unknown errors are empty.

    The note of the run's rows includes the notes on the classes.
    """
    return csv_text(_csv_rows(evaluation, references))


def _csv_rows(evaluation: Evaluation, references: References) -> Iterator[list[str | int]]:
    ends = [f"{metric}{end}" for metric in ("top1", "top5") for end in ("", "_low", "_high")]
    yield ["net", "data", "views", "images", *ends, "note", "source", "trained_on"]
    for row in rows(evaluation, references):
        notes = [row.note, *evaluation.protocol.notes] if row.images is not None else [row.note]
        note = "; ".join(text.rstrip(".") for text in notes if text)
        named = [row.net, row.data, row.views, "" if row.images is None else row.images]
        yield [*named, *_cells(row.top1), *_cells(row.top5), note, row.source, row.trained_on]


def _cells(figure: Figure) -> list[str]:
    match figure:
        case (_, _, _):
            return [f"{value:.2f}" for value in figure]
        case (error,):  # with the published number of digits
            return [f"{error:.1f}", "", ""]
    return [""] * 3


def markdown(evaluation: Evaluation, references: References = "near") -> str:
    """Return `rows` as a Markdown table, after the notes on the classes. Errors are in per cent."""
    lines = [f"{no_markdown(sentence)}\n" for sentence in evaluation.protocol.notes]
    lines += ["| net | data | views | top-1 error | top-5 error | | source |", "|---|---|---|---|---|---|---|"]
    table = rows(evaluation, references)
    for row in table:
        cells = (row.net, row.data, row.views, percent(row.top1), percent(row.top5), row.note, row.source)
        lines.append(f"| {' | '.join(map(no_markdown, cells))} |")
    if starred(table):
        lines += ["", no_markdown(STARRED)]
    return "\n".join(lines) + "\n"


def starred(table: Sequence[ErrorRow]) -> bool:
    """Return whether a published row has the paper's mark, which STARRED explains."""
    return any(row.images is None and row.net.endswith("*") for row in table)


def percent(figure: Figure) -> str:
    """Format an error in per cent, with its interval if it has one."""
    match figure:
        case None:
            return ""
        case (error,):
            return f"{error:.1f} %"
        case (error, low, high):
            return f"{error:.2f} % [{low:.1f}, {high:.1f}]"
