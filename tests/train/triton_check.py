"""Run by tests with TRITON_INTERPRET=1: compares the trainer's Triton kernels with its code for CPUs.

python -m tests.train.triton_check lrn | augment

Triton's interpreter truncates float32 to bfloat16, but a GPU rounds (`cvt.rn`, which another test checks).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import product

import numpy as np
import torch

from alexnet_infer.architecture import LRN
from train import lrn_triton
from train.augment import Augment, ColorPCA, EpochPlan
from train.augment_triton import training_patches
from train.lrn import lrn

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-11 + 2e-6}
"""Relative rounding errors: results are computed in float32 and rounded once."""

COLUMNS = (  # channels and columns: the presets', then vectors of 4, 2 and 1 channels, and windows cut at both ends
    *((96, 1), (96, 2), (256, 1), (256, 2)),
    *((24, 2), (20, 1), (6, 1), (10, 2), (9, 3)),
)


def check_lrn() -> int:
    """Compare with the operator in float64: all numbers of channels, all types, windows of 3, 5 and 7."""
    cases = 0
    for (i, (channels, groups)), (j, dtype) in product(enumerate(COLUMNS), enumerate(TOLERANCE)):
        size = (3, 5, 7)[(i + j) % 3]
        spec = LRN(name="n", size=size, groups=groups, beta=0.6 if size == 3 else 0.75)
        generator = torch.Generator().manual_seed(cases)
        x = (torch.randn(1, channels, 3, 5, generator=generator) * 300).to(dtype)
        grad = torch.randn(x.shape, generator=generator).to(dtype)
        wide = x.double().requires_grad_()
        expected = lrn(wide, spec)
        (expected_grad,) = torch.autograd.grad(expected, wide, grad.double())
        constants = (spec.size, spec.alpha, spec.beta, spec.k, spec.groups)
        y = lrn_triton.forward(x, *constants)
        x_grad = lrn_triton.backward(grad, x, *constants)
        # The gradient is a difference of terms that can be as large as its largest values.
        slack = TOLERANCE[dtype] * expected_grad.abs().max().item()
        for a, b, atol in ((y, expected, 1e-7), (x_grad, expected_grad, slack)):
            assert a.dtype == dtype
            assert a.is_contiguous(memory_format=torch.channels_last)
            error = (a.double() - b).abs() - TOLERANCE[dtype] * b.abs()
            assert error.max() <= atol, (spec, channels, dtype, error.max().item(), atol)
        cases += 1
    empty = torch.empty(0, 96, 3, 5)
    assert lrn_triton.forward(empty, *constants[:-1], 2).shape == empty.shape
    return cases


def check_augment() -> int:
    """Compare patches bit for bit: at the first and the last corner and at random ones, mirrored or not."""
    rng, cases = np.random.default_rng(0), 0
    pca = ColorPCA.from_covariance(np.array([[4000.0, 3000, 2000], [3000, 5000, 2500], [2000, 2500, 6000]]))
    for side, patch, count, types in ((64, 57, 4, 3), (256, 227, 2, 1), (12, 9, 5, 3)):
        images = torch.from_numpy(rng.integers(0, 256, (count + 3, side, side, 3), np.uint8))
        rows, index = torch.arange(count), torch.from_numpy(rng.permutation(count + 3)[:count])
        plan = EpochPlan.draw(count, seed=1, epoch=2)
        plan.corner[:2] = torch.tensor([[0.0], [1.0]])
        plan = replace(plan, mirror=rows % 2 == 1)
        for shape, integer in (((side, side, 3), torch.int64), ((3,), torch.int32)):
            mean = rng.uniform(90, 130, shape).astype(np.float32)
            augment = Augment(mean, pca, patch, 0.1, torch.device("cpu"))
            corner = (plan.corner * (side - patch + 1)).to(integer).clamp_max(side - patch)
            inputs = (images, index, corner, plan.mirror, plan.color @ augment.color, augment.mean, patch)
            expected = augment.training(images, plan, rows, index)
            cut = (expected.view(torch.int32) & -(2**16)).view(torch.float32).bfloat16()
            for converted in (expected, expected.half(), cut)[:types]:
                patches = training_patches(*inputs, converted.dtype)
                assert patches.is_contiguous(memory_format=torch.channels_last)
                assert torch.equal(patches, converted), (side, patch, shape, converted.dtype)
                cases += 1
    check_large_set()
    return cases


def check_large_set() -> None:
    """Check the last image of a set of more than 2^31 bytes. Only the pages of this image are used."""
    side, patch = 256, 20
    images = torch.empty((2**31 // (side * side * 3) + 2, side, side, 3), dtype=torch.uint8)
    images[-1] = torch.arange(side, dtype=torch.uint8)[:, None, None]
    index, corner = torch.tensor([len(images) - 1]), torch.tensor([[3, 5]])
    noise, mean = torch.zeros(1, 3), torch.zeros(3)
    patches = training_patches(images, index, corner, torch.tensor([False]), noise, mean, patch, torch.float32)
    assert torch.equal(patches[0, 0, :, 0], torch.arange(3.0, 3 + patch))


if __name__ == "__main__":
    cases = {"lrn": check_lrn, "augment": check_augment}[sys.argv[1]]()
    print(f"{cases} cases agree")
