"""`alexnet-infer info`: the layer table of a preset or a trained net."""

from __future__ import annotations

import json
from pathlib import Path

from alexnet_infer.architecture import LRN, Activation, Architecture, Conv, Dense, Dropout, MaxPool, Operation
from alexnet_infer.artifact import Manifest, Provenance, embedded_model
from alexnet_infer.backends.opening import describe
from alexnet_infer.errors import ModelFileError, UsageError, meant, shown
from alexnet_infer.export.info import ExportInfo
from alexnet_infer.nets import UnknownNetError, find_net
from alexnet_infer.preprocess import Rescaling
from alexnet_infer.presets import PRESETS, preset


def run(net: str, *, as_json: bool) -> None:
    """Prints a preset, or the net in a model file. Raises UsageError when `net` is neither."""
    manifest, exported = (None, None) if net in PRESETS else _described(net)
    architecture = preset(net) if manifest is None else manifest.architecture
    if as_json:
        print(json.dumps(_json(architecture, manifest, exported)))
    else:
        _print(architecture, manifest, exported)
        if manifest is None and (trained := _trained_net(net)):
            print(f"\nThis is the preset. A trained net is called {net}, too: alexnet-infer info {trained}")


def _trained_net(name: str) -> Path | None:
    """The file of a net of this name that is on this machine."""
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


def _window(o: Operation) -> str:
    match o:
        case Conv():
            return f"{o.size} / {o.stride} / {o.pad}"
        case MaxPool():
            return f"{o.size} / {o.stride}"
    return ""


def _print(architecture: Architecture, manifest: Manifest | None, exported: ExportInfo | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    patch = architecture.patch
    table = Table(title=Text(f"{architecture.name}: {patch} x {patch} x {architecture.channels} patches"), box=None)
    table.title_justify = "left"
    table.add_column("layer")
    table.add_column("operation")
    for heading in ("size / stride / pad", "groups", "output", "parameters", "multiply-adds"):
        table.add_column(heading, justify="right")
    for step in architecture.steps:
        o = step.operation
        output = " x ".join(map(str, (*step.output[1:], step.output[0])))
        counts = [f"{n:,}" if n else "" for n in (step.parameters, step.multiply_adds)]
        groups = getattr(o, "groups", 1)
        style = "bold" if isinstance(o, Conv | Dense) else "dim"
        table.add_row(o.name, _describe(o), _window(o), str(groups) if groups > 1 else "", output, *counts, style=style)
    table.add_section()
    table.add_row("total", "", "", "", "", f"{architecture.parameters:,}", f"{architecture.multiply_adds:,}")
    console.print(table)
    if manifest is not None:
        _print_provenance(console, manifest, exported)


def _describe(o: Operation) -> str:
    match o:
        case Activation():
            return o.kind
        case LRN():
            return f"lrn k={o.k:g} n={o.size} alpha={o.alpha:g} beta={o.beta:g}"
        case Dropout():
            return f"dropout {o.rate:g}"
    return o.op


def _rescaling(rescaling: Rescaling) -> str:
    size, resample = rescaling.size, rescaling.resample
    if rescaling.fit == "stretch":
        return f"stretched to {size} x {size} ({resample})"
    return f"shorter side to {size} ({resample}), central square"


def _trained(origin: Provenance) -> str:
    when = f"{origin.date} " if origin.date else ""
    seed = "" if origin.seed is None else f", seed {origin.seed}"
    return f"{when}on {origin.data}{seed}"


def _print_provenance(console, manifest: Manifest, exported: ExportInfo | None) -> None:
    origin, preprocessing = manifest.provenance, manifest.preprocessing
    lines = [
        f"name           {manifest.name}",
        f"classes        {len(manifest.classes)}",
        f"preprocessing  {_rescaling(preprocessing.rescaling)}, "
        f"{preprocessing.patch} x {preprocessing.patch} patches, {preprocessing.channel_order} "
        f"{preprocessing.value_range} minus the training mean",
        f"trained        {_trained(origin)}, recipe {origin.recipe.get('name', '?')}, {origin.software}",
    ]
    for error in origin.errors:
        lines.append(
            f"error          top-1 {error.top1 / error.images:.2%}, top-5 {error.top5 / error.images:.2%} "
            f"({error.views}, {error.images:,} images, {error.data})"
        )
    if exported is not None:
        batch, kind = exported.batch, f" for {exported.flavor}" if exported.flavor else ""
        takes = f"squares, {exported.views} view(s)" if exported.takes_squares else "patches"
        lines.append(
            f"exported       {exported.precision}{kind}, {len(exported.members)} net(s), takes {takes}, "
            f"LRN as {exported.lrn}, batch {batch.min} to {batch.max}, best {batch.opt}"
        )
    console.print("\n" + "\n".join(lines), markup=False, highlight=False, soft_wrap=True)
