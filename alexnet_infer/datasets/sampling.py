"""Samples of a labelled set. Nothing is random: the same labels give the same sample."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return `count` of the items, evenly spaced from the first one, or all of them if there are fewer."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def stratified(labels: Sequence[int], count: int) -> list[int]:
    """Return `count` positions in ascending order, in which each class has its share of the set, rounded up or down.

    Within a class, the positions are spread evenly over its examples.
    """
    places: dict[int, list[int]] = defaultdict(list)
    for position, label in enumerate(labels):
        places[label].append(position)
    # Largest remainders: of all integers that add up to `count`, these are nearest to the shares. Among classes with
    # equal remainders, the choice is spread evenly, since the lowest WordNet ids are all animals.
    numbers = {label: count * len(own) // len(labels) for label, own in places.items()}
    classes: dict[int, list[int]] = defaultdict(list)
    for label in sorted(places):
        classes[count * len(places[label]) % len(labels)].append(label)
    left = count - sum(numbers.values())
    for remainder in sorted(classes, reverse=True):
        for label in spread(classes[remainder], left):
            numbers[label] += 1
            left -= 1
    return sorted(position for label, own in places.items() for position in spread(own, numbers[label]))
