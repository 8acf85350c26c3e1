"""`alexnet-infer benchmark`: how fast nets run here, as a table, as JSON, and as a picture."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from alexnet_infer.benchmark.run import Benchmark, Request, Row, Subject, subjects, turns
from alexnet_infer.benchmark.run import run as measure
from alexnet_infer.errors import BackendError, UsageError
from alexnet_infer.files import write_atomically
from alexnet_infer.progress import counting


def run(request: Request, *, as_json: bool = False, plot: Path | None = None) -> None:
    """Measures, prints a table or one JSON object, and draws the picture `plot`. A model that one of several runtimes
    can't run is named on stderr.

    Raises, before anything is measured, UsageError when `plot` is no name for a PNG, BackendError when matplotlib is
    missing, and the errors of `subjects`; after the results, UsageError when `plot` can't be written.
    """
    if plot is not None:
        _check_plot(plot)
    nets, skipped = subjects(request)
    for line in skipped:
        print(f"left out: {line}", file=sys.stderr)
    with counting("measuring", turns(nets, request.batches), "turns") as advance:
        result = measure(nets, request.batches, seconds=request.seconds, on_turn=lambda: advance(1))
    result = dataclasses.replace(result, skipped=tuple(skipped))
    if as_json:
        print(json.dumps(result.to_json(), indent=1))
    else:
        _print_table(result)
    if plot is not None:
        try:
            write_atomically(plot, picture(result))
        except OSError as error:
            raise UsageError(f"{plot}: can't be written ({error.strerror or error}); choose another file") from None


def _check_plot(plot: Path) -> None:
    if plot.suffix.lower() != ".png":
        raise UsageError(f"--plot {plot}: expected the name of a picture, ending in .png")
    if not plot.parent.is_dir():
        raise UsageError(f"--plot {plot}: there is no folder {plot.parent}; make it first")
    if plot.is_dir():
        raise UsageError(f"--plot {plot}: is a folder; expected a file's name")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise BackendError('--plot needs matplotlib: pip install "alexnet-infer[plot]"') from None


def _print_table(result: Benchmark) -> None:
    """A line that names the net and what runs it, then its rows: that fits a narrow terminal, too."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    columns = ("batch", "p50 ms", "p90 ms", "p99 ms", f"{result.rows[0].subject.unit}/s", "ratio", "x floor")
    console.print(Text(_line(columns), style="dim"), soft_wrap=True)
    for rows in _by_subject(result.rows):
        console.print(Text(_title(rows[0].subject)), soft_wrap=True)
        for row in rows:
            console.print(Text(_line(_cells(row, result.rows[0]))), soft_wrap=True)
    console.print(Text(_footer(result), style="dim"))


def _line(cells: Sequence[str]) -> str:
    return "".join(f"{cell:>10}" for cell in cells)


def _title(subject: Subject) -> str:
    """What was measured; the precision, where it isn't float32, is part of the backend's description."""
    return f"{subject.model}, {subject.net.backend.description}, views {subject.views}"


def _cells(row: Row, first: Row) -> list[str]:
    timing = row.timing
    return [
        f"{row.batch}",
        *(f"{seconds * 1e3:.2f}" for seconds in (timing.p50, timing.p90, timing.p99)),
        f"{row.per_second:,.1f}",
        f"{row.per_second / first.per_second:.2f}",
        "-" if row.floor is None else f"{timing.p50 / row.floor:.2f}",
    ]


def _footer(result: Benchmark) -> str:
    unit = result.rows[0].subject.unit
    first = "with their views cut" if unit == "images" else "cut and centred beforehand"
    lines = [
        f"batch: {unit}, {first}; ms: a call, on the clock of the CPU, until the answer is in its memory; "
        f"ratio: {unit}/s to the first row's"
    ]
    if (machine := result.machine) is not None:
        lines.append(
            f"floor: the larger of multiply-adds at {machine.flops / 1e9:.0f} GFLOP/s, measured in a float32 matrix "
            f"product, and bytes of weights at {machine.bandwidth / 1e9:.1f} GB/s, measured reading a matrix; "
            "int8, which multiplies faster, may go below"
        )
    return "\n".join(lines)


def picture(result: Benchmark) -> bytes:
    """A PNG: images (or patches) a second by batch size, a line for each net in a runtime, and its floor dashed."""
    import numpy as np
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    png = io.BytesIO()
    with style.context("default"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a file's name in letters that the font lacks
        figure = Figure(figsize=(9, 6), dpi=150, layout="constrained")
        axes = figure.subplots()
        for number, rows in enumerate(_by_subject(result.rows)):
            batches = [row.batch for row in rows]
            name = _title(rows[0].subject).replace("$", r"\$")
            color = f"C{number % 10}"
            axes.plot(batches, [row.per_second for row in rows], "o-", color=color, label=name)
            floors = [np.nan if row.floor is None else row.batch / row.floor for row in rows]
            axes.plot(batches, floors, "--", color=color, linewidth=0.8)
        batches = sorted({row.batch for row in result.rows})
        axes.set_xscale("log")
        axes.set_xticks(batches, map(str, batches), minor=False)
        axes.set_xticks([], minor=True)
        axes.set_yscale("log")
        axes.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_locator=NullLocator())
        axes.set_xlabel("batch")
        axes.set_title(f"{result.rows[0].subject.unit} a second (dashed: the machine's limit in float32)", loc="left")
        axes.grid(color="0.9")
        figure.legend(loc="outside lower left", frameon=False, fontsize="small")
        FigureCanvasAgg(figure).print_png(png)
    return png.getvalue()


def _by_subject(rows: tuple[Row, ...]) -> list[list[Row]]:
    """The rows of each net in a runtime, by batch size."""
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(id(row.subject), []).append(row)
    return [sorted(group, key=lambda row: row.batch) for group in found.values()]
