"""What the programs print. All text passes through here, so that none from outside controls a terminal or fakes a line.

Nothing else prints, and nothing else makes rich's consoles and texts: a test keeps this.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from alexnet_infer.errors import message_line, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def tell(message: object, end: str = "\n") -> None:
    """Print a message on stderr as one printable line, cut to `errors.LONGEST` characters.

    A message that can't be written is lost: there is no other place to report that.
    """
    with suppress(OSError):
        print(message_line(message), end=end, file=sys.stderr, flush=True)


def say(line: object = "") -> None:
    """Print a result on stdout as one printable line. It is never cut."""
    print(printable(str(line)), flush=True)


def say_lines(document: str) -> None:
    """Print a document whose texts are printable already, as those of CSV and Markdown are, on stdout."""
    for line in document.splitlines():
        say(line)


def say_json(value: object, indent: int | None = None) -> None:
    """Print `value` on stdout as JSON in ASCII, which holds names exactly, since it escapes all other characters."""
    print(json.dumps(value, indent=indent), flush=True)


def console(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """Return a console of rich that shows all strings as they are: no markup, no names of emoji, no highlighting.

    A string is one printable line, in a cell of a table, too. With `soft_wrap`, the terminal wraps long lines, and no
    newline is added.
    """
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text), **options)

    return Plain(stderr=stderr, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)


def styled(text: object, style: str = "") -> Text:
    """Return `text` for a console as one printable line, cut to `errors.LONGEST` characters, in a style of rich."""
    from rich.text import Text

    return Text(message_line(text), style=style)


def stacked(lines: Iterable[object]) -> Text:
    """Return a cell of a table with several lines, each of which is as `styled` makes it."""
    from rich.text import Text

    return Text("\n").join(map(styled, lines))


def no_markdown(text: str) -> str:
    """Return text as one printable line with what Markdown would interpret escaped, including brackets of intervals."""
    return _MARKDOWN.sub(r"\\\g<0>", printable(text))


_MARKDOWN = re.compile(r"[\\`*~\[\]<>|&]|(?<![^\W_])_|_(?![^\W_])|:(?=[\w+-]+:)")
"""Characters that Markdown always interprets, _ at an end of a word, and the first colon of an emoji's name."""
