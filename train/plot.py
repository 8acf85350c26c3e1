"""Curves of one or more runs, from their logs, as a picture or as data. Does not need torch."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_infer.errors import UnreadableInputError, UsageError, printable
from alexnet_infer.files import write_atomically
from alexnet_infer.packages import missing_package
from train.log import LOG_NAME, position, read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 1800, 1200
"""Size of the picture in pixels."""

_DPI = 150
_SMOOTH = 0.5
"""The smoothed loss is the mean over this many epochs. In epochs, so that runs with epochs of different lengths can be
compared."""

_RATE_SPAN = 1e5
"""Ratio of the largest to the smallest learning rate that is drawn. Without a limit, the last steps of a cycle, which
are close to 0, would compress the rest."""

STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "grid.color": "0.9",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}
"""Changes to matplotlib's default style, for all pictures of the trainer."""


def curves(run: Path) -> dict[str, Any]:
    """Return what a run has logged so far, as lists for JSON. `run` is its folder or its log.

    `train` has, for each window of steps: its end as `epoch` (2.5 is the middle of the third), `loss` and `top1_error`
    (0..1), both also `_smoothed` (the mean over half an epoch around it), `lr`, `images_per_second`, `grad_norm` (mean)
    and `grad_norm_max`.
    `validation` has, for each epoch: `epoch`, `top1_error` and `top5_error` (0..1), and `seconds` spent in training. A
    figure that was not finite or not measured is None.

    Raises UnreadableInputError if there is no log, if it can't be read, or if it has no figures yet.
    """
    records = sorted(read_log(run), key=position)
    starts, steps, epochs = ([r for r in records if r["event"] == event] for event in ("start", "step", "epoch"))
    if not steps and not epochs:
        raise UnreadableInputError(f"{run}: nothing has been logged yet; expected a run with at least one logged step")
    if not starts:
        raise UnreadableInputError(f"{run}: the log has no start event; expected a log that python -m train wrote")
    per_epoch = starts[-1]["steps_per_epoch"]
    train: dict[str, list[Any]] = {"epoch": [r["epoch"] + r["step"] / per_epoch for r in steps]}
    for name in ("loss", "top1_error"):
        train[name] = [r[name] for r in steps]
        train[f"{name}_smoothed"] = _smoothed(train["epoch"], train[name], [r["steps"] for r in steps])
    for name in ("lr", "images_per_second", "grad_norm", "grad_norm_max"):
        train[name] = [r[name] for r in steps]
    validation = {name: [r[name] for r in epochs] for name in ("epoch", "top1_error", "top5_error", "seconds")}
    return {"run": _folder(run).name, "train": train, "validation": validation}


def plot(runs: Sequence[Path], out: Path) -> None:
    """Draw the curves of `runs`, each a folder or a log, into one PNG of WIDTH x HEIGHT.

    A run that is given twice is drawn once. Raises UnreadableInputError as `curves` does, UsageError if `out` does not
    end in .png or can't be written, and BackendError if matplotlib is missing.
    """
    if out.suffix.lower() != ".png":
        raise UsageError(f"{out}: expected a file name that ends in .png")
    runs = list({_folder(run): run for run in runs}.values())
    if not runs:
        raise UsageError("no run to draw: expected the folder of at least one run")
    picture = _picture(dict(zip(distinct_names(runs), [curves(run) for run in runs], strict=True)))
    try:
        write_atomically(out, picture)
    except OSError as error:
        raise UsageError(f"{out}: can't be written ({error.strerror or error}); choose another file") from None


def distinct_names(runs: Sequence[Path]) -> list[str]:
    """Return a name for each run: its folder, with as many parent folders as make it unique."""
    folders = [_folder(run).parts for run in runs]

    def name(parts: tuple[str, ...]) -> str:
        ends = range(1, len(parts) + 1)
        length = next((n for n in ends if [f[-n:] for f in folders].count(parts[-n:]) == 1), len(parts))
        return Path(*parts[-length:]).as_posix()

    return [name(parts) for parts in folders]


def _folder(run: Path) -> Path:
    """Return the absolute path that names a run: its folder, or its log if that is not named log.jsonl."""
    path = Path(os.path.abspath(run))  # noqa: PTH100 (`resolve` would replace the name of a link)
    return path.parent if path.name == LOG_NAME and not run.is_dir() else path


def _smoothed(at: list[float], values: list[float | None], weights: list[int]) -> list[float | None]:
    """Return, for each position in `at`, the weighted mean of the values within half of `_SMOOTH` of it.

    The positions must be in ascending order. None where there is no value.

    The sums of 1, 2, 4, ... values from each position on are added up to those of all lengths. Differences of running
    totals would lose small values after a large one.
    """
    known = [(x, v, w) for x, v, w in zip(at, values, weights, strict=True) if v is not None]
    xs, vs, ws = np.array(known, float).reshape(-1, 3).T
    ws = ws / ws.max(initial=1)
    first = np.searchsorted(xs, np.array(at) - _SMOOTH / 2, "left")
    count = np.searchsorted(xs, np.array(at) + _SMOOTH / 2, "right") - first
    means, sums, length = np.zeros((len(at), 2)), np.stack([vs * ws, ws], axis=1), 1
    while len(sums):
        (chosen,) = np.nonzero(count & length)
        means[chosen] += sums[first[chosen]]
        first[chosen] += length
        sums, length = sums[:-length] + sums[length:], 2 * length
    return [float(value / weight) if weight else None for value, weight in means]


