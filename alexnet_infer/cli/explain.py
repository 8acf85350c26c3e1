"""`alexnet-infer explain`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from alexnet_infer.cli.options import HOW, OUTPUT, Backend, Device, net
from alexnet_infer.help import WHAT, argument, option

EXPLAIN_EXAMPLES = """
Examples:
  alexnet-infer explain photo.jpg
  alexnet-infer explain photo.jpg --model bvlc-alexnet --label tabby -o cat.html
  alexnet-infer explain photo.jpg --compare bvlc-alexnet --views center
"""


def explain(
    photo: Annotated[str, argument("PHOTO", "File, http(s) URL, or - for standard input.")],
    model: Annotated[
        Path | None, option(WHAT, "Net name or model file.", parser=net, metavar="NET", default="best bundled net")
    ] = None,
    compare: Annotated[
        Path | None, option(WHAT, "A second net beside it.", parser=net, metavar="NET", default=False)
    ] = None,
    label: Annotated[
        str | None,
        option(
            HOW, "Class whose probability is watched: name, WordNet id or index.", metavar="CLASS", default="the answer"
        ),
    ] = None,
    views: Annotated[
        Literal["ten", "center"],
        option(HOW, "Watch the mean of ten views, or the central one (faster)."),
    ] = "ten",
    square: Annotated[
        int | None,
        option(
            HOW,
            "Side of the hiding square, in pixels of each net's square.",
            metavar="N",
            default="a fifth of the patch",
        ),
    ] = None,
    stride: Annotated[
        int | None, option(HOW, "Its step, in the same pixels.", metavar="N", default="a tenth of the patch")
    ] = None,
    device: Device = "auto",
    backend: Backend = "auto",
    out: Annotated[
        Path | None, option(OUTPUT, "HTML file to write.", "-o", "--out", metavar="FILE", default="the photo's name")
    ] = None,
    as_json: Annotated[bool, option(OUTPUT, "Also print the page's numbers as one JSON object.", "--json")] = False,
) -> None:
    """Write a page that shows how a net comes to its answer for a photo.

    The votes of the ten patches, the maps of every layer, and which parts of the photo matter: the answer is asked for
    again with one part after another hidden by a square.
    """
    options = locals()  # must come first: the arguments, by their names
    from alexnet_infer.commands.explain import run

    run(**options)
