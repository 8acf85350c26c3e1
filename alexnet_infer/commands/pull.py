"""`alexnet-infer pull`: fetch published nets to this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from alexnet_infer.errors import AlexNetInferError, UsageError
from alexnet_infer.output import say, say_json, tell
from alexnet_infer.progress import fetching
from alexnet_infer.published.cache import cached
from alexnet_infer.published.pull import pull
from alexnet_infer.published.registry import Published, published


def run(names: Sequence[str], *, source: str | None, force: bool, as_json: bool) -> int:
    """Pull the nets, print the path of each, and return the exit code.

    A net that fails is reported in one line on stderr, and the other nets are still pulled. Raises UsageError for an
    unknown name, before anything is fetched.
    """
    nets = [published(name) for name in dict.fromkeys(names)]
    if source is not None and len(nets) > 1:
        raise UsageError(f"--from {source}: one file for {len(nets)} nets; pull them one by one")
    codes = []
    for net in nets:
        try:
            already = source is None and not force and cached(net) is not None
            path = fetch(net, source, force=force)
        except AlexNetInferError as error:
            tell(f"error: {error}")
            codes.append(error.exit_code)
        else:
            _print(net, path, already=already, as_json=as_json)
    return 0 if not codes else codes[0] if len(nets) == 1 else 1


def fetch(net: Published, source: str | None = None, *, force: bool = False) -> Path:
    """Pull one net with a progress bar and return its path. Raises the errors of `published.pull.pull`."""
    with fetching(net.name, net.size) as advance:
        return pull(net, source, force=force, on_bytes=advance)


def _print(net: Published, path: Path, *, already: bool, as_json: bool) -> None:
    if as_json:
        say_json({"name": net.name, "path": str(path), "bytes": path.stat().st_size, "fetched": not already})
        return
    say(path)
    if sys.stderr.isatty():
        error = net.error
        state = "was already pulled" if already else "is ready"
        tell(
            f"{net.name} {state}: {net.summary}. Published error {error.top1:g} / {error.top5:g} % ({error.protocol}; "
            f"{error.source}). alexnet-infer classify photo.jpg --model {net.name}"
        )
