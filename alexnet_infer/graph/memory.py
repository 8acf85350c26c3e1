"""How much memory the values of a graph take at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

Step = tuple[Collection[str], Mapping[str, int]]
"""A node: the names that it reads, and the name and bytes of each of its outputs."""


@dataclass
class _Room:
    """Memory for one value after the other."""

    bytes: int
    readers: int
    """The nodes that read the value that has it now, as bits."""


def bytes_at_once(steps: Iterable[Step]) -> int:
    """Return at most how many bytes are in use at once, in whatever order a runtime runs the nodes.

    Each node comes after the nodes whose outputs it reads. A value takes the memory of an earlier one only if all that
    read the earlier one must have run before it can be computed.
    """
    makers: dict[str, int] = {}
    readers: dict[str, int] = {}
    before: list[int] = []  # for each node, those that must run before it, as bits
    made: list[tuple[str, int]] = []
    for number, (inputs, outputs) in enumerate(steps):
        earlier = 0
        for name in inputs:
            if name in makers:
                earlier |= before[makers[name]] | 1 << makers[name]
                readers[name] |= 1 << number
        before.append(earlier)
        for name, size in outputs.items():
            makers[name], readers[name] = number, 1 << number
            made.append((name, size))
    rooms: list[_Room] = []
    for name, size in made:
        free = [room for room in rooms if not room.readers & ~before[makers[name]]]
        room = max(free, key=lambda room: room.bytes, default=None)
        if room is None:
            rooms.append(room := _Room(0, 0))
        room.bytes, room.readers = max(room.bytes, size), readers[name]
    return sum(room.bytes for room in rooms)
