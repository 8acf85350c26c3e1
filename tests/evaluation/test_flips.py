"""Flips by class, counted by hand."""

from __future__ import annotations

import numpy as np

from alexnet_infer.evaluation.flips import ClassFlips, flips_by_class
from alexnet_infer.evaluation.tally import Tally
from alexnet_infer.manifest import ClassName

CLASSES = [ClassName(wnid=f"n{i}", name=f"class {i}") for i in range(4)]


def tally(guesses: list[int | None], labels: list[int]) -> Tally:
    """Return the tally of a net whose first guess for each image is given, or None for an unreadable image."""
    made = Tally(len(CLASSES))
    for guess, label in zip(guesses, labels, strict=True):
        if guess is None:
            made.add_unreadable(label)
        else:
            made.add(np.eye(4)[[guess]], np.array([label]), np.array([label]))
    return made


def test_flips_are_counted_by_the_label_and_by_what_they_changed():
    labels = [0, 0, 0, 1, 2, 2, 2, 2]
    before = [0, 0, 1, 1, 0, 2, 1, None]
    after = [0, 1, 0, 1, 2, 3, 3, None]
    counted = flips_by_class(tally(before, labels), tally(after, labels), CLASSES)
    assert counted == (
        ClassFlips(wnid="n2", name="class 2", images=3, flips=3, became_wrong=1, became_right=1),
        ClassFlips(wnid="n0", name="class 0", images=3, flips=2, became_wrong=1, became_right=1),
    )


def test_classes_with_as_many_flips_are_in_the_order_of_the_data():
    labels = [3, 1, 2]
    counted = flips_by_class(tally([3, 1, 2], labels), tally([0, 0, 0], labels), CLASSES)
    assert [row.wnid for row in counted] == ["n1", "n2", "n3"]
