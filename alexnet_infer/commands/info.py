"""`alexnet-infer info`: the layer table of a preset or a trained net."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_infer.architecture import LRN, Activation, Architecture, Conv, Dense, Dropout, MaxPool, Operation
from alexnet_infer.artifact import embedded_model
from alexnet_infer.backends.opening import describe
from alexnet_infer.errors import ModelFileError, UsageError, listed, meant, shown
from alexnet_infer.graph.info import ExportInfo
from alexnet_infer.kernels import Kernels
from alexnet_infer.manifest import Manifest, Provenance
from alexnet_infer.nets import UnknownNetError, find_net
from alexnet_infer.output import console, say, say_json, styled
from alexnet_infer.preprocess import TORCHVISION, Rescaling
from alexnet_infer.presets import PRESETS, preset

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """A preset, or what is known of the net in a file."""

    architecture: Architecture
    manifest: Manifest | None = None
    exported: ExportInfo | None = None
    colour_shares: tuple[float, ...] | None = None


def run(net: str, *, as_json: bool) -> None:
    """Print the layers of a preset, or the layers and origin of the net in a file.

    `net` is a preset, a net's name or a path; empty for the default bundled net. Raises UsageError if `net` is none of
    these, and ModelFileError if the file can't be read.
    """
    shown = _Shown(architecture=preset(net)) if net in PRESETS else _described(net)
    if as_json:
        say_json(_json(shown))
    else:
        _print(shown)
        if shown.manifest is None and (trained := _trained_net(net)):
            say()
            say("This is the preset. For the trained net of that name:")
            say(f"alexnet-infer info {trained}")


def _trained_net(name: str) -> Path | None:
    """Return the file of the trained net of this name, or None if no such net is on this machine."""
    try:
        path = find_net(name)
    except ModelFileError:
        return None
    return path if path.suffix else None


def _described(net: str) -> _Shown:
    try:
        path = find_net(net) if net else embedded_model()
    except UnknownNetError:
        from alexnet_infer.published.registry import registry

        raise UsageError(
            f"{shown(net)} is neither a file nor a preset ({', '.join(PRESETS)}) nor a net that `alexnet-infer models` "
            f"lists{meant(net, [*PRESETS, *registry()])}"
        ) from None
    try:
        manifest, exported = describe(path)
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or error}") from None
    return _Shown(
        architecture=manifest.architecture,
        manifest=manifest,
        exported=exported,
        colour_shares=_colour_shares(path) if exported is None else None,
    )


def _colour_shares(path: Path) -> tuple[float, ...] | None:
    """Return the share of colour in the first layer's kernels of each column, or None if they aren't of colours."""
    try:
        return Kernels.read(path).colour_shares()
    except UsageError:
        return None


def _json(shown: _Shown) -> dict:
    architecture, manifest, exported = shown.architecture, shown.manifest, shown.exported
    layers = [
        {
            **{key: value for key, value in spec.items() if key != "channels"},
            "output": list(step.output),
            "parameters": step.parameters,
            "multiply_adds": step.multiply_adds,
        }
        for spec, step in zip(architecture.to_json()["operations"], architecture.steps, strict=True)
    ]
    return {
        "name": architecture.name,
        "patch": architecture.patch,
        "parameters": architecture.parameters,
        "multiply_adds": architecture.multiply_adds,
        "layers": layers,
        "manifest": json.loads(manifest.to_json()) if manifest else None,
        "export": json.loads(exported.to_json()) if exported else None,
        "colour_share": list(shown.colour_shares) if shown.colour_shares else None,
    }


def _print(shown: _Shown) -> None:
    from rich.table import Table

    architecture = shown.architecture
    patch = architecture.patch
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    table.add_column("operation")  # wraps in a narrow terminal, so that no figure is cut
    for heading in ("output", "parameters", "multiply-adds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for step in architecture.steps:
        o = step.operation
        output = "x".join(map(str, (*step.output[1:], step.output[0])))
        counts = [f"{n:,}" if n else "" for n in (step.parameters, step.multiply_adds)]
        style = "bold" if isinstance(o, Conv | Dense) else "dim"
        table.add_row(styled(o.name), _describe(o), output, *counts, style=style)
    table.add_section()
    table.add_row("total", "", "", f"{architecture.parameters:,}", f"{architecture.multiply_adds:,}")
    out = console()
    title = f"{architecture.name}: {patch} x {patch} x {architecture.channels} patches"
    out.print(styled(title, "italic"), soft_wrap=True)
    out.print(table)
    if shown.manifest is not None:
        out.print()
        out.print(_provenance(shown.manifest, shown))


def _describe(o: Operation) -> str:
    match o:
        case Conv():
            parts = [f"conv {o.size}x{o.size}"]
            parts += [f"stride {o.stride}"] if o.stride > 1 else []
            parts += [f"pad {o.pad}"] if o.pad else []
        case MaxPool():
            parts = [f"maxpool {o.size}x{o.size}", f"stride {o.stride}"]
        case LRN():
            parts = [f"lrn k={o.k:g} n={o.size} alpha={o.alpha:g} beta={o.beta:g}"]
        case Activation():
            parts = [o.kind]
        case Dropout():
            parts = [f"dropout {o.rate:g}"]
        case _:
            parts = [o.op]
    groups = getattr(o, "groups", 1)
    parts += [f"{groups} groups"] if groups > 1 else []
    return ", ".join(parts)


def _rescaling(rescaling: Rescaling) -> str:
    size, resample = rescaling.size, rescaling.resample
    if rescaling.fit == "stretch":
        return f"stretched to {size} x {size} ({resample})"
    rounding = ", rounded as in torchvision" if rescaling.fit == TORCHVISION else ""
    return f"shorter side to {size} ({resample}), central square{rounding}"


def _trained(origin: Provenance) -> str:
    when = f"{origin.date} " if origin.date else ""
    seed = "" if origin.seed is None else f", seed {origin.seed}"
    return f"{when}on {origin.data}{seed}"


def _provenance(manifest: Manifest, shown: _Shown) -> Table:
    """A table of two columns, whose second column wraps between words."""
    from rich.table import Table

    exported = shown.exported
    origin, preprocessing = manifest.provenance, manifest.preprocessing
    rows = [
        ("name", manifest.name),
        ("classes", str(len(manifest.classes))),
        (
            "preprocessing",
            f"{_rescaling(preprocessing.rescaling)}, {preprocessing.patch} x {preprocessing.patch} patches, "
            f"{preprocessing.channel_order} {preprocessing.value_range} minus the training mean",
        ),
        ("trained", f"{_trained(origin)}, recipe {origin.recipe.get('name', '?')}, {origin.software}"),
    ]
    for error in origin.errors:
        views = {"ten": "ten views", "center": "center view"}.get(error.views, error.views)
        rates = f"top-1 {error.top1 / error.images:.2%}, top-5 {error.top5 / error.images:.2%}"
        rows.append(("error", f"{rates} ({views}, {error.images:,} images, {error.data})"))
    if shown.colour_shares is not None:
        shares = [f"{100 * share:.1f} %" for share in shown.colour_shares]
        columns = [f"{share} in column {i}" for i, share in enumerate(shares, 1)] if len(shares) > 1 else shares
        rows.append((f"{manifest.architecture.operations[0].name} colour", ", ".join(columns)))
    if exported is not None:
        batch, kind = exported.batch, f" for {exported.int8_for}" if exported.int8_for else ""
        takes = f"squares, {exported.views} view(s)" if exported.takes_squares else "patches"
        rows.append(
            (
                "exported",
                f"{exported.precision}{kind}, {len(exported.members)} net(s), takes {takes}, LRN as {exported.lrn}, "
                f"batch {batch.min} to {batch.max}, best {batch.opt}, returns {listed(exported.outputs)}",
            )
        )
        if (record := exported.calibration) is not None:
            kept = listed(record.keep_float) if record.keep_float else "no layer"
            rows.append(("calibrated", f"on {len(record.images):,} images, {record.method}; in float: {kept}"))
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for heading, text in rows:
        table.add_row(styled(heading), styled(text))
    return table
