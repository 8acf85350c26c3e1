"""`alexnet-infer similar`: print the images of a file of features that are nearest to photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_infer.csv_text import csv_text
from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.features.search import decimals
from alexnet_infer.features.similar import Answer, Index, SimilarRequest, find_similar, open_index
from alexnet_infer.output import console, say_json, say_lines, styled, tell
from alexnet_infer.photos import expand

if TYPE_CHECKING:
    from alexnet_infer.features.gallery import Place


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

    `data` is where the page's images are, as in `gallery.find_place`. Returns the exit code: 0, or 1 if some photos
    can't be read, or 3 if none can. Raises the errors of `open_index`, `find_similar` and `write_report`.
    """
    request = SimilarRequest(**given)
    if as_json and csv:
        raise UsageError("--json and --csv: expected one of them")
    if data is not None and report is None:
        raise UsageError(f"--data {data}: is only for the images of a report; add --report, or leave it out")
    if report is not None:
        from alexnet_infer.features.page import check_pictures, check_report

        check_report(report)
    index = open_index(request)
    entries = [*expand(photos)]
    place = None
    if report is not None:
        check_pictures(index, len(entries), report)
        place = _place(index, data)
    show = _json_printer(index) if as_json else _csv_printer(index) if csv else _text_printer(index)
    kept: list[Answer] = []
    failed, left_out = 0, 0
    for answer in find_similar(index, entries, keep=report is not None):
        if answer.query.error is not None:
            failed += 1
            tell(f"error: {answer.query.name}: {answer.query.error}")
        show(answer)
        left_out = max(left_out, answer.left_out)
        if report is not None:
            kept.append(answer)
    if failed == len(entries):
        return UnreadableInputError.exit_code
    if not (as_json or csv):
        _print_source(index, left_out)
    if place is not None:
        _write(index, kept, place, report)
    return 1 if failed else 0


def _place(index: Index, data: Path | None) -> Place:
    """Return where the images are, and say it if they are not found."""
    from alexnet_infer.features.gallery import find_place

    place = find_place(index, data)
    if place.reason:
        tell(f"note: the page will have no images of the set; name it with --data ({place.reason})")
    return place


def _write(index: Index, answers: Sequence[Answer], place: Place, report: Path) -> None:
    """Write the page, and say how many images it lacks."""
    from alexnet_infer.features.gallery import may_be_elsewhere, pictures_of
    from alexnet_infer.features.page import write_report

    pictures = pictures_of(index, answers, place)
    page = write_report(index, answers, pictures, report)
    missing = [row for row, picture in pictures.items() if picture.square is None]
    if missing and not place.reason:
        elsewhere = any(may_be_elsewhere(index.features.names[row], place) for row in missing)
        hint = "; --data names the folder in which `features` was run" if elsewhere else ""
        tell(f"note: images not shown: {len(missing):,} of {len(pictures):,}; the page says why{hint}")
    tell(f"wrote {page}")


def _class_names(index: Index) -> dict[str, str]:
    return {known.wnid: known.short for known in index.net.classes}


def _json_printer(index: Index) -> Callable[[Answer], None]:
    return lambda answer: say_json(_json(answer, index))


def _json(answer: Answer, index: Index) -> dict[str, Any]:
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
        "searched": len(index.features) - answer.left_out,
        "left_out": answer.left_out,
    }


def _csv_printer(index: Index) -> Callable[[Answer], None]:
    names = _class_names(index)
    say_lines(csv_text([("photo", "rank", "distance", "name", "label", "class")]))

    def show(answer: Answer) -> None:
        for rank, near in enumerate(answer.neighbours, 1):
            label = near.label or ""
            row = answer.query.name, rank, near.distance, near.name, label, names.get(label, "")
            say_lines(csv_text([row]))

    return show


def _text_printer(index: Index) -> Callable[[Answer], None]:
    def show(answer: Answer) -> None:
        if answer.query.error is None:
            _print(answer, index)

    return show


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
        side = "right" if heading in ("", "distance") else "left"
        table.add_column(heading, style=style, justify=side, overflow="fold")
    for rank, near in enumerate(answer.neighbours, 1):
        cells = [styled(names.get(near.label, near.label or ""))] if labelled else []
        table.add_row(str(rank), f"{near.distance:.{digits}f}", *cells, styled(near.name))
    out = console()
    out.print(styled(answer.query.name, "italic"), soft_wrap=True)
    out.print(table)


def _print_source(index: Index, left_out: int) -> None:
    about = index.features.about
    views = "mean of ten views" if about.views == "ten" else "central view"
    count = len(index.features) - left_out
    kind, of = ("photo", "") if about.images.path is None else ("image", f" of {about.images.data}")
    more = f", {left_out:,} left out" if left_out else ""
    searched = f"{count:,} {kind}{'' if count == 1 else 's'}{of}{more}"
    console().print(styled(f"{index.layer} of {about.net}, {views}, {searched}", "dim"), soft_wrap=True)
