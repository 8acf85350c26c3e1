"""`alexnet-infer similar`: print the images of a file of features that are nearest to photos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alexnet_infer.csv_text import csv_text
from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.features.search import decimals
from alexnet_infer.features.similar import Answer, Index, Similar, SimilarRequest, find_similar, open_index
from alexnet_infer.output import console, say_json, say_lines, styled, tell
from alexnet_infer.photos import expand


def run(
    photos: Sequence[str],
    *,
    data: Path | None,
    report: Path | None,
    as_json: bool,
    csv: bool,
    **given: Any,
) -> int:
    """Print the images nearest to each of `photos`, and write the page `report`.

    `data` is the labelled set from which the page shows images. Returns the exit code: 0, or 1 if some photos can't be
    read, or 3 if none can. Raises the errors of `open_index`, `find_similar` and `write_report`.
    """
    request = SimilarRequest(**given)
    if as_json and csv:
        raise UsageError("--json and --csv: expected one of them")
    if data is not None and report is None:
        raise UsageError(f"--data {data}: is only for the images of a report; add --report, or leave it out")
    if report is not None:
        from alexnet_infer.features.page import check_report

        check_report(report)
    index = open_index(request)
    place = None
    if report is not None:
        from alexnet_infer.features.gallery import find_place

        place = find_place(index, data)
        if place.reason:
            tell(f"note: the page will have no images of the set ({place.reason}); name it with --data")
    similar = find_similar(index, [*expand(photos)], keep=report is not None)
    failed = 0
    for answer in similar.answers:
        if answer.query.error is not None:
            failed += 1
            tell(f"error: {answer.query.name}: {answer.query.error}")
        if as_json:
            say_json(_json(answer, index, similar))
        elif answer.query.error is None and not csv:
            _print(answer, index)
    if csv:
        say_lines(csv_text(_csv(similar, index)))
    elif not as_json and failed < len(similar.answers):
        _print_source(index, similar)
    if failed == len(similar.answers):
        return UnreadableInputError.exit_code
    if report is not None:
        from alexnet_infer.features.gallery import pictures_of
        from alexnet_infer.features.page import write_report

        page = write_report(index, similar, pictures_of(index, similar.answers, place), report)
        tell(f"wrote {page}")
    return 1 if failed else 0


def _class_names(index: Index) -> dict[str, str]:
    return {known.wnid: known.short for known in index.net.classes}


def _json(answer: Answer, index: Index, similar: Similar) -> dict[str, Any]:
    row: dict[str, Any] = {"photo": answer.query.name}
    if answer.query.error is not None:
        return row | {"error": answer.query.error}
    about, names = index.features.about, _class_names(index)
    neighbours = [
        {
            "row": neighbour.row,
            "distance": neighbour.distance,
            "name": neighbour.name,
            "label": neighbour.label,
            "class": names.get(neighbour.label),
        }
        for neighbour in answer.neighbours
    ]
    return row | {
        "neighbours": neighbours,
        "index": str(index.features.path),
        "data": about.images.data,
        "layer": index.layer,
        "net": about.net,
        "sha256": about.sha256,
        "views": about.views,
        "dtype": about.dtype,
        "searched": len(index.features) - similar.left_out,
        "left_out": similar.left_out,
    }


def _csv(similar: Similar, index: Index) -> Iterator[Sequence[object]]:
    names = _class_names(index)
    yield "photo", "rank", "distance", "name", "label", "class"
    for answer in similar.answers:
        for rank, near in enumerate(answer.neighbours, 1):
            label = near.label or ""
            yield answer.query.name, rank, near.distance, near.name, label, names.get(label, "")


def _print(answer: Answer, index: Index) -> None:
    from rich.table import Table

    names, digits = _class_names(index), decimals(near.distance for near in answer.neighbours)
    labelled = any(near.label for near in answer.neighbours)
    table = Table(box=None, pad_edge=False)
    for heading, style in (
        ("", "dim"),
        ("distance", "cyan"),
        *((("class", "bold"),) if labelled else ()),
        ("name", ""),
    ):
        table.add_column(heading, style=style, justify="right" if heading in ("", "distance") else "left")
    for rank, near in enumerate(answer.neighbours, 1):
        cells = [styled(names.get(near.label, near.label or ""))] if labelled else []
        table.add_row(str(rank), f"{near.distance:.{digits}f}", *cells, styled(near.name))
    out = console()
    out.print(styled(answer.query.name, "italic"), soft_wrap=True)
    out.print(table)


def _print_source(index: Index, similar: Similar) -> None:
    about = index.features.about
    views = "mean of ten views" if about.views == "ten" else "central view"
    left_out = f", {similar.left_out:,} left out" if similar.left_out else ""
    count = len(index.features) - similar.left_out
    kind, of = ("photo", "") if about.images.path is None else ("image", f" of {about.images.data}")
    searched = f"{count:,} {kind}{'' if count == 1 else 's'}{of}{left_out}"
    console().print(styled(f"{index.layer} of {about.net}, {views}, {searched}", "dim"), soft_wrap=True)
