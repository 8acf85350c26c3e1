"""Write the page and its pictures from the records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alexnet_infer.errors import BackendError
from alexnet_infer.files import write_atomically, writing
from alexnet_infer.output import tell
from train.reproduction import figures
from train.reproduction.page import page
from train.reproduction.plan import Plan
from train.reproduction.record import Records
from train.reproduction.request import Request
from train.reproduction.rows import Results, RowResult

CURVES, ABLATIONS, SPEED = "curves.svg", "ablations.svg", "figure-1.svg"


def write_page(request: Request) -> Path:
    """Write the page and its pictures from the records.

    Without matplotlib, the page has no pictures. Raises UnreadableInputError if a record is damaged, and UsageError if
    a file can't be written.
    """
    results = Results(request.plan, Records(request.results))
    rows = every_result(request.plan, results)
    with writing(request.page, "choose another --results"):
        request.results.mkdir(parents=True, exist_ok=True)
        captions = {}
        try:
            for name, (picture, caption) in _pictures(request.plan, results, rows).items():
                write_atomically(request.results / name, picture)
                captions[f"{request.results.absolute().name}/{name}"] = caption
        except BackendError as error:
            tell(f"the page has no pictures: {error}")
        for name in (CURVES, ABLATIONS, SPEED):
            if not any(path.endswith(name) for path in captions):
                (request.results / name).unlink(missing_ok=True)  # it would not be of these results
        write_atomically(request.page, page(request.plan, rows, captions).encode())
    return request.page


def every_result(plan: Plan, results: Results) -> list[RowResult]:
    """Return the results of all rows at all scales where they are possible.

    Trials are left out, unless there is nothing else. Raises UnreadableInputError if a record is damaged.
    """
    found = [result for row in plan.rows for scale in plan.scales.values() if (result := results.of(row, scale))]
    real = [result for result in found if not result.scale.trial]
    return real if any(result.done for result in real) else found


def _pictures(plan: Plan, results: Results, rows: Sequence[RowResult]) -> dict[str, tuple[bytes, str]]:
    """Return the pictures with their captions. The curves are those of the largest scale on the page that has any."""
    pictures = {}
    if (picture := figures.ablations(rows)) is not None:
        pictures[ABLATIONS] = picture, "Points of top-1 error with 95 % intervals, and the paper's figures"
    on_page = {row.scale.title for row in rows if row.row.measure != "speed"}
    for scale in plan.scales.values():
        if scale.title in on_page and not scale.nets and (picture := figures.curves(plan, results, scale.title)):
            pictures[CURVES] = picture, f"Training loss and validation error of the runs at the scale {scale.title}"
    for result in (row for row in rows if row.row.measure == "speed" and row.done):
        if picture := figures.speed(plan, results, result.row, result.scale.title):
            pictures[SPEED] = picture, "Training error with ReLU and with tanh, as in the paper's Figure 1"
    return pictures
