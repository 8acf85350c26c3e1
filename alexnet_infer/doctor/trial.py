"""Compare a set's labels with the guesses of a net on a sample, to find permuted or wrong labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from alexnet_infer.datasets import LabelledImages
from alexnet_infer.datasets.base import Example
from alexnet_infer.datasets.classes import map_classes
from alexnet_infer.datasets.sampling import spread
from alexnet_infer.doctor.achieved import achieved
from alexnet_infer.doctor.finding import Finding
from alexnet_infer.doctor.judge import Trial, judge
from alexnet_infer.errors import UsageError
from alexnet_infer.predict import Net
from alexnet_infer.progress import counting
from alexnet_infer.reading import batches, decode_ahead

IMAGES = 1000
"""Maximum number of images in the sample. The bundled net classifies them in a few seconds."""
DEEP_CLASSES, DEEP = 100, 5
"""This many classes get this many images each before other classes get any. With five images, an unknown permutation
shows; a known one shows if every class has one."""
MOST = 50
"""Maximum number of images of one class."""


def try_net(data: LabelledImages, net: Net) -> Finding:
    """Compare the labels of a sample of the images with a net's guesses."""
    try:
        to_net = np.array(map_classes(data.classes, net.classes))
    except UsageError as error:
        return not_tried(str(error))
    labels = np.array(data.labels, int)
    positions = sample(labels, to_net)
    names, labels_read, probabilities = _guesses(data, positions, net)
    if not names:
        return not_tried("no image of the net's classes can be read")
    if not np.isfinite(probabilities).all():
        return not_tried(f"{net.manifest.name} gives probabilities that are NaN or infinite")
    return judge(
        Trial(
            labels=labels_read,
            probabilities=probabilities,
            to_net=to_net,
            classes=data.classes,
            net_classes=net.classes,
            names=names,
            available=int((to_net[labels] >= 0).sum()),
            achieved=achieved(net),
        )
    )


def not_tried(reason: str) -> Finding:
    """Return the finding that no net was tried."""
    return Finding(level="note", title="the net was not tried", detail=reason)


def sample(labels: np.ndarray, to_net: np.ndarray) -> list[int]:
    """Return the ascending positions of a sample: at most IMAGES evenly spaced images of classes that the net knows.

    `labels` int [N] of the set; `to_net` int [C] is the net's class for each label, or -1.
    """
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    places = {int(label): own for label, own in zip(present, np.split(order, starts[1:]), strict=True)}
    known = [label for label in places if to_net[label] >= 0]
    numbers = dict.fromkeys(known, 0)
    left = IMAGES
    for group, most in ((spread(known, DEEP_CLASSES), DEEP), (known, MOST)):
        for level in range(1, most + 1):
            wanting = [label for label in group if numbers[label] < level <= len(places[label])]
            for label in spread(wanting, left):
                numbers[label] += 1
                left -= 1
    return sorted(int(i) for label, count in numbers.items() for i in spread(places[label], count))


def _guesses(data: LabelledImages, positions: Sequence[int], net: Net) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, labels int [N] and the net's probabilities [N, K] of the images that can be read."""
    square = partial(Example.square, rescaling=net.rescaling)
    names, labels, rows = [], [], []
    with counting("trying a net", len(positions)) as advance:
        for batch in batches(decode_ahead(data.at(positions, "yield"), square), 32):
            readable = [image for image in batch if image.error is None]  # the others have been reported already
            if readable:
                names += [image.source.relative_name for image in readable]
                labels += [image.source.label for image in readable]
                rows.append(net.probabilities([image.image for image in readable]))
            advance(len(batch))
    return names, np.array(labels, int), np.concatenate(rows) if rows else np.empty((0, len(net.classes)))
