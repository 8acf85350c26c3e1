"""Orders of classes that labels are often in by mistake, instead of the order of WordNet ids."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from alexnet_infer.datasets.ilsvrc import ilsvrc_classes
from alexnet_infer.manifest import ClassName

IDS = Path(__file__).with_name("ilsvrc2012_ids.txt")
"""The ILSVRC2012_ID of each of ILSVRC-2012's classes, in order of WordNet ids."""


def known_orders(classes: Sequence[ClassName]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, the true position of each label, int [C], or -1), without the right order.

    The first orders are the most usual ones. An order can occur under several names.
    """
    count = len(classes)
    positions = np.arange(count)
    yield "positions counted from 1", _shifted(count, 1)
    yield "positions minus 1", _shifted(count, -1)
    numbers = sorted(range(count), key=str)
    yield "the order of numbers sorted as text (0, 1, 10, 100, ...)", np.array(numbers)
    yield "the order of numbers sorted as text (0, 1, 10, 100, ...)", np.argsort(numbers)
    numbers = np.array(sorted(range(1, count + 1), key=str)) - 1
    yield "the order of numbers from 1 sorted as text (1, 10, 100, ...)", numbers
    yield "the order of numbers from 1 sorted as text (1, 10, 100, ...)", np.argsort(numbers)
    if (ids := _ids(classes)) is not None:
        yield "the devkit's order (ILSVRC2012_ID - 1)", np.argsort(ids)
        yield "the devkit's order (ILSVRC2012_ID)", np.roll(np.argsort(ids), 1)
        yield "the devkit's order, mapped twice", np.argsort(np.argsort(ids))
    for names in ([c.name.casefold() for c in classes], [c.name for c in classes]):
        order = np.array(sorted(range(count), key=lambda i, names=names: names[i].replace(" ", "_")))
        yield "alphabetical order of the classes' names", order
        yield "alphabetical order of the classes' names", np.argsort(order)
    yield "reverse order", positions[::-1]
    for step in range(1, count):
        by = step if step <= count // 2 else step - count
        yield f"positions {'plus' if by > 0 else 'minus'} {abs(by)}", (positions - step) % count


def _shifted(count: int, by: int) -> np.ndarray:
    """The true position of each label if labels are `by` too high. Labels without a class have -1."""
    true = np.arange(count) - by
    return np.where((true >= 0) & (true < count), true, -1)


def _ids(classes: Sequence[ClassName]) -> np.ndarray | None:
    """The classes' places in the devkit's order; None unless all are classes of ILSVRC-2012."""
    ids = _devkit()
    if not all(c.wnid in ids for c in classes):
        return None
    return np.argsort(np.argsort([ids[c.wnid] for c in classes]))


@functools.cache
def _devkit() -> dict[str, int]:
    """WordNet id -> ILSVRC2012_ID."""
    numbers = map(int, IDS.read_text(encoding="ascii").split())
    return {c.wnid: number for c, number in zip(ilsvrc_classes(), numbers, strict=True)}
