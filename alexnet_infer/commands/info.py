"""`alexnet-infer info`: the layer table of a preset or a trained net."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_infer.architecture import LRN, Activation, Architecture, Conv, Dense, Dropout, MaxPool, Operation
from alexnet_infer.artifact import embedded_model
from alexnet_infer.backends.opening import describe
from alexnet_infer.errors import ModelFileError, UsageError, meant, shown
from alexnet_infer.graph.info import ExportInfo
from alexnet_infer.manifest import Manifest, Provenance
from alexnet_infer.nets import UnknownNetError, find_net
from alexnet_infer.output import console, say, say_json, styled
from alexnet_infer.preprocess import TORCHVISION, Rescaling
from alexnet_infer.presets import PRESETS, preset

if TYPE_CHECKING:
    from rich.table import Table


def run(net: str, *, as_json: bool) -> None:
    """Print the layers of a preset, or the layers and origin of the net in a file.

    `net` is a preset, a net's name or a path; empty for the default bundled net. Raises UsageError if `net` is none of
    these, and ModelFileError if the file can't be read.
    """
    manifest, exported = (None, None) if net in PRESETS else _described(net)
    architecture = preset(net) if manifest is None else manifest.architecture
    if as_json:
        say_json(_json(architecture, manifest, exported))
    else:
        _print(architecture, manifest, exported)
        if manifest is None and (trained := _trained_net(net)):
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


def _described(net: str) -> tuple[Manifest, ExportInfo | None]:
    try:
        path = find_net(net) if net else embedded_model()
    except UnknownNetError:
        from alexnet_infer.published.registry import registry

        raise UsageError(
            f"{shown(net)} is neither a file nor a preset ({', '.join(PRESETS)}) nor a net that `alexnet-infer models` "
            f"lists{meant(net, [*PRESETS, *registry()])}"
        ) from None
    try:
        return describe(path)
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or error}") from None


def _json(architecture: Architecture, manifest: Manifest | None, exported: ExportInfo | None) -> dict:
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
    }


def _print(architecture: Architecture, manifest: Manifest | None, exported: ExportInfo | None) -> None:
    from rich.table import Table

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
    if manifest is not None:
        out.print()
        out.print(_provenance(manifest, exported))


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


def _provenance(manifest: Manifest, exported: ExportInfo | None) -> Table:
    """A table of two columns, whose second column wraps between words."""
    from rich.table import Table

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
    if exported is not None:
        batch, kind = exported.batch, f" for {exported.int8_for}" if exported.int8_for else ""
        takes = f"squares, {exported.views} view(s)" if exported.takes_squares else "patches"
        rows.append(
            (
                "exported",
                f"{exported.precision}{kind}, {len(exported.members)} net(s), takes {takes}, LRN as {exported.lrn}, "
                f"batch {batch.min} to {batch.max}, best {batch.opt}",
            )
        )
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for heading, text in rows:
        table.add_row(heading, styled(text))
    return table
