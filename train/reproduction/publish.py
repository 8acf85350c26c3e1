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


def write_page(request: Request) -> Path:
    """Write the page and its pictures from the records. Without matplotlib, the pictures are left as they are."""
    results = Results(request.plan, Records(request.results))
    rows = every_result(request.plan, results)
    with writing(request.page, "choose another --results"):
        request.results.mkdir(parents=True, exist_ok=True)
        try:
            for name, picture in _pictures(request.plan, results, rows).items():
                write_atomically(request.results / name, picture)
        except BackendError as error:
            tell(f"the pictures are not drawn: {error}")
        write_atomically(request.page, page(request.plan, rows, request.results).encode())
    return request.page


def every_result(plan: Plan, results: Results) -> list[RowResult]:
    """Return the results of all rows at all scales where they are possible.

    Trials are left out, unless there is nothing else. Raises UnreadableInputError if a record is damaged.
    """
    found = [result for row in plan.rows for scale in plan.scales.values() if (result := results.of(row, scale))]
    real = [result for result in found if not result.scale.trial]
    return real if any(result.done for result in real) else found


def _pictures(plan: Plan, results: Results, rows: Sequence[RowResult]) -> dict[str, bytes]:
    pictures = {"ablations.svg": figures.ablations(rows)}
    trained = [name for name, scale in plan.scales.items() if not scale.nets]
    drawn = [picture for name in trained if (picture := figures.curves(plan, results, name))]
    pictures["curves.svg"] = drawn[-1] if drawn else None  # of the largest scale
    return {name: picture for name, picture in pictures.items() if picture}
