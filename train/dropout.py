"""Dropout whose mask follows from numbers, not from a generator's state."""

from __future__ import annotations

import torch
from torch import Tensor, nn

GOLDEN = -7046029254386353131  # 2^64 / the golden ratio, odd, as int64: the increment of SplitMix64
INVERSE = -1018231460777725123  # GOLDEN * INVERSE = 1 modulo 2^64


class Dropout(nn.Module):
    """Zeroes each unit with probability `rate` and scales the others by 1 / (1 - rate) (section 4.2).

    Whether a unit is kept is a hash of (the image's key, this layer's `salt`, the unit's number). So the mask is the
    same however a batch is spread over processes, however the layer is spread over columns, and on every device; and a
    run that is resumed needs no generator's state.
    """

    def __init__(self, rate: float, salt: int) -> None:
        super().__init__()
        self.rate, self.salt = rate, salt
        self.first_unit = 0
        """Number of the first unit that this process holds."""

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """x [N, units] (or [N, C, H, W], by value); `keys` int64 [N], a fresh number for each image and step."""
        if not self.training or self.rate == 0:
            return x
        if keys is None:
            raise ValueError("dropout in training needs a key for each image")
        units = torch.arange(self.first_unit, self.first_unit + x[0].numel(), device=x.device)
        # split_mix(split_mix(keys + salt) + GOLDEN * (units + 1)). PyTorch's compiler takes GOLDEN * (units + 1) for an
        # index of 32 bits; GOLDEN has 64, and the kernel would not compile.
        hashed = split_mix(GOLDEN * (INVERSE * split_mix(keys + self.salt)[:, None] + (units + 1)))
        kept = (hashed & (2**24 - 1)) >= int(self.rate * 2**24)
        return x * (kept / (1 - self.rate)).to(x.dtype).view_as(x)


def split_mix(z: Tensor) -> Tensor:
    """SplitMix64's mixing function (Steele, Lea, Flood 2014) on int64, which wraps around as uint64 does."""
    z = (z ^ _shift(z, 30)) * -4658895280553007687
    z = (z ^ _shift(z, 27)) * -7723592293110705685
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: int64's own carries the sign along."""
    return (z >> bits) & (2 ** (64 - bits) - 1)
