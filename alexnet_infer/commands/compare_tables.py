"""What `alexnet-infer compare` and `export --verify` print of comparisons: tables, and a line for each failed check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from alexnet_infer.evaluation.agreement import Agreement
from alexnet_infer.evaluation.differences import NEAR_TIE
from alexnet_infer.evaluation.gate import Judgement, Verdict
from alexnet_infer.evaluation.statistics import Pairing
from alexnet_infer.max_drop import METRICS
from alexnet_infer.output import console, styled

if TYPE_CHECKING:
    from rich.table import Table


def print_one(verdict: Verdict) -> None:
    """Print the table of one candidate: a row for each figure."""
    agreement = verdict.agreement
    out = console()
    for role, party in (("reference", agreement.reference), ("candidate", agreement.candidate)):
        out.print(styled(f"{role}: {party.net}, {_views(agreement)}, {party.backend}", "dim"), soft_wrap=True)
    table = _table(show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right", style="bold")
    table.add_column(justify="left", style="dim", overflow="fold")
    for row in _rows(verdict):
        table.add_row(*map(styled, row))
    out.print(table)


def print_several(verdicts: Sequence[Verdict], reference: str, candidates: Sequence[str]) -> None:
    """Print the table of several candidates on one labelled set: a row for each at top 1, and one at top 5.

    `reference` and `candidates` are what the nets are called. The candidates are numbered from 1.
    """
    agreement, out = verdicts[0].agreement, console()
    lines = [f"reference: {reference}, {_views(agreement)}, {agreement.reference.backend}"]
    for number, (name, verdict) in enumerate(zip(candidates, verdicts, strict=True), 1):
        lines.append(f"{number}: {name}, {verdict.agreement.candidate.backend}{on_calibration(verdict.agreement)}")
    unreadable = len(agreement.unreadable)
    lines.append(f"{agreement.compared:,} images" + (f"; {unreadable:,} more can't be read" if unreadable else ""))
    if left_out := _left_out(agreement):
        lines.append(f"{left_out:,} images are of classes that the nets do not know: they are not in the errors")
    for line in lines:
        out.print(styled(line, "dim"), soft_wrap=True)
    table = _table()
    for heading in ("", "largest", "flips", "", "error", "change in points"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    table.add_column("gate" if any(verdict.gate for verdict in verdicts) else "", style="bold", overflow="fold")
    for metric, pair in agreement.pairs.items():
        table.add_row("" if table.rows else "ref", "", "", METRICS[metric], f"{pair.second.error:.2%}")
    for number, verdict in enumerate(verdicts, 1):
        for row in _two_rows(number, verdict):
            table.add_row(*map(styled, row))
    out.print(table)


def failures(verdict: Verdict, candidate: str = "") -> Iterator[str]:
    """Yield a message for each check that did not pass. `candidate` says which net it is about, if needed."""
    agreement, who = verdict.agreement, f"{candidate}: " if candidate else ""
    if verdict.within is False:
        yield (
            f"{who}probabilities differ by up to {agreement.largest:.2g}, in {agreement.largest_image}: expected at "
            f"most {verdict.tolerance:g}; allow more with --tolerance"
        )
    for judgement in verdict.gate:
        if judgement.outcome != "passed":
            difference, low, high, limit = _points(judgement)
            undecided = "" if judgement.outcome == "failed" else "undecided, "
            metric = METRICS[judgement.metric]
            yield (
                f"{who}{metric} error changed by {difference} points, 95 % interval [{low}, {high}]: "
                f"{undecided}expected at most {limit} (--max-drop){_more(judgement)}{on_calibration(agreement)}"
            )


def on_calibration(agreement: Agreement) -> str:
    """Return the part of a line that says that images of calibration were compared, or may have been, or ""."""
    if agreement.calibration_images is None:
        return "; its calibration images are unknown, and may be among these"
    if not agreement.calibration_images:
        return ""
    return (
        f"; {agreement.calibration_images:,} of the {agreement.counted:,} images were used for calibration: the drop "
        "may be larger on others"
    )


def _left_out(agreement: Agreement) -> int:
    """Return how many images are of classes that the nets don't know."""
    return 0 if agreement.judged is None else agreement.compared - agreement.judged


def _table(**options: bool) -> Table:
    from rich.table import Table

    return Table(box=None, pad_edge=False, **options)


def _views(agreement: Agreement) -> str:
    return "ten views averaged" if agreement.views == "ten" else "central view"


