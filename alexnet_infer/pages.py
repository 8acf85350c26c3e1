"""Web pages that are single files: `eval --report`, `similar --report`, `explain` and `export --passport`.

A page loads nothing from the network. Except for a passport, which has a date and measured times, it contains no time,
so equal inputs give equal bytes.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet_infer.errors import UsageError, printable
from alexnet_infer.files import write_atomically, writing
from alexnet_infer.marks import beginning
from alexnet_infer.packages import missing_package

STYLE = "pages.css"
"""The style that all pages share: colours, type, tables."""

GENERATOR = "alexnet-infer"
"""Each page has `<meta name="generator" content="alexnet-infer ...">` near its beginning."""

_MARK = re.compile(rf'<meta name="generator" content="{GENERATOR} [^" ]+(?: (\w+))?">'.encode())
"""The mark, with the kind of the page if it has one."""


def check_jinja(option: str) -> None:
    """Raise BackendError if jinja2, which `option` needs, is missing."""
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise missing_package(error, option) from None


def check_page(page: Path, option: str, expected: str = "another folder", kind: str = "") -> None:
    """Raise UsageError if the file `page` exists and is not a page of alexnet-infer, which may be overwritten.

    `kind` is the second word of the page's mark, as in "alexnet-infer 1.0 explain", or "" if it has none. A page of
    another kind is refused.

    `option` begins the message, as in "--report out", and what is `expected` instead ends it.
    """
    if not os.path.lexists(page):
        return
    found = kind_of(page)
    if found is not None and found != kind:
        raise UsageError(
            f"{option}: its {page.name} is a page of another command and would be overwritten; expected {expected}"
        )
    if found is None:
        raise UsageError(
            f"{option}: its {page.name} was not written by alexnet-infer and would be overwritten; expected {expected}"
        )


def check_file(out: Path, option: str) -> None:
    """Raise UsageError if `out` is a link or a folder, or if no file can be written there. Folders may be missing."""
    if out.is_symlink() or out.is_dir():
        kind = "a link" if out.is_symlink() else "a folder"
        raise UsageError(f"{option}: {kind}; expected the name of a file")
    with writing(option):
        folder = next(path for path in out.absolute().parents if os.path.lexists(path))
        with tempfile.TemporaryFile(dir=folder):
            pass


def kind_of(page: Path) -> str | None:
    """Return the kind of a page of alexnet-infer, "" if its mark has none, or None if `page` is no such page."""
    mark = _MARK.search(beginning(page, 2000))
    return None if mark is None else (mark[1] or b"").decode()


def write_page(out: Path, name: str, page: str, option: str, expected: str = "another folder", kind: str = "") -> Path:
    """Write the page `out`/`name` and return its path. The folder is created if necessary.

    Raises UsageError, beginning with `option`, if it can't be written or `check_page` refuses it.
    """
    with writing(option):
        out.mkdir(parents=True, exist_ok=True)
        check_page(out / name, option, expected, kind)
        write_atomically(out / name, page.encode())
    return out / name


def render(
    package: str, template: str, values: Mapping[str, Any], filters: Mapping[str, Callable] | None = None
) -> str:
    """Return the page from the Jinja template of this name in `package`, with its `values`.

    Every value is escaped and made printable. The filters of all pages are below; `filters` adds those of one page.
    The template may include other files of `package`, whose text is taken as it is, and import their macros. It begins
    its style with the one that all pages share, STYLE.
    """
    import jinja2

    def source(name: str) -> str:
        return resources.files(__package__ if name == STYLE else package).joinpath(name).read_text("utf-8")

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(source),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Names may have characters that can't be displayed or that reverse the surrounding text.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters.update(
        count="{:,}".format,
        percent=percent,
        jpeg=jpeg,
        px="{:.2f}".format,
        plain=lambda value: json.dumps(value, sort_keys=True, ensure_ascii=False, default=dict),
        **(filters or {}),
    )
    return environment.get_template(template).render(values)


def percent(fraction: float | None, digits: int = 2) -> str:
    """Format a fraction in percent, without the sign; a dash for None."""
    return "\N{EN DASH}" if fraction is None else f"{100 * fraction:.{digits}f}"


def jpeg(square: np.ndarray, side: int = 256) -> str:
    """Return an image uint8 [H, W, 3] as the data URI of a JPEG, reduced to at most `side` pixels."""
    image = Image.fromarray(square)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    return uri("jpeg", file.getvalue())


def png(pixels: np.ndarray) -> str:
    """Return an image uint8 [H, W] (grey), [H, W, 2] (grey and alpha) or [H, W, 3] (RGB) as the data URI of a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return uri("png", file.getvalue())


def uri(kind: str, data: bytes) -> str:
    """Return an encoded image as a data URI. `kind` is "png", "jpeg" or "svg+xml"."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
