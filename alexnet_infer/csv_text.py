"""Tables as CSV that is safe to open in a spreadsheet or to print in a terminal."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from csv import writer

from alexnet_infer.errors import printable


def csv_lines(rows: Iterable[Iterable[object]]) -> Iterator[bytes]:
    """Yield the rows of a table as lines of CSV.

    No text, in the header neither, is a formula or has characters that aren't printable. Numbers stay as they are.
    """
    for row in rows:
        line = io.StringIO()
        safe = (no_formula(printable(cell)) if isinstance(cell, str) else cell for cell in row)
        writer(line, lineterminator="\n").writerow(safe)
        yield line.getvalue().encode()


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Return the rows of a table as CSV."""
    return b"".join(csv_lines(rows)).decode()


def no_formula(text: str) -> str:
    """Put ' before a text that a spreadsheet would evaluate, such as =HYPERLINK(...), and before such a text after ;.

    Where the decimal point is a comma, spreadsheets take ; as the end of a cell.
    """
    return re.sub(r"(^|;)(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20])", r"\1'", text)
