"""Which images of a set are evaluated, and what the set is called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alexnet_infer.datasets import LabelledImages, detected, map_classes, open_images
from alexnet_infer.datasets.sampling import stratified
from alexnet_infer.errors import UsageError, shown
from alexnet_infer.evaluation.predictions import About
from alexnet_infer.manifest import ClassName


def known_positions(data: LabelledImages, classes: Sequence[ClassName]) -> Sequence[int] | None:
    """Return the positions of the images whose class is one of `classes`, the nets' classes, or None for all images.

    Raises UsageError if there is no such image.
    """
    to_net = map_classes(data.classes, classes)
    known = [i for i, label in enumerate(data.labels) if to_net[label] >= 0]
    if not known:
        raise UsageError(
            f"--only-known: none of the {len(data):,} images is of a class that the nets know; leave it out"
        )
    return None if len(known) == len(data) else known


def positions_of(data: LabelledImages, limit: int | None, known: Sequence[int] | None) -> Sequence[int]:
    """Return the positions of the images to evaluate: all, or a stratified sample of `limit` images.

    `known` are the positions from `known_positions`. Raises UsageError if there are fewer images than `limit`.
    """
    every = range(len(data)) if known is None else known
    if limit is None:
        return every
    if limit > len(every):
        of = "" if known is None else " of classes that the nets know"
        raise UsageError(f"--limit {limit}: the set has {len(every)} images{of}; expected at most that many")
    labels = data.labels if known is None else [data.labels[i] for i in known]
    return [every[i] for i in stratified(labels, limit)]


def reopen(root: Path, about: About) -> tuple[LabelledImages, Sequence[int]]:
    """Open the data of predictions again. Returns it and the positions of the images of all shards.

    Raises the errors of `open_images`, and UsageError unless the images are those of the predictions.
    """
    facts, classes = about.data, about.net.classes
    layout = detected(root, facts.split, facts.layout)
    data = open_images(root, facts.split, layout, numbered=classes)
    if data.listing != facts.listing:
        raise UsageError(
            f"--data {root}: its {len(data):,} images are not those of the predictions; expected the "
            f"{facts.images + facts.left_out:,} images of {shown(facts.name)}, with the same names, sizes and classes"
        )
    known = known_positions(data, classes) if facts.left_out else None
    return data, positions_of(data, facts.sample, known)


def name_of(path: Path) -> str:
    """Return the name of a set: that of its folder, or of its archive without the suffix.

    A folder named by a number, such as a severity of ImageNet-C, is named after the folder that has it, too.
    """
    if path.is_file():
        return path.stem
    return f"{path.parent.name}/{path.name}" if path.name.isdecimal() and path.parent.name else path.name
