"""Matching a file's layers to an architecture's tensors."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_infer.errors import SpecError
from alexnet_infer.importing.roles import Layer, by_role
from tests.nets import TINY

ARCHITECTURE = TINY.build()


def layers() -> list[Layer]:
    """The architecture's layers under meaningless names."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for i, (name, shape) in enumerate(ARCHITECTURE.tensors.items()):
        layer, part = name.split(".")
        parts.setdefault(layer, {})[part] = np.full(shape, i, np.float32)
    return [Layer(name=f"x{i}", tensors=tensors) for i, tensors in enumerate(parts.values())]


def test_tensors_are_matched_to_layers_by_position():
    tensors = by_role(layers(), ARCHITECTURE)
    assert list(tensors) == list(ARCHITECTURE.tensors)
    assert [int(t.flat[0]) for t in tensors.values()] == list(range(16))


def test_a_missing_or_additional_layer_is_refused_with_both_lists():
    with pytest.raises(SpecError, match=r"has 7 layers with weights \(x1, x2.*x7\): expected 8 \(conv1, .*, fc8\)"):
        by_role(layers()[1:], ARCHITECTURE)
    with pytest.raises(SpecError, match=r"has 9 layers with weights \(x0, .*, x7, x0\): expected 8"):
        by_role([*layers(), layers()[0]], ARCHITECTURE)
    with pytest.raises(SpecError, match=r"has 80 layers with weights .* and 68 more\)"):
        by_role(layers() * 10, ARCHITECTURE)
    with pytest.raises(SpecError, match=r"has 0 layers with weights \(none\)"):
        by_role([], ARCHITECTURE)


def test_missing_additional_and_misshapen_parts_are_refused_with_their_names():
    for change, message in (
        ({"bias": None}, "missing tensors: x2.bias"),
        ({"scale": np.ones(3)}, "unknown tensors: x2.scale"),
        ({"bias": np.ones(5, np.float32)}, r"'x2.bias' has shape \[5\]: expected \[32\], that of conv3.bias"),
    ):
        changed = layers()
        tensors = {k: v for k, v in {**changed[2].tensors, **change}.items() if v is not None}
        changed[2] = Layer(name="x2", tensors=tensors)
        with pytest.raises(SpecError, match=message):
            by_role(changed, ARCHITECTURE)


def test_names_from_files_are_escaped_and_shortened():
    with pytest.raises(SpecError) as caught:
        by_role([Layer(name="\x1b[2J\n" + "x" * 1000, tensors={})], ARCHITECTURE)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
