"""Known wrong orders of classes."""

from __future__ import annotations

import numpy as np

from alexnet_infer.datasets.ilsvrc import ilsvrc_classes
from alexnet_infer.doctor.order import IDS, LABELS
from alexnet_infer.doctor.orders import known_orders
from tests.doctor.simulated import CLASSES, COUNT


def orders(classes=CLASSES) -> dict[str, list[np.ndarray]]:
    found: dict[str, list[np.ndarray]] = {}
    for name, order in known_orders(classes):
        found.setdefault(name, []).append(order)
    return found


def test_numbers_that_are_sorted_as_text():
    listed, inverse = orders()["the order of numbers sorted as text (0, 1, 10, 100, ...)"]
    assert listed[:5].tolist() == [0, 1, 10, 11, 12]  # label 2 is the class whose folder is called 10
    assert inverse[listed].tolist() == [*range(COUNT)]
    listed, _ = orders()["the order of numbers from 1 sorted as text (1, 10, 100, ...)"]
    assert listed[:4].tolist() == [0, 9, 10, 11]  # the folders 1, 10, 11, 12


def test_the_devkits_order_gives_the_published_ids_of_the_first_images():
    found = orders(ilsvrc_classes())
    (minus_one,), (as_is,) = (found[f"the devkit's order (ILSVRC2012_ID{end})"] for end in (" - 1", ""))
    assert [minus_one[i - 1] for i in IDS] == list(LABELS)
    assert [as_is[i] for i in IDS] == list(LABELS)
    assert sorted(minus_one) == [*range(1000)]
    assert [ilsvrc_classes()[minus_one[i]].short for i in (0, 1, 999)] == ["kit fox", "English setter", "dumbbell"]


def test_a_part_of_ilsvrcs_classes_keeps_the_devkits_order_and_other_classes_have_none():
    classes = ilsvrc_classes()[::5]
    (order,) = orders(classes)["the devkit's order (ILSVRC2012_ID - 1)"]
    (whole,) = orders(ilsvrc_classes())["the devkit's order (ILSVRC2012_ID - 1)"]
    assert [5 * i for i in order] == [i for i in whole if i % 5 == 0]
    assert not any("devkit" in name for name in orders())


def test_alphabetical_order_reverse_order_and_shifts():
    found = orders()
    names = [CLASSES[i].name for i in found["alphabetical order of the classes' names"][0]]
    assert names == sorted(names) != [c.name for c in CLASSES]
    assert found["reverse order"][0].tolist() == [*range(COUNT)][::-1]
    assert found["positions counted from 1"][0].tolist() == [-1, *range(COUNT - 1)]
    assert found["positions minus 1"][0].tolist() == [*range(1, COUNT), -1]
    assert found["positions plus 7"][0][:8].tolist() == [*range(COUNT - 7, COUNT), 0]
    shifts = {tuple(order) for name, group in found.items() if name.startswith("positions ") for order in group}
    assert {tuple(np.roll(np.arange(COUNT), step)) for step in range(1, COUNT)} <= shifts


def test_no_order_is_the_right_one_unless_the_names_are_sorted_too():
    right = [*range(COUNT)]
    assert not [name for name, order in known_orders(CLASSES) if order.tolist() == right]
