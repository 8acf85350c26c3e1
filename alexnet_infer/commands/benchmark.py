"""`alexnet-infer benchmark`: how fast nets run on this machine, as a table, JSON or a plot."""

from __future__ import annotations

import dataclasses
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

from alexnet_infer.benchmark.measure import Benchmark, BenchmarkRequest, Measurement, measure, subjects, turns
from alexnet_infer.errors import UsageError
from alexnet_infer.files import write_atomically, writing
from alexnet_infer.output import console, say_json, styled, tell
from alexnet_infer.packages import missing_package
from alexnet_infer.progress import counting


def run(request: BenchmarkRequest, *, as_json: bool = False, plot: Path | None = None) -> None:
    """Measure, print a table or one JSON object, and write a plot to the PNG file `plot`.

    A model that one of several runtimes can't run is reported on stderr.

    Before measuring, raises UsageError if `plot` is not a valid name for a PNG file, BackendError if matplotlib is
    missing, and the errors of `subjects`. After printing the results, raises UsageError if `plot` can't be written.
    """
    if plot is not None:
        _check_plot(plot)
    result = measured(request)
    if as_json:
        say_json(result.to_json(), indent=1)
    else:
        _print_table(result)
    if plot is not None:
        with writing(f"--plot {plot}", "choose another file"):
            write_atomically(plot, picture(result))


def measured(request: BenchmarkRequest) -> Benchmark:
    """Measure with a progress bar, and name what was left out on stderr. Raises the errors of `subjects`."""
    nets, skipped = subjects(request)
    for line in skipped:
        tell(f"left out: {line}")
    with counting("measuring", turns(nets, request.batches), "turns") as advance:
        result = measure(nets, request.batches, seconds=request.seconds, on_turn=lambda: advance(1))
    for subject in nets:
        subject.net.check_unchanged()
    return dataclasses.replace(result, skipped=tuple(skipped))


def _check_plot(plot: Path) -> None:
    if plot.suffix.lower() != ".png":
        raise UsageError(f"--plot {plot}: expected a file name ending in .png")
    if not plot.parent.is_dir():
        raise UsageError(f"--plot {plot}: the folder {plot.parent} does not exist; create it first")
    if plot.is_dir():
        raise UsageError(f"--plot {plot}: is a folder; expected a file name")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise missing_package(error, "--plot") from None


def _print_table(result: Benchmark) -> None:
    """Print a line with the net and its runtime, then the net's rows, so that the table fits a narrow terminal."""
    out = console()
    first = result.rows[0]
    header = ["batch", "p50 ms", "p90 ms", "p99 ms", f"{first.subject.unit}/s", "ratio", "x floor"]
    columns = zip(header, *(_cells(row, first) for row in result.rows), strict=True)
    widths = [max(10, *(len(cell) + 2 for cell in column)) for column in columns]
    out.print(styled(_line(header, widths), "dim"), soft_wrap=True)
    for rows in _by_subject(result.rows):
        out.print(styled(rows[0].subject.title), soft_wrap=True)
        for row in rows:
            out.print(styled(_line(_cells(row, first), widths)), soft_wrap=True)
    for line in _footer(result):
        out.print(styled(line, "dim"))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _cells(row: Measurement, first: Measurement) -> list[str]:
    timing = row.timing
    return [
        f"{row.batch}",
        *(f"{seconds * 1e3:.2f}" for seconds in (timing.p50, timing.p90, timing.p99)),
        f"{row.per_second:,.1f}",
        f"{row.per_second / first.per_second:.2f}",
        "-" if row.floor is None else f"{timing.p50 / row.floor:.2f}",
    ]


def _footer(result: Benchmark) -> list[str]:
    unit = result.rows[0].subject.unit
    detail = "including cutting the views" if unit == "images" else "with the mean already subtracted"
    lines = [
        f"batch: {unit} per call, {detail}.",
        "ms: time per call, until the results are in the CPU's memory.",
        f"ratio: {unit}/s relative to the first row.",
    ]
    if (machine := result.machine) is not None:
        lines.append(
            "x floor: p50 relative to the least possible time in float32, which is the larger of two times: the "
            f"multiply-adds at {machine.flops / 1e9:.0f} GFLOP/s ({machine.flops_of}), and reading the weights at "
            f"{machine.bandwidth / 1e9:.1f} GB/s ({machine.bandwidth_of}). These are the highest rates of this run. "
            "int8 multiplies faster and has no floor here."
        )
    return lines


def picture(result: Benchmark) -> bytes:
    """Return a PNG: images or patches per second by batch size, one line per net and runtime, with dashed floors."""
    import numpy as np
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    png = io.BytesIO()
    with style.context("default"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the font may lack a letter of a file name
        figure = Figure(figsize=(9, 6), dpi=150, layout="constrained")
        axes = figure.subplots()
        for number, rows in enumerate(_by_subject(result.rows)):
            batches = [row.batch for row in rows]
            name = rows[0].subject.title.replace("$", r"\$")
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
        axes.set_xlabel("batch size")
        axes.set_title(f"{result.rows[0].subject.unit} per second (dashed: the machine's limit in float32)", loc="left")
        axes.grid(color="0.9")
        figure.legend(loc="outside lower left", frameon=False, fontsize="small")
        FigureCanvasAgg(figure).print_png(png)
    return png.getvalue()


def _by_subject(rows: tuple[Measurement, ...]) -> list[list[Measurement]]:
    """The rows of each subject, in the order of their batch sizes."""
    groups: dict[int, list[Measurement]] = {}
    for row in rows:
        groups.setdefault(id(row.subject), []).append(row)
    return [sorted(group, key=lambda row: row.batch) for group in groups.values()]
