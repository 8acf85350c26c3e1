"""`similar --report`: a page of rows, a query and then its neighbours, as the right half of the paper's Figure 4."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from alexnet_infer import pages
from alexnet_infer.errors import UsageError
from alexnet_infer.features.gallery import Picture
from alexnet_infer.features.search import decimals
from alexnet_infer.features.similar import Index, Similar
from alexnet_infer.version import __version__

PAGE = "index.html"


def check_report(out: Path) -> None:
    """Raise an error if the page can't be written to the folder `out`, before anything is computed."""
    pages.check_jinja("--report")
    pages.check_page(out / PAGE, f"--report {out}")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--report {out}: is a file; expected a new or existing folder")


def write_report(index: Index, similar: Similar, pictures: Mapping[int, Picture], out: Path) -> Path:
    """Write the page `out`/index.html and return its path. The folder is created if necessary.

    Photos that can't be read are listed with their errors. Raises UsageError if it can't be written.
    """
    answers = [answer for answer in similar.answers if answer.query.error is None]
    values = {
        "version": __version__,
        "about": index.features.about,
        "index": index.features.path.name,
        "layer": index.layer,
        "shape": index.features.layers[index.layer],
        "answers": [(answer, decimals(neighbour.distance for neighbour in answer.neighbours)) for answer in answers],
        "unreadable": [answer.query for answer in similar.answers if answer.query.error is not None],
        "searched": len(index.features) - similar.left_out,
        "left_out": similar.left_out,
        "pictures": pictures,
        "names": {known.wnid: known.short for known in index.net.classes},
    }
    page = pages.render(__package__, "similar.html.jinja", values)
    return pages.write_page(out, PAGE, page, f"--report {out}")
