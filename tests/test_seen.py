"""The part of a photo that nets see."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_infer.preprocess import Preprocessing
from alexnet_infer.seen import Seen


def preprocessing(size: int = 64, patch: int = 57, fit: str = "crop") -> Preprocessing:
    return Preprocessing(size=size, patch=patch, fit=fit, mean=np.zeros(3, np.float32))


@pytest.mark.parametrize(
    ("nets", "photo", "box"),
    [
        ([(preprocessing(), "ten")], (900, 640), (130, 0, 770, 640)),
        ([(preprocessing(), "ten")], (640, 900), (0, 130, 640, 770)),
        ([(preprocessing(), "center")], (900, 640), (160, 30, 730, 600)),
        ([(preprocessing(patch=64), "center")], (900, 640), (130, 0, 770, 640)),
        ([(preprocessing(fit="crop-torchvision"), "center")], (640, 640), (30, 30, 600, 600)),
        ([(preprocessing(fit="stretch"), "center")], (1280, 640), (60, 30, 1200, 600)),
        ([(preprocessing(fit="stretch"), "ten")], (1280, 640), None),
        ([(preprocessing(), "ten")], (640, 640), None),
        ([(preprocessing(), "ten")], (103, 100), None),
        ([(preprocessing(), "ten")], (104, 100), (2, 0, 102, 100)),
        ([(preprocessing(), "center"), (preprocessing(256, 227), "center")], (2560, 2560), (120, 120, 2410, 2410)),
        ([(preprocessing(), "center"), (preprocessing(256, 227), "ten")], (2560, 2560), None),
    ],
)
def test_the_box_is_the_union_of_what_the_nets_see_or_none_if_that_is_all(nets, photo, box):
    assert Seen.of(nets).box(*photo) == box


def test_nets_that_stretch_and_nets_that_crop_have_no_common_rectangle():
    assert Seen.of([(preprocessing(), "ten"), (preprocessing(fit="stretch"), "center")]) is None