def _rows(verdict: Verdict) -> list[tuple[str, str, str]]:
    """Return the name, the value and a note for each line of the table of one candidate."""
    agreement = verdict.agreement
    unreadable = len(agreement.unreadable)
    near = f"{agreement.near_ties:,} of them near ties (the reference's probabilities differ by at most {NEAR_TIE:g})"
    within = f"{_tolerance(verdict)}; " if verdict.within is not None else ""
    rows = [
        ("images", f"{agreement.compared:,}", f"{unreadable:,} more can't be read" if unreadable else ""),
        ("largest probability difference", f"{agreement.largest:.2g}", f"{within}in {agreement.largest_image}"),
        ("mean probability difference", f"{agreement.mean:.2g}", f"over {agreement.classes:,} classes"),
        ("top-1 flips", f"{agreement.flips:,}", near if agreement.flips else ""),
    ]
    if left_out := _left_out(agreement):
        rows.insert(1, ("images of other classes", f"{left_out:,}", "the nets do not know them: not in the errors"))
    if agreement.calibration_images is None:
        rows.insert(1, ("calibration images", "unknown", "the file does not name them: some of these may be"))
    elif agreement.calibration_images:
        rows.insert(1, ("calibration images", f"{agreement.calibration_images:,}", _CALIBRATED))
    gate = verdict.judgements
    for metric, pair in agreement.pairs.items():
        name = METRICS[metric]
        rows.append((f"{name} error, reference", f"{pair.second.error:.2%}", ""))
        rows.append((f"{name} error, candidate", f"{pair.first.error:.2%}", ""))
        rows.append((f"{name} change in points", f"{100 * pair.difference:+.2f}", _interval(pair)))
        if metric in gate:
            rows.append((f"{name} gate", gate[metric].outcome, _reason(gate[metric]) + on_calibration(agreement)))
    return rows


_CALIBRATED = "of these images: the nets may differ more on others"


def _two_rows(number: int, verdict: Verdict) -> Iterator[tuple[str, ...]]:
    """Yield a candidate's row for top 1 and its row for top 5."""
    agreement = verdict.agreement
    first = (str(number), f"{agreement.largest:.2g}", f"{agreement.flips:,}")
    second = ("", "" if verdict.within is None else _tolerance(verdict), "")
    gate = verdict.judgements
    if not agreement.pairs:
        yield (*first, "", "", "", "")
    for start, (metric, pair) in zip((first, second), agreement.pairs.items(), strict=False):
        outcome = ""
        if judgement := gate.get(metric):
            outcome = f"{judgement.outcome} at {_points(judgement)[-1]}{_more(judgement)}"
        change = f"{100 * pair.difference:+.2f} [{100 * pair.low:+.2f}, {100 * pair.high:+.2f}]"
        yield (*start, METRICS[metric], f"{pair.first.error:.2%}", change, outcome)


def _tolerance(verdict: Verdict) -> str:
    return f"{'within' if verdict.within else 'above'} {verdict.tolerance:g}"


def _interval(pair: Pairing) -> str:
    p = "< 1e-12" if pair.p < 1e-12 else f"{pair.p:.2g}"
    wrong = f"only candidate wrong {pair.first_only:,}, only reference {pair.second_only:,}"
    return f"[{100 * pair.low:+.2f}, {100 * pair.high:+.2f}]; {wrong}; McNemar's p {p}"


def _reason(judgement: Judgement) -> str:
    _, low, high, limit = _points(judgement)
    match judgement.outcome:
        case "passed":
            return f"the upper end {high} is at most {limit}"
        case "failed":
            return f"the lower end {low} is above {limit}"
    return f"{limit} is between {low} and {high}{_more(judgement)}"


def _more(judgement: Judgement) -> str:
    """Return how many more images would decide an undecided case, with two significant digits, or ""."""
    if judgement.outcome != "undecided":
        return ""
    if judgement.more_images is None:
        return "; the difference is the limit itself, so that no number of images would decide"
    return f"; about {_round_up(judgement.more_images):,} more images would decide"


def _round_up(number: int) -> int:
    unit = 10 ** max(len(str(number)) - 2, 0)
    return -(-number // unit) * unit


def _points(judgement: Judgement) -> tuple[str, str, str, str]:
    """Return the difference, both ends and the limit in points, with two decimals or as many as tell them apart.

    More than two are needed if a value would otherwise look equal to the limit.
    """
    limit = 100 * judgement.max_drop
    values = [100 * value for value in (judgement.difference, judgement.low, judgement.high)]
    decimals = 2
    while decimals < 6 and any(0 < abs(value - limit) < 0.5 * 10**-decimals for value in values):
        decimals += 1
    difference, low, high = (f"{value:+.{decimals}f}" for value in values)
    return difference, low, high, f"{limit:g}"
