"""`alexnet-infer classify`: print labels for photos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_infer.answers import backends, labels_row
from alexnet_infer.answers import names as names_of
from alexnet_infer.backends import Choice, Device
from alexnet_infer.backends.opening import chooses_runtime
from alexnet_infer.backends.remote.address import Source
from alexnet_infer.errors import UsageError
from alexnet_infer.nets import choose_nets, load, nets_at_hand
from alexnet_infer.output import console, say, say_json, styled, tell
from alexnet_infer.packages import installed
from alexnet_infer.photos import expand
from alexnet_infer.predict import Ensemble, Net, Result
from alexnet_infer.preprocess import Views
from alexnet_infer.progress import counting

if TYPE_CHECKING:
    from alexnet_infer.annotate import Annotated
    from alexnet_infer.photos import Photo

    _Item = tuple[Result, Annotated | None]
    """A result, and what became of the photo's copy with --annotate."""
    _Printer = Callable[[Result, Path | None], None]
    """Prints a result. The path is that of the copy, if one was written."""

BAR_WIDTH = 24

FEW = 32
"""Below this number of photos, the runtime that starts faster is used: OpenVINO takes 0.2 s longer to start."""

LARGER_NET = "bvlc-alexnet"
"""The published net that is suggested after the labels of a bundled net."""


def run(
    photos: Sequence[str],
    *,
    model: Source | None,
    ensemble: int | None,
    top: int | None,
    views: Views | None,
    device: Device,
    backend: Choice,
    trust_engine: bool,
    as_json: bool,
    as_csv: bool,
    annotate: Path | None,
) -> int:
    """Print the labels of `photos` by one net, or by the mean of `ensemble` bundled nets.

    With `annotate`, write copies of the photos with their labels to that folder. Returns the exit code: 0, or 1 if some
    photos can't be read, or 3 if none can.
    """
    if as_json and as_csv:
        raise UsageError("--json and --csv: expected one of the two")
    if model is not None and ensemble is not None and ensemble > 1:
        raise UsageError(
            f"--ensemble {ensemble}: averages bundled nets, and --model {model} is one net; leave out one of the two"
        )
    paths = choose_nets([model] if model is not None else [], ensemble)
    entries = list(expand(photos))
    copies = _planned(entries, annotate) if annotate is not None else None
    if backend == "auto" and len(entries) < FEW and chooses_runtime(paths[0]) and installed("onnxruntime"):
        backend = "onnxruntime"
    nets = [load(path, device=device, views=views, backend=backend, trust_engine=trust_engine) for path in paths]
    net = nets[0] if len(nets) == 1 else Ensemble(nets)
    if top is not None and top > len(net.classes):
        raise UsageError(f"--top {top}: expected 1 to {len(net.classes)}, the number of classes")
    top = top or min(5, len(net.classes))
    items = _plain(net, entries, top) if copies is None else _annotated(net, entries, top, copies)
    show = _json_printer(net) if as_json else _csv_printer(net) if as_csv else _text_printer(net, len(entries))
    failed = _show(items, show, len(entries), annotate)
    for member in nets:
        member.check_unchanged()
    if not (as_json or as_csv) and failed < len(entries) and paths[0] in nets_at_hand():
        _suggest_larger_net(net)
    return 0 if not failed else 3 if failed == len(entries) else 1


def _planned(photos: Sequence[Photo], folder: Path) -> list[Path]:
    from alexnet_infer.annotate import plan

    return plan(photos, folder)


def _plain(net: Net | Ensemble, photos: Sequence[Photo], top: int) -> Iterator[_Item]:
    return ((result, None) for result in net.classify_all(photos, top))


def _annotated(net: Net | Ensemble, photos: Sequence[Photo], top: int, copies: Sequence[Path]) -> Iterator[_Item]:
    from alexnet_infer.annotate import Annotator, held
    from alexnet_infer.seen import Seen

    annotator = Annotator(
        classes=net.classes,
        sizes=[member.rescaling.size for member in net.nets],
        seen=Seen.of((member.manifest.preprocessing, member.views) for member in net.nets),
        footer=f"{_title(net)}, {_views(net)}",
    )
    done = annotator.annotate(net.classify_all(held(photos), top), copies)
    return ((item.result, item) for item in done)


