"""`alexnet-infer pull`: published nets onto this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from alexnet_infer.errors import AlexNetInferError, UsageError
from alexnet_infer.progress import fetching
from alexnet_infer.published.cache import cached, pull
from alexnet_infer.published.registry import Published, published


def run(names: Sequence[str], *, source: str | None, force: bool, as_json: bool) -> int:
    """Pulls the nets and prints the path of each; returns the exit code.

    One that fails gets a line on stderr and the others go on. Raises UsageError when a name is unknown, before anything
    is fetched.
    """
    nets = [published(name) for name in dict.fromkeys(names)]
    if source is not None and len(nets) > 1:
        raise UsageError(f"--from {source}: is one file, and {len(nets)} nets are named; pull them one by one")
    codes = []
    for net in nets:
        try:
            was_here = source is None and not force and cached(net) is not None
            path = fetch(net, source, force=force)
        except AlexNetInferError as error:
            typer.echo(f"error: {error}", err=True)
            codes.append(error.exit_code)
        else:
            _print(net, path, was_here=was_here, as_json=as_json)
    return 0 if not codes else codes[0] if len(nets) == 1 else 1


def fetch(net: Published, source: str | None = None, *, force: bool = False) -> Path:
    """Pulls one net, with a progress bar, and returns its path. Raises what `published.cache.pull` raises."""
    with fetching(net.name, net.size) as advance:
        return pull(net, source, force=force, on_bytes=advance)


def _print(net: Published, path: Path, *, was_here: bool, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"name": net.name, "path": str(path), "bytes": path.stat().st_size, "fetched": not was_here}))
        return
    print(path)
    if sys.stderr.isatty():
        error = net.error
        here = "was here already" if was_here else "is ready"
        typer.echo(
            f"{net.name} {here}: {net.summary}. Published error {error.top1:g} / {error.top5:g} % ({error.protocol}; "
            f"{error.source}). alexnet-infer classify photo.jpg --model {net.name}",
            err=True,
        )
