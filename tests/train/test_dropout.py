"""Dropout whose masks are a hash of keys."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from train.dropout import GOLDEN, Dropout, split_mix


def mask(rate: float = 0.5, keys: int = 400, units: int = 500, salt: int = 3) -> torch.Tensor:
    return Dropout(rate, salt)(torch.ones(keys, units), torch.arange(keys))


def test_split_mix_is_the_published_function():
    """The output of the authors' C code for the seed 1234567, whose state grows by a constant in each step."""
    golden, seed = 0x9E3779B97F4A7C15, 1234567
    states = [(seed + (i + 1) * golden) % 2**64 for i in range(5)]
    signed = torch.tensor([s - 2**64 if s >= 2**63 else s for s in states])
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [v % 2**64 for v in split_mix(signed).tolist()] == expected


def test_the_hashes_of_an_images_units_are_the_sequence_of_split_mix_that_starts_at_its_key():
    module, keys = Dropout(0.5, salt=3), torch.randint(-(2**63), 2**63 - 1, (20,))
    module.first_unit = 7
    units = torch.arange(7, 107)
    hashed = split_mix(split_mix(keys + 3)[:, None] + GOLDEN * (units + 1))
    assert torch.equal(module(torch.ones(20, 100), keys) > 0, (hashed & (2**24 - 1)) >= 2**23)


def test_constants_of_64_bits_are_only_combined_with_values_from_the_keys():
    """The compiler would compute other products as 32-bit indices, and its kernel for a GPU would not compile."""
    module, large = Dropout(0.5, salt=3), 0
    graph = make_fx(module)(torch.ones(4, 8), torch.arange(4)).graph
    from_keys = {[node for node in graph.nodes if node.op == "placeholder"][1]}
    for node in graph.nodes:
        if from_keys & {*node.all_input_nodes}:
            from_keys.add(node)
        if any(isinstance(value, int) and abs(value) >= 2**31 for value in node.args):
            large += 1
            assert node in from_keys, node
    assert large >= 4


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_the_share_of_zeros_is_the_rate_and_kept_units_are_scaled_up(rate):
    values = mask(rate)
    assert values.unique().tolist() == pytest.approx([0, 1 / (1 - rate)])
    share = (values == 0).double().mean().item()
    assert share == pytest.approx(rate, abs=4 * (rate * (1 - rate) / values.numel()) ** 0.5)


def test_units_images_and_layers_are_dropped_independently():
    values = (mask() > 0).double() - 0.5
    noise = 4 / values.numel() ** 0.5
    assert (values[:, 1:] * values[:, :-1]).mean().abs() / 0.25 < noise
    assert (values[1:] * values[:-1]).mean().abs() / 0.25 < noise
    assert (values * ((mask(salt=4) > 0).double() - 0.5)).mean().abs() / 0.25 < noise


def test_a_part_of_the_batch_and_units_has_the_same_part_of_the_mask():
    whole = mask(keys=6, units=8)
    part = Dropout(0.5, 3)
    part.first_unit = 4
    assert torch.equal(part(torch.ones(2, 4), torch.arange(6)[2:4]), whole[2:4, 4:])


def test_evaluation_changes_nothing_and_training_without_keys_is_refused():
    layer, x = Dropout(0.5, 0), torch.randn(3, 4)
    with pytest.raises(ValueError, match="a key for each image"):
        layer(x)
    assert layer.eval()(x) is x
