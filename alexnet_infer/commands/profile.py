"""The time that an evaluation spent in each stage: `eval --profile`."""

from __future__ import annotations

from collections.abc import Mapping

from alexnet_infer.output import console, tell
from alexnet_infer.pipeline import STAGES, Clock


def print_profile(clock: Clock, images: int, cached: Mapping[str, int]) -> None:
    """Print the time per stage on stderr. Of each net, `cached` of the `images` were predicted by an earlier run."""
    from rich.table import Table

    for net, count in cached.items() if len({*cached.values()}) > 1 else [("", next(iter(cached.values())))]:
        if count:
            of = f"{net}: " if net else ""
            tell(f"{of}the predictions of {count:,} of the {images:,} images were cached")
    if all(count == images for count in cached.values()):
        tell("nothing was computed, so there are no times; --fresh computes the predictions again")
        return
    table = Table(title="time per stage, summed over all threads", title_justify="left", box=None, pad_edge=False)
    for heading in ("stage", "seconds", "share"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    total = sum(clock.seconds.values()) or 1.0
    for stage in STAGES:
        table.add_row(stage, f"{clock.seconds[stage]:.2f}", f"{clock.seconds[stage] / total:.1%}")
    console(stderr=True).print(table)
    if bottleneck := clock.bottleneck():
        stage, share = bottleneck
        names = {
            "read": "reading",
            "decode": f"decoding on {clock.workers} threads",
            "patches": "cutting patches",
            "net": "the net",
        }
        tell(f"bound by {names[stage]}, which was busy {share:.0%} of the time")