def _show(items: Iterator[_Item], show: _Printer, total: int, folder: Path | None) -> int:
    """Print each result, and what failed. Returns the number of photos that failed."""
    failed = copies = 0
    replaced_names = False
    for result, annotated in _with_progress(items, total) if total > 1 else items:
        error = result.error or (annotated.error if annotated is not None else None)
        if error is not None:
            failed += 1
            tell(f"error: {error}")
        show(result, annotated.copy if annotated is not None else None)
        if annotated is not None:
            copies += annotated.copy is not None
            replaced_names |= annotated.replaced_names
    if replaced_names:
        tell("No font here has all characters of some class names: the copies show their WordNet ids instead.")
    if copies:
        tell(f"{copies:,} annotated {'copy' if copies == 1 else 'copies'} in {folder}")
    return failed


def _json_printer(net: Net | Ensemble) -> _Printer:
    def show(result: Result, copy: Path | None) -> None:
        say_json(_json_row(result, net) | ({"copy": str(copy)} if copy is not None else {}))

    return show


def _csv_printer(net: Net | Ensemble) -> _Printer:
    """Print the header, and return what prints a photo's rows: one per label, or one with the error."""
    from alexnet_infer.csv_text import csv_lines

    def print_rows(rows: Iterable[Sequence[object]]) -> None:
        for line in csv_lines(rows):
            say(line.decode().removesuffix("\n"))

    def show(result: Result, copy: Path | None) -> None:
        photo = result.photo.name
        if result.error is not None:
            print_rows([(photo, "", "", "", "", "", result.error)])
            return
        print_rows(
            (photo, rank, label.index, label.wnid, label.name, label.probability, "")
            for rank, label in enumerate(result.labels, 1)
        )

    print_rows([("photo", "rank", "index", "wnid", "name", "probability", "error")])
    return show


def _text_printer(net: Net | Ensemble, photos: int) -> _Printer:
    print_result = _print_table if photos == 1 else _print_line

    def show(result: Result, copy: Path | None) -> None:
        if result.error is None:
            print_result(result, net)

    return show


def _title(net: Net | Ensemble) -> str:
    names = names_of(net)
    return names[0] if len(names) == 1 else f"mean of {len(names)} nets ({', '.join(names)})"


def _views(net: Net | Ensemble) -> str:
    return "ten views averaged" if net.nets[0].views == "ten" else "central view"  # the same for bundled nets


def _json_row(result: Result, net: Net | Ensemble) -> dict:
    row = {"error": result.error} if result.error is not None else labels_row(net, result.labels)
    return {"photo": result.photo.name} | row


def _print_line(result: Result, net: Net | Ensemble) -> None:
    guesses = ", ".join(f"{net.classes[label.index].short} {label.probability:.1%}" for label in result.labels)
    say(f"{result.photo.name}: {guesses}")


def _print_table(result: Result, net: Net | Ensemble) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading, style in (("label", "bold"), ("WordNet id", "dim"), ("", "cyan"), ("probability", "")):
        table.add_column(heading, style=style, justify="right" if heading == "probability" else "left")
    for label in result.labels:
        bar = "█" * round(label.probability * BAR_WIDTH) or "▏"
        name = net.classes[label.index].short
        table.add_row(styled(name), styled(label.wnid), bar.ljust(BAR_WIDTH), f"{label.probability:.1%}")
    out = console()
    out.print(styled(result.photo.name, "italic"), soft_wrap=True)
    out.print(table)
    out.print(styled(f"{_title(net)}, {_views(net)}, {backends(net)}", "dim"), soft_wrap=True)


def _suggest_larger_net(net: Net | Ensemble) -> None:
    """Print one line on stderr about a net that knows more classes, unless it has been pulled."""
    with suppress(Exception):  # the labels are printed: a damaged registry or cache must not make the command fail
        from alexnet_infer.presets import variant
        from alexnet_infer.published.cache import cached
        from alexnet_infer.published.registry import registry

        larger = registry()[LARGER_NET]
        classes = variant(larger.preset).classes
        if cached(larger) is None and classes > len(net.classes):
            subject = "This net knows" if len(net.nets) == 1 else "These nets know"
            advice = f"For a net that knows {classes:,}: alexnet-infer pull {larger.name}"
            tell(f"{subject} {len(net.classes):,} classes. {advice}")


def _with_progress(items: Iterator[_Item], total: int) -> Iterator[_Item]:
    with counting("classifying", total, "photos") as advance:
        for item in items:
            yield item
            advance(1)