def _picture(tables: dict[str, dict[str, Any]]) -> bytes:
    """Return the PNG of tables from `curves`; the keys are the names of the runs."""
    try:
        import matplotlib
        from matplotlib import style
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_package(error, "plot") from None
    few = matplotlib.colormaps["tab10"].colors
    colors = few if len(tables) <= len(few) else matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(tables)))
    png = io.BytesIO()
    with style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a run's name may have characters that the font lacks
        figure = Figure(figsize=(WIDTH / _DPI, HEIGHT / _DPI), dpi=_DPI, layout="constrained")
        panels = figure.subplot_mosaic([["loss"] * 3 + ["error"] * 3, ["lr"] * 2 + ["norm"] * 2 + ["rate"] * 2])
        for table, color in zip(tables.values(), colors, strict=False):
            _draw(panels, table, color)
        _label(panels)
        _scale(panels)
        _name(figure, list(tables), colors)
        FigureCanvasAgg(figure).print_png(png)
    return png.getvalue()


def _draw(panels: dict[str, Axes], table: dict[str, Any], color: Any) -> None:
    def line(panel: str, x: list[float], y: list[float | None], percent: bool = False, **look: Any) -> None:
        values = np.array(y, float) * (100 if percent else 1)
        marker = "." if len(x) <= 40 else None  # without markers, a single point would not be visible
        panels[panel].plot(x, values, **({"color": color, "marker": marker} | look))

    train, validation = table["train"], table["validation"]
    x, faint = train["epoch"], {"alpha": 0.3, "linewidth": 0.7, "marker": None}
    line("loss", x, train["loss"], **faint)
    line("loss", x, train["loss_smoothed"])
    line("error", x, train["top1_error_smoothed"], percent=True, linestyle=":")
    line("error", validation["epoch"], validation["top1_error"], percent=True)
    line("error", validation["epoch"], validation["top5_error"], percent=True, linestyle="--")
    line("lr", x, train["lr"])
    line("norm", x, train["grad_norm_max"], **faint)
    line("norm", x, train["grad_norm"])
    line("rate", x, train["images_per_second"])


def _label(panels: dict[str, Axes]) -> None:
    from matplotlib.lines import Line2D

    titles = {
        "loss": "Training loss (bold: mean over half an epoch)",
        "error": "Error, %",
        "lr": "Learning rate",
        "norm": "Gradient norm (bold: mean, faint: largest)",
        "rate": "Training images/s",
    }
    for name, title in titles.items():
        panels[name].set_title(title, loc="left")
        panels[name].set_xlabel("epoch")
    drawn = {line.get_linestyle() for line in panels["error"].lines if np.isfinite(line.get_ydata()).any()}
    kinds = {"-": "top-1, validation", "--": "top-5, validation", ":": "top-1, training"}
    shown = {kind: name for kind, name in kinds.items() if kind in drawn}
    if shown:
        handles = [Line2D([], [], color="0.3", linestyle=kind) for kind in shown]
        panels["error"].legend(handles, [*shown.values()])
    else:
        panels["error"].set_yticks([])
        panels["error"].text(0.5, 0.5, "no epoch finished yet", ha="center", transform=panels["error"].transAxes)


def _scale(panels: dict[str, Axes]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    last = max(x for panel in panels.values() for line in panel.lines for x in line.get_xdata())
    for panel in panels.values():
        panel.set_xlim(0, 1.02 * last or 1)
    logarithmic = [panels[n] for n in ("lr", "norm") if any((line.get_ydata() > 0).any() for line in panels[n].lines)]
    for panel in logarithmic:
        panel.set_yscale("log")
    if panels["norm"] in logarithmic:
        ticks = {"major_locator": LogLocator(subs=(1, 2, 5)), "major_formatter": "{x:g}"}
        panels["norm"].yaxis.set(**ticks, minor_locator=NullLocator())
    if panels["lr"] in logarithmic:
        lowest, highest = panels["lr"].get_ylim()
        panels["lr"].set_ylim(bottom=max(lowest, highest / _RATE_SPAN))
    panels["rate"].update_datalim([(0, 0)], updatex=False)
    panels["rate"].autoscale_view(scalex=False)
    panels["rate"].set_ylim(bottom=0)


def _name(figure: Figure, names: list[str], colors: Any) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=color) for _, color in zip(names, colors, strict=False)]
    columns = max(1, min(len(names), 150 // (max(map(len, names)) + 8)))
    legend = figure.legend(handles, ["run"] * len(names), loc="outside upper center", ncols=columns)
    for text, name in zip(legend.get_texts(), names, strict=True):  # labels would treat _ and $ specially
        text.set(text=printable(name), parse_math=False)
