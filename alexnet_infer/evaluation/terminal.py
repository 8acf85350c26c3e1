"""An evaluation on a terminal: one screen, every row on one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

from alexnet_infer.errors import message_line
from alexnet_infer.evaluation.paper import PUBLISHED
from alexnet_infer.evaluation.result import Evaluation
from alexnet_infer.evaluation.statistics import SIGNIFICANCE, Pairing
from alexnet_infer.evaluation.tables import STARRED, ErrorRow, References, percent, rows, starred, verdict
from alexnet_infer.output import styled

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 3
"""The number of worst classes and of confused pairs that are printed. The JSON has all classes and more pairs."""

FEWEST = 5
"""The number of images that a class must have for its error to be printed."""

GAP = "  "
"""Between two columns."""

SHORTEST = 12
"""Names are not shortened to fewer cells than this."""


def render(evaluation: Evaluation, console: Console, references: References = "near") -> None:
    """Print an evaluation.

    The order is: notes on the classes, errors of this run, the ensemble against its best net, published errors, worst
    classes and confusions, deviations from the paper's protocol. Rows take one line. To make them fit the console's
    width, names are shortened. Figures never are.
    """
    table = rows(evaluation, references)
    for sentence in evaluation.protocol.notes:
        print_text(console, sentence, "yellow")
    _print_errors(evaluation, [row for row in table if row.images is not None], console)
    if evaluation.ensemble is not None:
        _print_comparison(evaluation, console)
    _print_published([row for row in table if row.images is None], console)
    _print_classes(evaluation, console)
    if evaluation.protocol.deviations:
        print_text(console, "")
        print_text(console, "Deviations from the paper's protocol:", "bold")
        for sentence in evaluation.protocol.deviations:
            print_text(console, f"- {sentence}")


def _print_errors(evaluation: Evaluation, table: Sequence[ErrorRow], console: Console) -> None:
    data = evaluation.data
    total = "" if data.sample is None else f" of {data.sample.of:,}"
    images = f"{data.images:,}{total} image{'s' * (total != '' or data.images != 1)}"
    views = "ten views" if evaluation.protocol.views == "ten" else "central view"
    print_text(console, f"{data.name}: {images}, {data.classes:,} classes, {views}", "bold")
    styles = [*[""] * (len(table) - 1), "bold"]  # the last row is the headline
    cells = [(row.net, percent(row.top1), percent(row.top5)) for row in table]
    print_table(console, ("~net", "top-1 error", "top-5 error"), cells, styles)
    ece = evaluation.calibration.ece
    bins = len(evaluation.calibration.bins)
    calibration = "" if ece is None else f" Expected calibration error ({bins} bins): {100 * ece:.2f} %."
    print_text(console, f"Intervals: 95 % (Wilson).{calibration}", "dim")
    if data.unreadable:
        count = f"{len(data.unreadable):,} of the {data.images:,} images"
        print_text(console, f"{count} can't be read and count as wrong.", "yellow")


def _print_comparison(evaluation: Evaluation, console: Console) -> None:
    against = evaluation.against_best
    assert against is not None
    title = f"Mean of {len(evaluation.nets)} nets against the best of them, "
    name = _shortened(message_line(against.net), max(console.width - len(title), SHORTEST))
    print_text(console, "")
    print_text(console, f"{title}{name}", "bold")
    cells = [("top-1", *_paired(against.top1)), ("top-5", *_paired(against.top5))]
    headings = ("", "difference in points", ">only mean wrong", ">only net wrong", ">McNemar's p")
    print_table(console, headings, cells)
    print_text(console, verdict(against), "bold")
    print_text(
        console, f"Significant: McNemar's exact p < {SIGNIFICANCE}, and 0 outside the paired 95 % interval.", "dim"
    )


def _paired(pair: Pairing) -> tuple[str, ...]:
    difference, low, high = (f"{100 * value:+.2f}" for value in (pair.difference, pair.low, pair.high))
    p = "< 1e-12" if pair.p < 1e-12 else f"{pair.p:.2g}"
    return f"{difference} [{low}, {high}]", f"{pair.first_only:,}", f"{pair.second_only:,}", p


def _print_published(table: Sequence[ErrorRow], console: Console) -> None:
    print_text(console, "")
    cells = []
    for row in table:
        errors = ("" if figure is None else f"{figure[0]:.1f}" for figure in (row.top1, row.top5))
        cells.append((row.net, row.data, row.views, *errors, row.note))
    styles = ["" if row.comparable else "dim" for row in table]
    print_table(console, ("published, %", "data", "views", ">top-1", ">top-5", ""), cells, styles)
    sources = list(dict.fromkeys(row.source for row in table))
    more = "" if len(table) == len(PUBLISHED) else f" All {len(PUBLISHED)} rows: --references all"
    print_text(console, f"Source{'s' * (len(sources) > 1)}: {'; '.join(sources)}.{more}", "dim")
    if starred(table):
        print_text(console, STARRED, "dim")


def _print_classes(evaluation: Evaluation, console: Console) -> None:
    print_text(console, "")
    classes = [result for result in evaluation.classes if result.images >= FEWEST]
    if not classes:
        print_text(console, f"No class has {FEWEST} or more images: worst classes and confusions are not shown.", "dim")
        return
    worst = sorted(classes, key=lambda result: (-result.top1 / result.images, -result.top5 / result.images))[:SHOWN]
    cells = [
        (result.short, result.wnid, f"{result.top1:,}", f"{result.top5:,}", f"{result.images:,}") for result in worst
    ]
    print_table(console, ("~worst classes", "WordNet id", ">top-1 wrong", ">top-5 wrong", ">images"), cells)
    names = _class_names(evaluation)
    pairs = [pair for pair in evaluation.confusions if pair.of >= FEWEST][:SHOWN]
    if pairs:
        print_text(console, "")
        cells = [
            (names[pair.label], names.get(pair.guess, pair.guess), f"{pair.images:,}", f"{pair.of:,}") for pair in pairs
        ]
        print_table(console, ("~most confused", "~classified as", ">images", ">of"), cells)


def _class_names(evaluation: Evaluation) -> dict[str, str]:
    """The short name of each class of the data, by WordNet id. Names that several classes have include the id."""
    count = Counter(result.short for result in evaluation.classes)
    return {
        result.wnid: result.short if count[result.short] == 1 else f"{result.short} ({result.wnid})"
        for result in evaluation.classes
    }


def print_text(console: Console, text: str, style: str = "") -> None:
    """Print text as one printable line that is not parsed as markup and not wrapped."""
    console.print(styled(text, style), soft_wrap=True)


def print_table(
    console: Console, headings: Sequence[str], cells: Sequence[Sequence[str]], styles: Sequence[str] = ()
) -> None:
    """Print a heading and one line for each row of `cells`, in that row's style.

    A heading that begins with > aligns its column to the right. One that begins with ~ marks a column of names.
    """
    table = [[heading.lstrip(">~") for heading in headings], *([message_line(cell) for cell in row] for row in cells)]
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    names = [i for i, heading in enumerate(headings) if heading.startswith("~")]
    fixed = sum(widths) - sum(widths[i] for i in names) + len(GAP) * (len(widths) - 1)
    for i in names:
        widths[i] = min(widths[i], max((console.width - fixed) // len(names), SHORTEST))
    for row, style in zip(table, ["", *(styles or [""] * len(cells))], strict=True):
        padded = []
        for heading, text, width in zip(headings, map(_shortened, row, widths), widths, strict=True):
            space = " " * (width - cell_len(text))
            padded.append(space + text if heading.startswith(">") else text + space)
        print_text(console, GAP.join(padded).rstrip(), style)


def _shortened(text: str, width: int) -> str:
    """`text` in at most `width` cells. Its middle is left out: the names of similar nets differ at the end."""
    if cell_len(text) <= width:
        return text
    end = (width - 3) // 2
    return f"{set_cell_size(text, width - 3 - end)}...{set_cell_size(text[::-1], end)[::-1]}"
