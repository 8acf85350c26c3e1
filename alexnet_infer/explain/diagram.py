"""A drawing of the whole net, as in the paper's Figure 2: its layers with weights from left to right, columns apart."""

from __future__ import annotations

from dataclasses import dataclass

from alexnet_infer.architecture import Architecture, Conv, Dense, Step
from alexnet_infer.explain.words import size
from alexnet_infer.layers import columns_of

SLOT, ROW = 100, 84
"""Units of the drawing for a layer, from left to right, and for a column, from top to bottom."""

MOST_ROWS = 4
"""The most columns that are drawn. A net with more of them is drawn with this number of rows."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """The part of a layer that is in one column, as a rectangle around its centre."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, kw_only=True)
class Label:
    """The name and the output of a layer, below its blocks."""

    x: float
    name: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Diagram:
    """Blocks, lines (x1, y1, x2, y2) and labels. The origin is at the upper left."""

    width: int
    height: int
    blocks: tuple[Block, ...]
    lines: tuple[tuple[float, float, float, float], ...]
    labels: tuple[Label, ...]
    divided: bool
    """Whether there are columns."""
    described: str
    """The drawing in words."""


def diagram(architecture: Architecture) -> Diagram:
    """Draw a net. A block of maps is as high as the maps are, and the wider the more there are of them."""
    first = [step for step in architecture.steps if isinstance(step.operation, Conv | Dense)]
    divided = columns_of(architecture)
    counts = [1, *(divided[step.operation.name] for step in first)]
    rows = [min(count, MOST_ROWS) for count in counts]
    shapes = [architecture.steps[0].input, *(step.output for step in first)]
    most = max(rows)
    outputs = enumerate(zip(shapes, rows, strict=True))
    groups = [_blocks(i, shape, count, most, shapes) for i, (shape, count) in outputs]
    lines = [
        (a.x + a.width / 2, a.y, b.x - b.width / 2, b.y)
        for before, after, columns, step in zip(groups, groups[1:], counts, first, strict=False)
        for i, a in enumerate(before)
        for j, b in enumerate(after)
        if not _apart(step, columns) or i == j
    ]
    names = ["patch", *(step.operation.name for step in first)]
    return Diagram(
        width=SLOT * len(shapes),
        height=ROW * most + 36,
        blocks=tuple(block for group in groups for block in group),
        lines=tuple(lines),
        labels=tuple(
            Label(x=SLOT * (i + 0.5), name=name, text=size(shape))
            for i, (name, shape) in enumerate(zip(names, shapes, strict=True))
        ),
        divided=most > 1,
        described="; ".join(
            f"{name}, {size(shape)}" + (f", in {count} columns" if count > 1 else "")
            for name, shape, count in zip(names, shapes, counts, strict=True)
        ),
    )


def _apart(step: Step, columns_before: int) -> bool:
    """Whether each column of a layer reads only the same column of the layer before."""
    return isinstance(step.operation, Conv) and step.operation.groups == columns_before > 1


def _blocks(i: int, shape: tuple[int, ...], count: int, most: int, shapes: list[tuple[int, ...]]) -> list[Block]:
    deepest = max(s[0] for s in shapes if len(s) == 3)
    longest = max((s[0] for s in shapes if len(s) == 1), default=1)
    if len(shape) == 3:
        width, height = 10 + 46 * shape[0] / count / deepest, 12 + 58 * shape[1] / shapes[0][1]
    else:
        width, height = 10.0, 14 + 56 * shape[0] / longest
    return [
        Block(x=SLOT * (i + 0.5), y=ROW * most * (row + 0.5) / count, width=width, height=height)
        for row in range(count)
    ]
