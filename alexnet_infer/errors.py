"""The errors a user can cause, each with its exit code. Their message is one line: value, expectation, fix."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 60, 60


def shown(value: object) -> str:
    """`value` as it may stand in a message: one line of at most 100 characters, whatever a file put there."""
    try:
        text = _SHORT.repr(value)
    except ValueError:  # Python refuses to print whole numbers of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 100 else f"{text[:97]}..."


def one_line(error: Exception) -> str:
    """A library's message as part of ours: one line of at most 300 characters, nothing unprintable."""
    return visible(" ".join(str(error).split())[:300])


def visible(text: str) -> str:
    """`text` with a question mark for whatever isn't printable: line breaks, terminal escapes, broken letters."""
    return "".join(c if c.isprintable() else "?" for c in text)


def meant(name: str, known: Iterable[str]) -> str:
    """The end of a message, `(did you mean ...?)` after a space, where one of `known` is near to `name`; or nothing."""
    import difflib

    near = difflib.get_close_matches(name, [*known], n=1)
    return f" (did you mean {near[0]}?)" if near else ""


class AlexNetInferError(Exception):
    """Base of all errors that are reported as one line on stderr."""

    exit_code = 1


class UsageError(AlexNetInferError, ValueError):
    """The request itself is wrong: an unknown preset, an option out of range."""

    exit_code = 2


class SpecError(UsageError):
    """A specification that describes no net: the message names the operation, the value and what was expected.

    Where the specification comes from a file, readers turn this into a ModelFileError that names the file.
    """


class UnreadableInputError(AlexNetInferError):
    """An image, directory or data set that can't be read."""

    exit_code = 3


class ModelFileError(AlexNetInferError):
    """A model file that is damaged, incomplete or contradicts itself."""

    exit_code = 4


class BackendError(AlexNetInferError):
    """A runtime or device that was asked for and isn't there."""

    exit_code = 5
