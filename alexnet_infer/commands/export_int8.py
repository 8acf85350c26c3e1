"""`alexnet-infer export --precision int8`: the calibration that a user asks for, and the layers that stay in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from alexnet_infer.errors import UsageError
from alexnet_infer.export.calibration import Calibration
from alexnet_infer.export.keep_float import FloatLayers, Trial
from alexnet_infer.max_drop import METRICS, Metric, parse_max_drop
from alexnet_infer.output import console, say, styled

AUTO = "auto"
MAX_DROP: Mapping[Metric, float] = {"top1": 0.5}
"""The drop, in points, that `--keep-float auto` allows by default."""


def make_calibration(
    *,
    calibrate: Path | None,
    images: int | None,
    method: str | None,
    keep_float: Sequence[str],
    max_drop: Sequence[str],
) -> Calibration | None:
    """Return the calibration for these command-line options, or None without `calibrate`.

    Raises UsageError if the options are invalid, or need an option that is missing.
    """
    if calibrate is None:
        options = {
            "--calibration-images": images,
            "--calibration-method": method,
            "--keep-float": keep_float[0] if keep_float else None,
        }
        refuse(options, "needs --precision int8 and --calibrate PATH")
        return None
    auto = AUTO in keep_float
    if auto and len(keep_float) > 1:
        other = next((name for name in keep_float if name != AUTO), AUTO)
        raise UsageError(f"--keep-float auto: chooses all layers itself; leave out --keep-float {other}")
    chosen = {"images": images, "method": method}
    return Calibration(
        source=calibrate,
        keep_float=() if auto else tuple(keep_float),
        max_drop=(parse_max_drop(max_drop) or MAX_DROP) if auto else None,
        **{name: value for name, value in chosen.items() if value is not None},
    )


def refuse(options: Mapping[str, object], reason: str) -> None:
    """Raise UsageError if one of `options` was given."""
    for option, value in options.items():
        if value is not None:
            raise UsageError(f"{option} {value}: {reason}")


def print_float_layers(chosen: FloatLayers) -> None:
    """Print each layer's share in the error, and with how many layers in float the drop is within the limits."""
    from rich.table import Table

    out = console()
    table = Table(box=None, pad_edge=False)
    table.add_column("layer")
    table.add_column("share of the error", justify="right", style="bold")
    table.add_column("")
    for layer in chosen.layers:
        table.add_row(styled(layer.layer), f"{layer.share:.1%}", "float" if layer.kept else "int8")
    out.print(table)
    out.print()
    table = Table(box=None, pad_edge=False)
    table.add_column("in float", justify="right")
    for metric in chosen.limits:
        table.add_column(
            f"{METRICS[metric]} {'error' if chosen.labelled else 'changed'}, points", justify="right", style="bold"
        )
        table.add_column("allowed", justify="right")
    for trial in chosen.trials:
        table.add_row(str(trial.kept), *_cells(trial, chosen))
    out.print(table)
    for line in _notes(chosen):
        out.print(styled(line, "dim"), soft_wrap=True)
    say()


def _cells(trial: Trial, chosen: FloatLayers) -> list[str]:
    drops = {"top1": trial.top1, "top5": trial.top5}
    sign = "+" if chosen.labelled else ""
    return [cell for metric, limit in chosen.limits.items() for cell in (f"{drops[metric]:{sign}.2f}", f"{limit:g}")]


def _notes(chosen: FloatLayers) -> list[str]:
    """Return what a reader should know before trusting the choice."""
    kept = chosen.kept
    lines = [f"{', '.join(kept)} stay{'s' if len(kept) == 1 else ''} in float." if kept else "No layer stays in float."]
    if not chosen.labelled:
        lines[0] += " Without labels, each changed guess counts as an error: the error rises by at most as much."
    which = f"the {chosen.images:,} calibration images"
    if chosen.judged < chosen.images:
        which = f"{chosen.judged:,} of {which}, the others being of classes that the net does not know"
    lines.append(
        f"Measured on {which}. One image is {100 / chosen.judged:.2g} points: "
        "more images (--calibration-images) give a finer choice. Verify the file on other images."
    )
    return lines
