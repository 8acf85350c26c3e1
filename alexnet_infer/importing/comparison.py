"""What a file says its net computes, against a preset: operations in order, with their constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from types import UnionType

from alexnet_infer.architecture import Architecture, Dense, Dropout, Operation
from alexnet_infer.errors import SpecError
from alexnet_infer.presets import PRESETS, preset

Kinds = type[Operation] | UnionType

UNTOLD = ("name", "ceil")
"""Fields that are not compared: `ceil` follows from the side of the patches."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """An operation as a file has it, and what the file calls it."""

    node: str
    operation: Operation


def check_operations(
    found: Sequence[Found],
    architecture: Architecture,
    *,
    but: Kinds = Dropout,
    untold: Sequence[str] = UNTOLD,
) -> None:
    """Raises SpecError unless these are the architecture's operations, in its order, with its constants: says which is
    not and, where it is another preset's net, whose.

    Dropout does nothing here and is left out, and so is the kind `but`; `untold` are fields that the file doesn't say.
    """
    wrong = difference(found, architecture, but=but, untold=untold)
    if not wrong:
        return
    all_but_last = not difference(found[:-1], architecture, but=but, untold=untold, complete=False)
    if all_but_last and len(found) == len(_wanted(architecture, but)):
        raise SpecError(f"{wrong}; other classes than ILSVRC's are named with --classes")
    maps = [one for one in found if not isinstance(one.operation, Dense)]  # the number of classes may be any
    others = [
        name
        for name in PRESETS
        if name != architecture.name and not difference(maps, preset(name), but=but | Dense, untold=untold)
    ]
    fix = f"import it --as {' or '.join(others)}" if others else "no preset is such a net"
    raise SpecError(f"{wrong}; {fix}")


def difference(
    found: Sequence[Found],
    architecture: Architecture,
    *,
    but: Kinds = Dropout,
    untold: Sequence[str] = UNTOLD,
    complete: bool = True,
) -> str:
    """The first operation that isn't the architecture's, in words; "" when all are. `complete`: there are no more."""
    wanted = _wanted(architecture, but)
    for theirs, ours in zip(found, wanted, strict=False):
        told, expected = _told(theirs.operation, untold), _told(ours, untold)
        if told != expected:
            return f"{theirs.node}: {told}: expected {expected}, {ours.name} of {architecture.name}"
    if complete and len(found) != len(wanted):
        return f"has {len(found)} operations: expected the {len(wanted)} of {architecture.name}"
    return ""


def _wanted(architecture: Architecture, but: Kinds) -> list[Operation]:
    return [o for o in architecture.operations if not isinstance(o, Dropout | but)]


def _told(operation: Operation, untold: Sequence[str]) -> str:
    """An operation in words; floats to five digits."""
    values = [(f.name, getattr(operation, f.name)) for f in fields(operation) if f.name not in untold]
    return " ".join(
        [operation.op, *(f"{name}={v:.5g}" if isinstance(v, float) else f"{name}={v}" for name, v in values)]
    )
