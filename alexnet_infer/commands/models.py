"""`alexnet-infer models`: the nets that come along, those that were pulled, and those that can be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_infer.artifact import load_manifest
from alexnet_infer.nets import nets_at_hand
from alexnet_infer.published.cache import cache_folder, cached
from alexnet_infer.published.registry import Published, registry


@dataclass(frozen=True, kw_only=True)
class _Listed:
    name: str
    where: str
    """embedded, pulled or published."""
    summary: str
    size: int
    """Of the file that is here, or of what is to be fetched; in bytes."""
    path: Path | None
    top1: float | None
    """Error in per cent."""
    top5: float | None
    protocol: str
    licence: str
    source: str


def run(*, as_json: bool) -> None:
    """Prints a table, or one JSON object."""
    nets = [*(_embedded(path) for path in nets_at_hand()), *(_published(net) for net in registry().values())]
    if as_json:
        print(json.dumps({"cache": str(cache_folder()), "models": [_json(net) for net in nets]}))
    else:
        _print(nets)


def _embedded(path: Path) -> _Listed:
    manifest = load_manifest(path)
    size = manifest.preprocessing.size
    error = next((e for e in manifest.provenance.errors if e.views == "ten"), None)
    return _Listed(
        name=path.stem,
        where="embedded",
        summary=f"{len(manifest.classes)} classes, {size} px",
        size=path.stat().st_size,
        path=path,
        top1=100 * error.top1 / error.images if error else None,
        top5=100 * error.top5 / error.images if error else None,
        protocol=f"{error.views} views, {error.images} images of {error.data}" if error else "",
        licence="MIT",
        source="measured by this project",
    )


def _published(net: Published) -> _Listed:
    path = cached(net)
    return _Listed(
        name=net.name,
        where="pulled" if path else "published",
        summary=net.summary,
        size=path.stat().st_size if path else net.size,
        path=path,
        top1=net.error.top1,
        top5=net.error.top5,
        protocol=f"{net.error.views} view, {net.error.protocol}",
        licence=net.licence,
        source=net.error.source,
    )


def _json(net: _Listed) -> dict[str, Any]:
    return {**vars(net), "path": str(net.path) if net.path else None}


def _print(nets: list[_Listed]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    longest = max(len(net.name) for net in nets)  # in a narrow window the last column gives way
    for heading, justify, width in (
        ("net", "left", longest),
        ("where", "left", 9),
        ("MB", "right", 3),
        ("top-1/-5 error", "right", 14),
    ):
        table.add_column(heading, justify=justify, min_width=width, no_wrap=True)
    table.add_column("what it is", no_wrap=True)
    for net in nets:
        error = f"{net.top1:.1f} / {net.top5:.1f}%" if net.top1 is not None else ""
        style = "dim" if net.where == "published" else "bold"
        table.add_row(net.name, net.where, f"{net.size / 1e6:.0f}", error, Text(net.summary), style=style)
    console = Console()
    console.print(table)
    console.print(
        f"\nErrors of published nets are their publishers' (docs/published.md), one view; --json has all of it.\n"
        f"alexnet-infer pull NAME fetches one into {cache_folder()}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
