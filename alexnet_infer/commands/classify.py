"""`alexnet-infer classify`: photos in, labels out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from alexnet_infer.backends import Device, Runtime
from alexnet_infer.backends.opening import ENGINE_SUFFIXES
from alexnet_infer.photos import expand
from alexnet_infer.predict import Net, Result, load
from alexnet_infer.preprocess import Views

BAR_WIDTH = 24

FEW = 32
"""Photos below which the runtime that starts fastest is taken: OpenVINO takes 0.2 s longer to start."""


def run(
    photos: Sequence[str],
    *,
    model: Path | None,
    top: int | None,
    views: Views | None,
    device: Device,
    runtime: Runtime,
    trust_engine: bool,
    as_json: bool,
) -> int:
    """Prints the labels of `photos`; returns the exit code: 0, 1 when some could not be read, 3 when none could."""
    entries = list(expand(photos))
    is_engine = model is not None and model.suffix in ENGINE_SUFFIXES
    if runtime == "auto" and len(entries) < FEW and not is_engine and find_spec("onnxruntime"):
        runtime = "onnxruntime"
    net = load(model, device=device, views=views, backend=runtime, trust_engine=trust_engine)
    results = net.classify_all(entries, top or min(5, len(net.manifest.classes)))
    if len(entries) > 1:
        results = _with_progress(results, len(entries))
    failed = 0
    for result in results:
        if result.error is not None:
            failed += 1
            print(f"error: {result.error}", file=sys.stderr, flush=True)
        if as_json:
            print(json.dumps(_json_row(result, net)), flush=True)
        elif result.error is None:
            (_print_table if len(entries) == 1 else _print_line)(result, net)
    return 0 if not failed else 3 if failed == len(entries) else 1


def _json_row(result: Result, net: Net) -> dict:
    row: dict = {"photo": result.photo.name}
    if result.error is not None:
        return row | {"error": result.error}
    labels = [asdict(label) for label in result.labels]
    return row | {"labels": labels, "net": net.manifest.name, "views": net.views, "backend": net.backend.description}


def _print_line(result: Result, net: Net) -> None:
    classes = net.manifest.classes
    guesses = ", ".join(f"{classes[label.index].short} {label.probability:.1%}" for label in result.labels)
    print(f"{result.photo.printable_name}: {guesses}", flush=True)


def _print_table(result: Result, net: Net) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(result.photo.printable_name), title_justify="left", box=None, pad_edge=False)
    for heading, style in (("label", "bold"), ("WordNet id", "dim"), ("", "cyan"), ("probability", "")):
        table.add_column(heading, style=style, justify="right" if heading == "probability" else "left")
    for label in result.labels:
        bar = "█" * round(label.probability * BAR_WIDTH) or "▏"
        name = net.manifest.classes[label.index].short
        table.add_row(Text(name), Text(label.wnid), bar.ljust(BAR_WIDTH), f"{label.probability:.1%}")
    views = "ten views averaged" if net.views == "ten" else "central view"
    console = Console()
    console.print(table)
    console.print(Text(f"{net.manifest.name}, {views}, {net.backend.description}", style="dim"), soft_wrap=True)


def _with_progress(results: Iterator[Result], total: int) -> Iterator[Result]:
    """A progress bar with ETA on stderr, when that is a terminal."""
    if not sys.stderr.isatty():
        yield from results
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), "photos", TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(results, total=total)
