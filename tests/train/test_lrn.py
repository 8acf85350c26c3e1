"""LRN for training against the paper's formula, PyTorch's own layer and numerical derivatives."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch

from alexnet_infer.architecture import LRN
from train import lrn as module
from train.lrn import lrn
from train.model import LocalResponseNorm


def paper(x: np.ndarray, spec: LRN) -> np.ndarray:
    """LRN by section 3.3: the sum is over max(0, i - n/2) .. min(N - 1, i + n/2), N a column's number of kernels."""
    y, kernels = np.empty_like(x), x.shape[1] // spec.groups
    for i in range(x.shape[1]):
        column, at = divmod(i, kernels)
        window = range(max(0, at - spec.size // 2), min(kernels - 1, at + spec.size // 2) + 1)
        total = sum(x[:, column * kernels + j] ** 2 for j in window)
        y[:, i] = x[:, i] / (spec.k + spec.alpha * total) ** spec.beta
    return y


def activations(channels: int = 12, scale: float = 300.0, images: int = 2) -> torch.Tensor:
    """Return float64 [images, channels, 3, 4] in the hundreds, so that the sum is larger than k."""
    return torch.from_numpy(np.random.default_rng(0).normal(0, scale, (images, channels, 3, 4)))


def apply(x: torch.Tensor, spec: LRN) -> torch.Tensor:
    return LocalResponseNorm(spec)(x)


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("constants", [{}, {"size": 3, "k": 1.0}, {"beta": 0.5, "alpha": 1e-3}])
def test_lrn_equals_the_papers_formula(groups, constants):
    spec, x = LRN(name="n", groups=groups, **constants), activations()
    np.testing.assert_allclose(apply(x, spec).numpy(), paper(x.numpy(), spec), rtol=1e-12)


@pytest.mark.parametrize("wrong", [{"alpha": 2e-5}, {"alpha": 5e-4}, {"k": 1.0}, {"groups": 1}, {"size": 3}])
def test_wrong_constants_or_groups_give_a_large_difference(wrong):
    x, right = activations(), LRN(name="n", groups=2)
    difference = (apply(x, LRN(name="n", **{"groups": 2} | wrong)) - torch.from_numpy(paper(x.numpy(), right))).abs()
    assert difference.max() > 1


def test_lrn_equals_pytorchs_layer_which_divides_alpha_by_the_size():
    spec, x = LRN(name="n"), activations()
    layer = torch.nn.LocalResponseNorm(spec.size, spec.alpha * spec.size, spec.beta, spec.k)
    torch.testing.assert_close(apply(x, spec), layer(x), rtol=1e-12, atol=0)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("beta", [0.75, 0.6])
def test_the_gradient_equals_numerical_derivatives(groups, beta):
    spec = LRN(name="n", groups=groups, beta=beta)
    x = activations(8)[:, :, :2, :2].contiguous().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: lrn(x, spec), x)


def test_the_gradient_does_not_cross_columns():
    x = activations(8).requires_grad_()
    apply(x, LRN(name="n", groups=2))[:, 3].sum().backward()
    assert x.grad[:, 4:].abs().max() == 0
    assert x.grad[:, 1:4].abs().min() > 0


def test_the_output_has_the_layout_and_type_of_the_input():
    x = activations().to(memory_format=torch.channels_last)
    y = apply(x.bfloat16(), LRN(name="n", groups=2))
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y.double(), apply(x, LRN(name="n", groups=2)), rtol=0.03, atol=0.03)


@pytest.mark.parametrize("images", [0, 1, 2])
def test_output_and_gradient_are_channels_last_whatever_the_input_is(images):
    spec, x = LRN(name="n", groups=2), activations(images=images)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        given = x.clone(memory_format=memory_format).requires_grad_()
        y = apply(given, spec)
        (gradient,) = torch.autograd.grad(y.sum(), given)
        np.testing.assert_allclose(y.detach().numpy(), paper(x.numpy(), spec), rtol=1e-12)
        for result in (y, gradient):
            assert result.shape == x.shape
            assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_gradient_in_lower_precision_is_close_to_float64s(dtype):
    spec, x, weights = LRN(name="n", groups=2), activations(scale=100.0), activations(scale=1.0)
    low = x.to(dtype).requires_grad_()
    (actual,) = torch.autograd.grad(lrn(low, spec), low, weights.to(dtype))
    wide = low.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(lrn(wide, spec), wide, weights.to(dtype).double())
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), expected, rtol=4 * torch.finfo(dtype).eps, atol=1e-5)


def test_what_the_forward_pass_keeps_is_not_differentiable():
    y, kept = torch.ops.alexnet_infer.lrn(activations().requires_grad_(), 5, 1e-4, 0.75, 2.0, 2)
    assert (y.requires_grad, kept.requires_grad) == (True, False)


@pytest.mark.parametrize("rows", [1, 5, 23, 24, 1024])
def test_the_result_does_not_depend_on_the_block_size(monkeypatch, rows):
    x, spec = activations().requires_grad_(), LRN(name="n", groups=2)
    weights = activations(scale=1.0)
    (expected,) = torch.autograd.grad((lrn(x, spec) * weights).sum(), x)
    monkeypatch.setattr(module, "BLOCK", rows * x.shape[1])
    (gradient,) = torch.autograd.grad((lrn(x, spec) * weights).sum(), x)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=0)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # PyTorch 2.14's own opcheck
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("images", [1, 2])
def test_the_operator_passes_pytorchs_checks(dtype, images):
    """They check the schema, the fake implementation, the registered gradient and tracing by the compiler."""
    x = activations(images=images).to(dtype).requires_grad_()
    torch.library.opcheck(torch.ops.alexnet_infer.lrn.default, (x, 5, 1e-4, 0.75, 2.0, 2))
