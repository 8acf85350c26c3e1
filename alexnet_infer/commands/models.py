"""`alexnet-infer models`: bundled, pulled and published nets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_infer.artifact import load_manifest
from alexnet_infer.nets import nets_at_hand
from alexnet_infer.output import console, say, say_json
from alexnet_infer.published.cache import cache_folder, cached
from alexnet_infer.published.registry import Published, registry

SUMMARY_WIDTH = 72
"""A narrower terminal has no room for the summaries. Names and figures are never cut."""


@dataclass(frozen=True, kw_only=True)
class _Listed:
    name: str
    where: str
    """"embedded", "pulled" or "published"."""
    summary: str
    size: int
    """Bytes of the file on this machine, or of the download."""
    path: Path | None
    top1: float | None
    """Error in percent, like `top5`; None if unknown."""
    top5: float | None
    protocol: str
    licence: str
    source: str


def run(*, as_json: bool) -> None:
    """Print a table, or one JSON object."""
    nets = [*(_embedded(path) for path in nets_at_hand()), *(_published(net) for net in registry().values())]
    if as_json:
        say_json({"cache": str(cache_folder()), "models": [_json(net) for net in nets]})
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
    from rich.table import Table

    out = console()
    table = Table(box=None, pad_edge=False)
    for heading, justify in (("net", "left"), ("where", "left"), ("MB", "right"), ("top-1/-5 error", "right")):
        table.add_column(heading, justify=justify, no_wrap=True)
    if out.width >= SUMMARY_WIDTH:
        table.add_column("what it is", overflow="fold")
    for net in nets:
        error = f"{net.top1:.1f} / {net.top5:.1f}%" if net.top1 is not None else ""
        style = "dim" if net.where == "published" else "bold"
        where = "bundled" if net.where == "embedded" else net.where
        cells = [net.name, where, f"{net.size / 1e6:.0f}", error, net.summary]
        table.add_row(*cells[: len(table.columns)], style=style)
    out.print(table)
    say()
    say("Errors of published nets: the publishers' figures, one view (docs/published.md).")
    say("`alexnet-infer models --json` adds protocols, sources and licences.")
    say(f"`alexnet-infer pull NAME` downloads a net to {cache_folder()}")
