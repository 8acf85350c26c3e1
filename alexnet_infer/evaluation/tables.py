"""An evaluation for people: tables on a terminal, CSV and Markdown. Error figures are in per cent.

Names come from files that anyone may have made: they are shown as they are, on one line, and never read as markup.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from csv import writer
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alexnet_infer.decode import printable
from alexnet_infer.evaluation.paper import PUBLISHED, Published, identify, is_papers_validation_set
from alexnet_infer.evaluation.result import ClassResult, ErrorRate, Evaluation, Paired

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 5
"""Classes and pairs that the terminal lists; the JSON has more."""

STARRED = "*: (two of the seven) nets with a sixth convolution, trained on 22,000 classes first."

_VIEWS = {"ten": "ten", "center": "centre", None: ""}

Figure = tuple[float, float, float] | tuple[float] | None
"""Error with the ends of its interval in per cent, the error alone where none is published, None for no figure."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the headline table."""

    net: str
    data: str
    views: str
    images: int | None
    top1: Figure
    top5: Figure
    note: str
    """What speaks against comparing it with this run; of this run, that it is a sample."""
    source: str
    trained_on: str = ""
    comparable: bool = True


def rows(evaluation: Evaluation) -> list[Row]:
    """This run's nets, its ensemble, then the published figures: those on the same classes first."""
    ours = list(_ours(evaluation))
    wnids = [one.wnid for one in evaluation.classes]
    known = identify(wnids)
    theirs = [_published(row, evaluation, known) for row in PUBLISHED]
    return ours + sorted(theirs, key=lambda row: not row.comparable)


def _ours(evaluation: Evaluation) -> Iterator[Row]:
    data = evaluation.data
    results = [(printable(net.name), net) for net in evaluation.nets]
    if evaluation.ensemble is not None:
        results.append((f"mean of {len(evaluation.nets)} nets", evaluation.ensemble))
    for name, errors in results:
        yield Row(
            net=name,
            data=printable(data.name),
            views=_VIEWS[evaluation.protocol.views],
            images=data.images,
            top1=_figure(errors.top1),
            top5=_figure(errors.top5),
            note="" if data.sample is None else f"{data.images:,} of {data.sample.of:,} images",
            source="this run",
        )


def _figure(rate: ErrorRate) -> Figure:
    return 100 * rate.error, 100 * rate.low, 100 * rate.high


def _published(row: Published, evaluation: Evaluation, known: str | None) -> Row:
    comparable = row.data_set == known
    notes = []
    if comparable and not _same_images(row, evaluation):
        notes.append("other images")
    if comparable and row.views not in (None, evaluation.protocol.views):
        notes.append("other views")
    return Row(
        net=row.net,
        data=row.data,
        views=_VIEWS[row.views],
        images=None,
        top1=None if row.top1 is None else (row.top1,),
        top5=None if row.top5 is None else (row.top5,),
        note=", ".join(notes) if comparable else "not comparable",
        source=row.source,
        trained_on=row.trained_on,
        comparable=comparable,
    )


def _same_images(row: Published, evaluation: Evaluation) -> bool:
    data = evaluation.data
    whole = data.images if data.sample is None else data.sample.of
    wnids = [one.wnid for one in evaluation.classes]
    return row.data == "ILSVRC-2012 validation" and is_papers_validation_set(wnids, whole)


def csv(evaluation: Evaluation) -> str:
    """The headline table as CSV, a header first; per cent, empty where there is no figure."""
    out = io.StringIO()
    lines = writer(out, lineterminator="\n")
    ends = [f"{metric}{end}" for metric in ("top1", "top5") for end in ("", "_low", "_high")]
    lines.writerow(["net", "data", "views", "images", *ends, "note", "source", "trained_on"])
    for row in rows(evaluation):
        named = [*map(_no_formula, (row.net, row.data)), row.views, "" if row.images is None else row.images]
        lines.writerow([*named, *_cells(row.top1), *_cells(row.top5), row.note, row.source, row.trained_on])
    return out.getvalue()


def _cells(figure: Figure) -> list[str]:
    match figure:
        case (_, _, _):
            return [f"{value:.2f}" for value in figure]
        case (error,):  # as many digits as were published
            return [f"{error:.1f}", "", ""]
    return [""] * 3


