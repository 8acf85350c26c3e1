"""The result of `eval --mce` on a terminal, as CSV and as Markdown. Errors and CEs are in per cent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from alexnet_infer.csv_text import csv_text
from alexnet_infer.evaluation.corruption_errors import CorruptionErrors, Robustness
from alexnet_infer.evaluation.imagenet_c import SEVERITIES, STANDARD
from alexnet_infer.output import no_markdown

if TYPE_CHECKING:
    from rich.console import Console

MCE = "mCE"
"""The name of the last row."""


def _percent(value: float | None, digits: int) -> str:
    return "" if value is None else f"{100 * value:.{digits}f}"


def _errors(corruption: CorruptionErrors, digits: int) -> list[str]:
    """The error at each severity, then the mean, the baseline's mean and the CE."""
    errors = {own.severity: own.error for own in corruption.severities}
    values = [*(errors.get(severity) for severity in SEVERITIES), corruption.error, corruption.baseline, corruption.ce]
    return [_percent(value, digits) for value in values]


def csv(result: Robustness) -> str:
    """Return one row per corruption as CSV with a header. The last row has the mean error and the mCE, if there is one.

    Unknown figures are empty.
    """
    return csv_text(_rows(result))


def _rows(result: Robustness) -> Iterator[list[str | int]]:
    severities = [f"severity_{severity}" for severity in SEVERITIES]
    yield ["corruption", "group", "counted", "images", *severities, "mean", "baseline", "ce", "note"]
    for corruption in result.corruptions:
        counted, images = "yes" if corruption.standard else "no", sum(own.images for own in corruption.severities)
        yield [corruption.name, corruption.group, counted, images, *_errors(corruption, 2), ""]
    notes = [f"baseline: {result.baseline}", *_why_not(result), *result.protocol.notes]
    note = "; ".join(text.rstrip(".") for text in notes)
    yield [MCE, "", "", "", *[""] * 5, _percent(result.error, 2), "", _percent(result.mce, 2), note]


def _why_not(result: Robustness) -> list[str]:
    return [f"no mCE: {'; '.join(result.problems)}"] if result.mce is None else []


def markdown(result: Robustness) -> str:
    """Return one row per corruption as a Markdown table, then the mCE and what to know about it."""
    lines = [*(f"{no_markdown(sentence)}\n" for sentence in result.protocol.notes)]
    lines += [
        f"| corruption | {' | '.join(map(str, SEVERITIES))} | mean | baseline | CE |",
        f"|---|{'---:|' * (len(SEVERITIES) + 3)}",
    ]
    for corruption in result.corruptions:
        name = no_markdown(corruption.name) + ("" if corruption.standard else " (not counted)")
        lines.append(f"| {' | '.join([name, *_errors(corruption, 1)])} |")
    lines += ["", no_markdown(headline(result))]
    lines += [f"- {no_markdown(sentence)}" for sentence in ("", *result.protocol.deviations) if sentence]
    return "\n".join(lines) + "\n"


def headline(result: Robustness) -> str:
    """Return the mCE in one sentence, or why there is none."""
    baseline = f"Baseline: {result.baseline}."
    if result.mce is None:
        return f"mCE: none ({'; '.join(result.problems)}). {baseline}"
    return f"mCE: {_percent(result.mce, 2)} %. Mean error: {_percent(result.error, 2)} %. {baseline}"


def render(result: Robustness, console: Console) -> None:
    """Print the errors, the mCE and the deviations. A row takes one line of 80 cells or fewer."""
    from alexnet_infer.evaluation.terminal import print_table, print_text

    for sentence in result.protocol.notes:
        print_text(console, sentence, "yellow")
    data = result.data
    sample = "" if data.sample is None else f" of {data.sample.of:,}"
    views = "ten views" if result.protocol.views == "ten" else "central view"
    nets = result.nets[0].name if len(result.nets) == 1 else f"mean of {len(result.nets)} nets"
    print_text(console, f"{data.name}: top-1 errors of {nets} in per cent", "bold")
    print_text(console, f"Each set: {data.images:,}{sample} images of {data.classes:,} classes, {views}", "bold")
    headings = ("corruption", *(f">{severity}" for severity in SEVERITIES), ">mean", ">baseline", ">CE")
    cells = [(corruption.name, *_errors(corruption, 1)) for corruption in result.corruptions]
    print_table(console, headings, cells, ["" if corruption.standard else "dim" for corruption in result.corruptions])
    _print_headline(result, console)
    if result.protocol.deviations:
        print_text(console, "")
        print_text(console, "Deviations from ImageNet-C's protocol:", "bold")
        for sentence in result.protocol.deviations:
            print_text(console, f"- {sentence}")


def _print_headline(result: Robustness, console: Console) -> None:
    from alexnet_infer.evaluation.terminal import print_text

    if result.mce is None:
        print_text(console, f"mCE: none ({'; '.join(result.problems)})", "bold yellow")
    else:
        figures = f"mCE: {_percent(result.mce, 2)} %   mean error: {_percent(result.error, 2)} %"
        print_text(console, figures, "bold")
        if result.problems:
            print_text(console, f"Incomplete extra corruptions: {'; '.join(result.problems)}.", "yellow")
    print_text(console, "CE: the sum of the errors divided by the sum of the baseline's.", "dim")
    print_text(console, f"Baseline: {result.baseline}.", "dim")
    extra = sum(not corruption.standard for corruption in result.corruptions)
    if extra:
        last = "The last one does" if extra == 1 else f"The last {extra} do"
        print_text(console, f"mCE: the mean of the {len(STANDARD)} standard CEs. {last} not count.", "dim")
