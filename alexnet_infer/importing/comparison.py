"""Compare the operations that a file describes with a preset's: their order and their constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import UnionType

from msgspec.structs import asdict

from alexnet_infer.architecture import Architecture, Dense, Dropout, Operation
from alexnet_infer.errors import SpecError
from alexnet_infer.presets import PRESETS, preset

Kinds = type[Operation] | UnionType

IGNORED = ("name", "ceil")
"""Fields that are not compared. `ceil` follows from the side of the patches."""


@dataclass(frozen=True, kw_only=True)
class FileOperation:
    """An operation in a file, and the file's name for it."""

    node: str
    operation: Operation


def check_operations(
    operations: Sequence[FileOperation],
    architecture: Architecture,
    *,
    skipped: Kinds = Dropout,
    ignored: Sequence[str] = IGNORED,
) -> None:
    """Raise SpecError unless these are the architecture's operations, in its order and with its constants.

    The message names the first difference and, if the operations are another preset's, that preset. Dropout does
    nothing at inference and is not compared. Operations of the kinds `skipped` and fields in `ignored` are not compared
    either.
    """
    wrong = difference(operations, architecture, skipped=skipped, ignored=ignored)
    if not wrong:
        return
    all_but_last = not difference(operations[:-1], architecture, skipped=skipped, ignored=ignored, complete=False)
    if all_but_last and len(operations) == len(_wanted(architecture, skipped)):
        raise SpecError(f"{wrong}; name classes other than ILSVRC's with --classes")
    maps = [o for o in operations if not isinstance(o.operation, Dense)]  # the number of classes doesn't matter
    matching = [
        name
        for name in PRESETS
        if name != architecture.name and not difference(maps, preset(name), skipped=skipped | Dense, ignored=ignored)
    ]
    fix = f"import it with --as {' or '.join(matching)}" if matching else "no preset describes this net"
    raise SpecError(f"{wrong}; {fix}")


def difference(
    operations: Sequence[FileOperation],
    architecture: Architecture,
    *,
    skipped: Kinds = Dropout,
    ignored: Sequence[str] = IGNORED,
    complete: bool = True,
) -> str:
    """Describe the first operation that differs; "" if none does. Unless `complete`, more operations may follow."""
    wanted = _wanted(architecture, skipped)
    for actual, expected in zip(operations, wanted, strict=False):
        text, expected_text = _describe(actual.operation, ignored), _describe(expected, ignored)
        if text != expected_text:
            return f"{actual.node}: {text}: expected {expected_text}, {expected.name} of {architecture.name}"
    if complete and len(operations) != len(wanted):
        return f"has {len(operations)} operations: expected the {len(wanted)} of {architecture.name}"
    return ""


def _wanted(architecture: Architecture, skipped: Kinds) -> list[Operation]:
    return [o for o in architecture.operations if not isinstance(o, Dropout | skipped)]


def _describe(operation: Operation, ignored: Sequence[str]) -> str:
    """An operation as text, with five digits for floats."""
    values = [(name, value) for name, value in asdict(operation).items() if name not in ignored]
    return " ".join(
        [operation.op, *(f"{name}={v:.5g}" if isinstance(v, float) else f"{name}={v}" for name, v in values)]
    )
