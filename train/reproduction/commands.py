"""`python -m train reproduce`: list the rows, run them, or write the page."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from alexnet_infer.backends import Device
from alexnet_infer.errors import StoppedError
from alexnet_infer.output import console, say, say_json, styled, tell
from train.device import pick_device
from train.display import Display
from train.reproduction.cost import Costs
from train.reproduction.publish import every_result, write_page
from train.reproduction.record import Records
from train.reproduction.request import Request, Workplace
from train.reproduction.rows import Results
from train.reproduction.runner import Outcome, Runner, side_by_side
from train.reproduction.state import RowState, image_counts, in_order, states


def list_rows(request: Request, data: Path | None, device: Device, jobs: int | None, *, as_json: bool) -> None:
    """Print the rows asked for: what is done and missing, and what the missing nets would take on this machine."""
    results = Results(request.plan, Records(request.results))
    processor = pick_device(device)
    jobs, threads = side_by_side(processor, jobs)
    counts = image_counts(request.plan, request.size, results, data)
    costs = Costs(request.plan, results, processor, threads, counts)
    rows = states(request, results, costs, jobs)
    if as_json:
        say_json([row.to_json() for row in rows], indent=1)
        return
    table = Table(box=None, pad_edge=False)
    for title in ("row", "section", "nets", "missing", "time here", "verdict"):
        table.add_column(title, justify="right" if title in ("nets", "missing", "time here") else "left")
    for row in rows:
        table.add_row(*map(styled, _cells(row)))
    console().print(table)
    if any(row.hours is None for row in rows):
        tell("the time is not known without the number of images: add --data")


def _cells(row: RowState) -> list[str]:
    result, left = row.result, len(row.result.missing)
    time = "" if not left else "?" if row.hours is None else _duration(row.hours)
    return [result.row.name, result.row.section, str(len(row.tasks)), str(left or ""), time, result.shown_verdict]


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{max(1, round(60 * hours))} min"


def run_rows(request: Request, where: Workplace) -> bool:
    """Run what is missing of the rows asked for, keep the results, and write the page. Returns whether no run failed.

    Raises StoppedError after Ctrl-C.
    """
    display, results = Display(), Results(request.plan, Records(request.results))
    every_result(request.plan, results)  # a damaged record is an error now, not when the page is written
    runner = Runner(results, where, display)
    counts = image_counts(request.plan, request.size, results, where.data)
    costs = Costs(request.plan, results, runner.device, runner.threads, counts)
    tasks = in_order(request, results, costs, undecided_first=runner.device.type == "cuda")
    display.note(f"{len(tasks)} nets to run at the scale {request.scale}, {runner.jobs} side by side")
    try:
        outcome = runner.run(tasks)
    except StoppedError:
        write_page(request)
        raise
    say(f"{write_page(request)}: {_counted(outcome)}")
    for task, reason in outcome.failed.items():
        tell(f"{task} failed: {reason}")
    if outcome.stopped:
        tell("the time limit was reached: run the same command again to continue")
    return not outcome.failed


def _counted(outcome: Outcome) -> str:
    parts = [f"{len(outcome.done)} results added"]
    parts += [f"{len(outcome.stopped)} left"] if outcome.stopped else []
    parts += [f"{len(outcome.failed)} failed"] if outcome.failed else []
    return ", ".join(parts)
