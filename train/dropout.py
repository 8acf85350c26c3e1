"""Dropout whose masks are a hash of given numbers, so that there is no generator state to save."""

from __future__ import annotations

import torch
from torch import Tensor, nn

GOLDEN = -7046029254386353131  # 2^64 / the golden ratio, odd, as int64: the increment of SplitMix64
INVERSE = -1018231460777725123  # GOLDEN * INVERSE = 1 modulo 2^64


class Dropout(nn.Module):
    """Dropout (section 4.2): zero each unit with probability `rate` and scale the others by 1 / (1 - rate).

    A hash of the image's key, this layer's `salt` and the unit's number decides whether a unit is kept. So the mask
    depends neither on the device nor on how images and columns are distributed over processes, and a resumed run needs
    no generator state.
    """

    def __init__(self, rate: float, salt: int) -> None:
        super().__init__()
        self.rate, self.salt = rate, salt
        self.first_unit = 0
        """Number of the first unit that this process holds."""

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """Apply dropout to x [N, units] or, value by value, [N, C, H, W].

        `keys`: int64 [N], one number per image, new in every step. Raises ValueError if it is None in training.
        """
        if not self.training or self.rate == 0:
            return x
        if keys is None:
            raise ValueError("dropout in training needs a key for each image")
        units = torch.arange(self.first_unit, self.first_unit + x[0].numel(), device=x.device)
        # split_mix(split_mix(keys + salt) + GOLDEN * (units + 1)), rewritten: PyTorch's compiler computes
        # GOLDEN * (units + 1) as a 32-bit index, and with the 64-bit GOLDEN the kernel would not compile.
        hashed = split_mix(GOLDEN * (INVERSE * split_mix(keys + self.salt)[:, None] + (units + 1)))
        kept = (hashed & (2**24 - 1)) >= int(self.rate * 2**24)
        return x * (kept / (1 - self.rate)).to(x.dtype).view_as(x)


def split_mix(z: Tensor) -> Tensor:
    """Apply SplitMix64's mixing function (Steele, Lea, Flood 2014) to int64, which wraps around as uint64 does."""
    z = (z ^ _shift(z, 30)) * -4658895280553007687
    z = (z ^ _shift(z, 27)) * -7723592293110705685
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift right without copying the sign bit, which int64's own shift does."""
    return (z >> bits) & (2 ** (64 - bits) - 1)
