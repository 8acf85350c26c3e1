"""`alexnet-infer compare --layers`: in which layers two nets differ, and where that begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from alexnet_infer.backends.inner import InnerLayers
from alexnet_infer.commands.compare import choose_images
from alexnet_infer.commands.unreadable import name_unreadable
from alexnet_infer.errors import UsageError
from alexnet_infer.evaluation.layer_agreement import LayerAgreement, LayersCompared, compare_layers
from alexnet_infer.evaluation.pictures import picture_count
from alexnet_infer.output import console, say_json, styled
from alexnet_infer.preprocess import Views
from alexnet_infer.progress import counting


def run(
    a: Path,
    b: Path,
    *,
    data: Path | None = None,
    photos: Sequence[str] | None = None,
    limit: int | None = None,
    split: Literal["validation", "train"] = "validation",
    layout: str | None = None,
    views: Views | None = None,
    as_json: bool = False,
) -> int:
    """Compare the layers of the net in `b` with those of the net in `a`, and print them, the worst first.

    By default, `views` are those that one of the files cuts itself, or else "center". Values are compared patch by
    patch. Returns the exit code: 1 if an image can't be read, otherwise 0. Raises UsageError if the nets have different
    layers, and the errors of `InnerLayers`, `choose_images` and `compare_layers`.
    """
    images = choose_images(data=data, photos=photos or (), limit=limit, split=split, layout=layout)
    reference, candidate = _open(a, b, views)
    layers = _shared(reference, candidate)
    with counting("comparing layers", picture_count(images, limit)) as advance:
        compared = compare_layers(reference, candidate, images, layers, limit, on_images=advance)
    if as_json:
        say_json(_json(reference, candidate, compared), indent=1)
    else:
        _print(reference, candidate, compared)
    name_unreadable(compared.unreadable)
    return int(bool(compared.unreadable))


def _open(a: Path, b: Path, views: Views | None) -> list[InnerLayers]:
    """Open both nets for the same views."""
    nets = [InnerLayers(path, views) for path in (a, b)]
    if nets[0].views != nets[1].views:  # one of the files cuts ten views itself
        other = [net.views for net in nets].index("center")
        nets[other] = InnerLayers((a, b)[other], "ten")
    return nets


def _shared(reference: InnerLayers, candidate: InnerLayers) -> list[str]:
    """Return the names of the layers that both nets have. A file of `export --outputs` may lack the last ones.

    Raises UsageError if the layers are others, or have other shapes.
    """
    both = list(zip(reference.layers, candidate.layers, strict=False))
    for first, second in both:
        if (first.name, first.shape) != (second.name, second.shape):
            raise UsageError(
                f"one net has the layer {first.name} {list(first.shape)}, the other {second.name} "
                f"{list(second.shape)}: expected two nets of one architecture"
            )
    return [layer.name for layer, _ in both]


def _json(reference: InnerLayers, candidate: InnerLayers, compared: LayersCompared) -> dict[str, object]:
    parties = {
        role: {"net": net.manifest.name, "backend": net.description}
        for role, net in (("reference", reference), ("candidate", candidate))
    }
    return {
        **parties,
        "views": reference.views,
        "images": compared.images,
        "layers": [layer.to_json() for layer in compared.worst_first],
        "unreadable": [asdict(image) for image in compared.unreadable],
    }


def _print(reference: InnerLayers, candidate: InnerLayers, compared: LayersCompared) -> None:
    from rich.table import Table

    views = "ten views" if reference.views == "ten" else "central view"
    out = console()
    for role, net in (("reference", reference), ("candidate", candidate)):
        out.print(styled(f"{role}: {net.manifest.name}, {views}, {net.description}", "dim"), soft_wrap=True)
    out.print(styled(f"{compared.images:,} images; layers are numbered in the order of the net, worst first", "dim"))
    table = Table(box=None, pad_edge=False)
    table.add_column("no.", justify="right", style="dim")
    table.add_column("layer")
    table.add_column("relative error", justify="right", style="bold")
    table.add_column("over the layer before", justify="right")
    table.add_column("cosine", justify="right")
    for layer in compared.worst_first:
        before = compared.layers[layer.position - 2].difference if layer.position > 1 else 0.0
        table.add_row(
            str(layer.position), styled(layer.layer), _error(layer), _growth(layer.difference, before), _cosine(layer)
        )
    out.print(table)


def _error(layer: LayerAgreement) -> str:
    return f"{layer.difference:.2g}" if math.isfinite(layer.difference) else "not finite"


def _growth(error: float, before: float) -> str:
    return f"{error - before:+.2g}" if math.isfinite(error) and math.isfinite(before) else "-"


def _cosine(layer: LayerAgreement) -> str:
    return "-" if layer.cosine is None else f"{layer.cosine:.6f}"
