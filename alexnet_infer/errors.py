"""The errors a user can cause, each with its exit code. Messages are one line: value, expectation, fix."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 60, 60


def shown(value: object) -> str:
    """Return `value` for a message: one printable line of at most 100 characters, for any value from a file."""
    try:
        text = _SHORT.repr(value)
    except ValueError:  # Python does not print integers of more than 4,300 digits
        return "a number with thousands of digits"
    return text if len(text) <= 100 else f"{text[:97]}..."


def one_line(text: object) -> str:
    """Return a library's error or its text for use in another message: one printable line of at most 300 characters."""
    return printable(" ".join(str(text).split())[:300])[:300]


def cause_of(error: Exception) -> str:
    """Return what an error says, for use in another message. The system's errors are without number and path."""
    return getattr(error, "strerror", None) or one_line(error)


def printable(text: str) -> str:
    """Return `text` on one line and safe for a terminal: every character that isn't visible or a space is escaped.

    This includes line breaks, terminal escape sequences, right-to-left overrides, characters without a width and bytes
    that aren't UTF-8.
    """
    if text.isprintable() and (text.isascii() or not _UNSEEN.search(text)):  # nearly always, of a million names
        return text
    return "".join(map(_visible, text))


_UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0]")
"""Characters that Python calls printable, and that are shown as nothing or as a space: fillers and a joiner.

Selectors of variants are kept: they choose the form of the character before them, in emoji and in Japanese names.
"""


def _visible(character: str) -> str:
    shown = character.isprintable() and not _UNSEEN.match(character)
    return character if shown else character.encode("unicode_escape").decode()


LONGEST = 600
"""The most characters of a message."""


def message_line(text: object) -> str:
    """Return `text` as one printable line of at most LONGEST characters. The middle of a longer text is left out."""
    text = str(text)
    if len(text) > 2 * LONGEST:  # only the ends of a text of megabytes are looked at
        text = text[:LONGEST] + text[-LONGEST:]
    text = printable(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 200]}...{text[-197:]}"


def listed(names: Iterable[object]) -> str:
    """Return the first 12 of `names` for a message, and the number of the others: one printable line."""
    texts = [printable(str(name))[:40] for name in names]  # protobuf gives bytes if a name is not valid text
    if not texts:
        return "none"
    more = f" and {len(texts) - 12} more" if len(texts) > 12 else ""
    return ", ".join(repr(text) if not text or {" ", ","} & {*text} else text for text in texts[:12]) + more


def wrong_names(kind: str, names: Iterable[str], expected: Iterable[str]) -> str:
    """Return how `names` differ from the `expected`, in any order, or "" if they are the same.

    With the kind "tensors": "missing tensors: fc8.bias; unknown tensors: fc9.bias, fc9.weight".
    """
    names, expected = set(names), set(expected)
    differences = {"missing": expected - names, "unknown": names - expected}
    return "; ".join(f"{how} {kind}: {listed(sorted(those, key=str))}" for how, those in differences.items() if those)


def meant(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean ...?)" with the name in `known` most similar to `name`, or "" if none is similar."""
    import difflib

    near = difflib.get_close_matches(name, [*known], n=1)
    return f" (did you mean {near[0]}?)" if near else ""


class AlexNetInferError(Exception):
    """Base class of all errors that are reported as one line on stderr."""

    exit_code = 1


class UsageError(AlexNetInferError, ValueError):
    """The request is invalid: an unknown preset, an option out of range."""

    exit_code = 2


class SpecError(UsageError):
    """A specification that does not describe a net. The message names the operation, the value and the expectation.

    Code that reads specifications from a file turns this into a ModelFileError that names the file.
    """


class UnreadableInputError(AlexNetInferError):
    """An image, directory or data set can't be read: the message is `reason`, after `name` if there is one."""

    exit_code = 3

    def __init__(self, reason: str, *, name: str | None = None) -> None:
        super().__init__(reason if name is None else f"{name}: {reason}")
        self.name, self.reason = name, reason


class ModelFileError(AlexNetInferError):
    """A model file is damaged, incomplete or inconsistent."""

    exit_code = 4


class BackendError(AlexNetInferError):
    """A requested runtime or device is not available."""

    exit_code = 5


class StoppedError(AlexNetInferError):
    """Ctrl-C stopped a run that can be continued. The message says how."""

    exit_code = 130
