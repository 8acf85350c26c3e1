"""The pictures of the page, as SVG: the ablations as points with intervals, and the curves of the runs."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from alexnet_infer.packages import missing_package
from train.plot import STYLE
from train.reproduction.plan import Plan, Row, Training
from train.reproduction.record import Curve
from train.reproduction.rows import Results, RowResult
from train.reproduction.speed import TARGET, training_errors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "alexnet-infer",  # the same file each time
}


def ablations(results: Sequence[RowResult]) -> bytes | None:
    """Draw the top-1 figures of all rows as points with intervals, and the paper's beside them.

    Returns an SVG file, or None without a figure. Raises BackendError if matplotlib is missing.
    """
    shown = [result for result in results if "top1" in result.figures]
    if not shown:
        return None
    return _svg(9, 1.2 + 0.45 * len(shown), partial(_draw_ablations, shown=shown))


def _draw_ablations(figure: Figure, shown: Sequence[RowResult]) -> None:
    axes = figure.subplots()
    for y, result in enumerate(shown):
        interval = result.figures["top1"]
        value, low, high = (100 * x for x in (interval.value, interval.low, interval.high))
        axes.errorbar(value, y, xerr=[[value - low], [high - value]], fmt="o", color="#1f4e9c", capsize=3)
        if "top1" in result.row.paper:
            axes.plot(result.row.paper["top1"], y, marker="D", color="#c2410c", linestyle="none")
    axes.axvline(0, color="0.4", linewidth=1)
    axes.set_yticks(range(len(shown)), [f"{result.row.title} ({result.scale.title})" for result in shown])
    axes.invert_yaxis()
    axes.set_xlabel("points of top-1 error gained, ten views")
    axes.plot([], [], "o", color="#1f4e9c", label="measured, 95 % interval")
    axes.plot([], [], marker="D", color="#c2410c", linestyle="none", label="paper")
    figure.legend(loc="outside upper right", ncols=2)


def speed(plan: Plan, results: Results, row: Row, scale: str) -> bytes | None:
    """Draw the training error of both runs of a row by updates, as the paper's Figure 1: each seed, and TARGET.

    Returns an SVG file, or None without a curve. Raises BackendError if matplotlib is missing.
    """
    seeds = plan.seeds(plan.scales[scale])
    known = {}
    for run in filter(None, (row.net, row.against)):
        found = _curves(results, [Training(scale, run, seed) for seed in seeds])
        known[plan.runs[run].title] = [curve for curve in found if training_errors(curve)]
    if not all(known.values()):
        return None
    return _svg(7, 4, partial(_draw_speed, runs=known))


def _draw_speed(figure: Figure, runs: Mapping[str, Sequence[Curve]]) -> None:
    axes = figure.subplots()
    for (title, of_run), style in zip(runs.items(), ("-", "--"), strict=True):
        for number, curve in enumerate(of_run):
            updates, errors = zip(*training_errors(curve), strict=True)
            label = None if number else title
            axes.plot([*updates], [100 * error for error in errors], style, color="black", linewidth=1, label=label)
    axes.axhline(100 * TARGET, color="0.6", linewidth=1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("updates")
    axes.set_title("Training error, %, of each seed", loc="left")
    axes.legend()


def curves(plan: Plan, results: Results, scale: str) -> bytes | None:
    """Draw the mean curves of all runs of a scale: training loss, and top-1 validation error.

    Returns an SVG file, or None without a curve. Raises BackendError if matplotlib is missing.
    """
    seeds, runs = plan.seeds(plan.scales[scale]), plan.possible_runs(plan.scales[scale])
    known = {run: _curves(results, [Training(scale, run, seed) for seed in seeds]) for run in runs}
    known = {run: of_run for run, of_run in known.items() if of_run}
    if not known:
        return None
    return _svg(9, 5, partial(_draw_curves, runs={plan.runs[run].title: of_run for run, of_run in known.items()}))


def _draw_curves(figure: Figure, runs: Mapping[str, Sequence[Curve]]) -> None:
    """Draw the curves of runs, given with their titles. The first is the paper's net."""
    loss, error = figure.subplots(1, 2)
    for number, (title, of_run) in enumerate(runs.items()):
        line = _mean([curve.top1_error for curve in of_run])
        width = 1.2 if number else 2.5
        (drawn,) = error.plot(range(1, len(line) + 1), [100 * x for x in line], marker=".", linewidth=width)
        line = _mean([curve.loss for curve in of_run])
        epochs = [(i + 0.5) * len(of_run[0].top1_error) / len(line) for i in range(len(line))]
        loss.plot(epochs, line, color=drawn.get_color(), linewidth=width, label=title)
    loss.set_title("Training loss, with each run's regularisation", loc="left")
    error.set_title("Top-1 validation error, central view, %", loc="left")
    for axes in (loss, error):
        axes.set_xlabel("epoch")
    figure.legend(loc="outside lower center", ncols=2)


def _curves(results: Results, nets: Sequence[Training]) -> list[Curve]:
    found = (results.result(net) for net in nets)
    return [result.curve for result in found if result is not None and result.curve is not None]


def _mean(lines: Sequence[Sequence[float]]) -> list[float]:
    return [sum(values) / len(values) for values in zip(*lines, strict=False)]


def _svg(width: float, height: float, draw: Callable[[Figure], None]) -> bytes:
    try:
        from matplotlib import style
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_package(error, "figures") from None
    data = io.BytesIO()
    with style.context(["default", STYLE, _SVG]):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        FigureCanvasSVG(figure).print_svg(data, metadata={"Date": None})
    return data.getvalue()
