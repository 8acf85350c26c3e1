"""`similar --report`: a page of rows, a query and then its neighbours, as the right half of the paper's Figure 4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from alexnet_infer import pages
from alexnet_infer.errors import UsageError
from alexnet_infer.features.gallery import Picture
from alexnet_infer.features.search import decimals
from alexnet_infer.features.similar import Answer, Index
from alexnet_infer.version import __version__

PAGE, KIND = "index.html", "similar"

MOST, MOST_BYTES = 1000, 2**29
"""The most pictures of a page, and the most bytes of them and their features, which are in memory together."""


def check_report(out: Path) -> None:
    """Raise an error if the page can't be written to the folder `out`, before anything is computed."""
    pages.check_jinja("--report")
    pages.check_page(out / PAGE, f"--report {out}", kind=KIND)
    if out.exists() and not out.is_dir():
        raise UsageError(f"--report {out}: is a file; expected a new or existing folder")


def check_pictures(index: Index, photos: int, out: Path) -> None:
    """Raise UsageError if the page of so many photos, with their neighbours, would have too many pictures."""
    each = 8 * index.features.layer(index.layer).size + 3 * index.net.rescaling.size**2
    most = min(MOST, MOST_BYTES // each)
    if (pictures := photos * (index.n + 1)) > most:
        raise UsageError(
            f"--report {out}: would have {pictures:,} pictures, {index.n + 1:,} for each photo; expected at most "
            f"{most:,}: name fewer photos, or a smaller -n"
        )


def write_report(index: Index, answers: Sequence[Answer], pictures: Mapping[int, Picture], out: Path) -> Path:
    """Write the page `out`/index.html and return its path. The folder is created if necessary.

    Photos that can't be read are listed with their errors. Raises UsageError if it can't be written.
    """
    readable = [answer for answer in answers if answer.query.error is None]
    left_out = readable[0].left_out if readable else 0
    values = {
        "version": __version__,
        "about": index.features.about,
        "index": index.features.path.name,
        "layer": index.layer,
        "shape": index.features.layers[index.layer],
        "answers": [(answer, decimals(neighbour.distance for neighbour in answer.neighbours)) for answer in readable],
        "unreadable": [answer.query for answer in answers if answer.query.error is not None],
        "searched": len(index.features) - left_out,
        "left_out": left_out,
        "pictures": pictures,
        "names": {known.wnid: known.short for known in index.net.classes},
    }
    page = pages.render(__package__, "similar.html.jinja", values)
    return pages.write_page(out, PAGE, page, f"--report {out}", kind=KIND)
