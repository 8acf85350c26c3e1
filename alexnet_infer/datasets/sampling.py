"""Samples of a labelled set. Nothing is random: the same labels give the same sample."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence


def stratified(labels: Sequence[int], count: int) -> list[int]:
    """Return `count` positions in ascending order, in which each class has its share of the set, rounded up or down.

    Within a class, the positions are spread evenly over its examples. Nothing is random: the same labels give the same
    sample.
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
        tied = classes[remainder]
        chosen = min(left, len(tied))
        left -= chosen
        for i in range(chosen):
            numbers[tied[i * len(tied) // chosen]] += 1
    return sorted(own[i * len(own) // numbers[label]] for label, own in places.items() for i in range(numbers[label]))