def _no_formula(text: str) -> str:
    """A spreadsheet would run a name such as =HYPERLINK(...)."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def markdown(evaluation: Evaluation) -> str:
    """The headline table as Markdown; per cent."""
    lines = ["| net | data | views | top-1 error | top-5 error | | source |", "|---|---|---|---|---|---|---|"]
    for row in rows(evaluation):
        cells = (row.net, row.data, row.views, _shown(row.top1), _shown(row.top5), row.note, row.source)
        lines.append(f"| {' | '.join(map(_no_markdown, cells))} |")
    return "\n".join([*lines, "", _no_markdown(STARRED)]) + "\n"


def _no_markdown(text: str) -> str:
    """Brackets of an interval are escaped, too, and shown all the same."""
    return re.sub(r"([\\`*\[\]<>|&])", r"\\\1", text)


def _shown(figure: Figure) -> str:
    match figure:
        case None:
            return ""
        case (error,):
            return f"{error:.1f} %"
        case (error, low, high):
            return f"{error:.2f} % [{low:.1f}, {high:.1f}]"


def render(evaluation: Evaluation, console: Console) -> None:
    """Prints an evaluation: the headline table, then what helps to judge it."""
    from rich.text import Text

    def line(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    data = evaluation.data
    images = "1 image" if data.images == 1 else f"{data.images:,} images"
    line(f"{printable(data.name)}: {images} of {data.classes:,} classes", "bold")
    _print_headline(evaluation, console)
    line(f"In brackets: 95 % intervals (Wilson). {STARRED}", "dim")
    line("Published by the paper, tables 1 and 2, section 6; Caffe (BVLC); Yao and Miller 2015 (Tiny ImageNet).", "dim")
    if data.unreadable:
        line(f"\n{len(data.unreadable):,} of the {data.images:,} images can't be read and count as wrong.", "yellow")
    if evaluation.ensemble is not None:
        _print_pairs(evaluation, console)
    if (ece := evaluation.calibration.ece) is not None:
        line(f"\nExpected calibration error ({len(evaluation.calibration.bins)} bins): {100 * ece:.2f} %")
    _print_classes(evaluation, console)
    _print_confusions(evaluation, console)
    if evaluation.protocol.deviations:
        line("\nUnlike the paper's protocol:", "bold")
        for sentence in evaluation.protocol.deviations:
            line(f"- {printable(sentence)}")


def _print(console: Console, title: str, headings: Sequence[str], lines: Sequence[tuple[Sequence[str], str]]) -> None:
    """A title and a table of texts, each line with its style; headings that start with > stand to the right."""
    from rich.table import Table
    from rich.text import Text

    if title:
        console.print(Text(title, style="bold"), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(Text(heading.removeprefix(">")), justify="right" if heading.startswith(">") else "left")
    for cells, style in lines:
        table.add_row(*(Text(printable(cell)) for cell in cells), style=style)
    console.print(table)


def _print_headline(evaluation: Evaluation, console: Console) -> None:
    table = rows(evaluation)
    headline = next(i for i, row in enumerate(table) if row.images is None) - 1  # the last of ours
    styles = ["bold" if i == headline else "" if row.comparable else "dim" for i, row in enumerate(table)]
    cells = [(row.net, row.data, row.views, _shown(row.top1), _shown(row.top5), row.note) for row in table]
    headings = ("net", "data", "views", "top-1 error", "top-5 error", "")
    _print(console, "", headings, list(zip(cells, styles, strict=True)))


def _print_pairs(evaluation: Evaluation, console: Console) -> None:
    headings = ("mean against", "", ">points", "", ">only mean", ">only net", ">p")
    lines = [
        ((name, metric, *_paired(pair)), "")
        for one in evaluation.ensemble.against
        for name, metric, pair in ((one.net, "top-1", one.top1), ("", "top-5", one.top5))
    ]
    title = "\nMean of all nets minus one net: 95 % interval, images that only one gets wrong, McNemar's exact p"
    _print(console, title, headings, lines)


def _paired(pair: Paired) -> tuple[str, ...]:
    difference, low, high = (f"{100 * value:+.2f}" for value in (pair.difference, pair.low, pair.high))
    p = "< 1e-12" if pair.p < 1e-12 else f"{pair.p:.2g}"
    return difference, f"[{low}, {high}]", f"{pair.ensemble_only_wrong:,}", f"{pair.net_only_wrong:,}", p


def _print_classes(evaluation: Evaluation, console: Console) -> None:
    present = [one for one in evaluation.classes if one.images]
    worst = sorted(present, key=lambda one: (-one.top1 / one.images, -one.top5 / one.images))[:SHOWN]
    lines = [((_short(one.name), one.wnid, f"{one.top1:,}", f"{one.top5:,}", f"{one.images:,}"), "") for one in worst]
    _print(console, "\nWorst classes", ("class", "WordNet id", ">top-1 wrong", ">top-5 wrong", ">images"), lines)


def _print_confusions(evaluation: Evaluation, console: Console) -> None:
    if not evaluation.confusions:
        return
    classes = {one.wnid: one for one in evaluation.classes}
    lines = [
        ((_named(pair.label, classes), _named(pair.guess, classes), f"{pair.images:,}", f"{pair.of:,}"), "")
        for pair in evaluation.confusions[:SHOWN]
    ]
    _print(console, "\nMost confused", ("label", "taken for", ">images", ">of"), lines)


def _named(wnid: str, classes: dict[str, ClassResult]) -> str:
    """A guess may be a class that the data hasn't: it has no name here."""
    return f"{_short(classes[wnid].name)} ({wnid})" if wnid in classes else wnid


def _short(name: str) -> str:
    return name.split(",")[0].strip()
