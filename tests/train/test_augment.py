"""Training views against the exact sub-images they must be, and the colour noise against its covariance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch

from train.augment import Augment, ColorPCA, EpochPlan
from train.evaluate import view_patches

S, PATCH, LAST = 12, 9, 3
CPU = torch.device("cpu")
MEAN = np.array([100, 110, 120], np.float32)
COVARIANCE = np.array([[4000.0, 3000, 2000], [3000, 5000, 2500], [2000, 2500, 6000]])


def squares(count: int, seed: int = 0) -> torch.Tensor:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, S, S, 3), np.uint8)
    return torch.from_numpy(pixels)


def augment(mean: np.ndarray = MEAN, color_sigma: float = 0.0) -> Augment:
    return Augment(mean, ColorPCA.from_covariance(COVARIANCE), PATCH, color_sigma, CPU)


def placed(plan: EpochPlan, row: float, column: float, mirror: bool) -> EpochPlan:
    corner = torch.tensor([[row, column]], dtype=torch.float32).expand_as(plan.corner)
    return replace(plan, corner=corner, mirror=torch.full_like(plan.mirror, mirror))


def sub_images(square_hwc: np.ndarray, mean: np.ndarray) -> dict[tuple[int, int, bool], np.ndarray]:
    """Return every patch of a square by slicing: (row, column, mirrored) -> float32 [3, PATCH, PATCH]."""
    image = (square_hwc.astype(np.float32) - mean).transpose(2, 0, 1)
    cut = {(y, x): image[:, y : y + PATCH, x : x + PATCH] for y in range(LAST + 1) for x in range(LAST + 1)}
    return {(y, x, m): p[:, :, ::-1] if m else p for (y, x), p in cut.items() for m in (False, True)}


@pytest.mark.parametrize("mean", [MEAN, np.random.default_rng(5).uniform(90, 130, (S, S, 3)).astype(np.float32)])
def test_without_colour_noise_patches_are_all_sub_images_and_their_mirror_images(mean):
    images, seen = squares(4), set()
    for epoch in range(100):
        plan = EpochPlan.draw(4, 0, epoch)
        made = augment(mean).training(images, plan, torch.arange(4)).numpy()
        for square, patch in zip(images.numpy(), made, strict=True):
            matches = [key for key, cut in sub_images(square, mean).items() if np.array_equal(cut, patch)]
            assert len(matches) == 1
            seen.add(matches[0])
    assert len(seen) == 2 * (LAST + 1) ** 2


@pytest.mark.parametrize(("draw", "offset"), [(0.0, 0), (0.2499, 0), (0.25, 1), (0.999999, LAST), (1.0, LAST)])
def test_draws_from_0_to_1_reach_from_the_first_corner_to_the_last(draw, offset):
    images, plan = squares(1), placed(EpochPlan.draw(1, 0, 0), draw, draw, mirror=True)
    made = augment().training(images, plan, torch.arange(1)).numpy()[0]
    np.testing.assert_array_equal(made, sub_images(images.numpy()[0], MEAN)[offset, offset, True])


@pytest.mark.parametrize("side", [S, S - 1])
def test_training_on_central_views_takes_the_validation_views_patch_and_never_mirrors(side):
    pca = ColorPCA.from_covariance(COVARIANCE)
    center = Augment(MEAN, pca, PATCH, 0.0, CPU, views="center")
    noisy = Augment(MEAN, pca, PATCH, 0.5, CPU, views="center")
    images = squares(6)[:, :side, :side]
    expected = view_patches(images, torch.from_numpy(MEAN), PATCH, "center")[:, 0]
    for epoch in range(3):
        plan = EpochPlan.draw(6, 0, epoch)
        assert torch.equal(center.training(images, plan, torch.arange(6)), expected)
        noise = noisy.training(images, plan, torch.arange(6)) - expected
        torch.testing.assert_close(noise, noise[:, :, :1, :1].expand_as(noise), atol=1e-4, rtol=0)
        assert (noise[:, :, 0, 0] != 0).all(), "colour noise is a switch of its own"


def test_offsets_and_mirrors_are_uniform():
    plan = EpochPlan.draw(8000, 3, 0)
    counts = torch.bincount((plan.corner[:, 0] * 4).long() * 4 + (plan.corner[:, 1] * 4).long(), minlength=16)
    assert (counts - 500).abs().max() < 110  # five standard deviations of a binomial with p = 1/16
    assert abs(plan.mirror.float().mean().item() - 0.5) < 0.03
    assert sorted(plan.order.tolist()) == list(range(8000))


def test_an_images_patch_does_not_depend_on_its_batch():
    images, plan, noisy = squares(12), EpochPlan.draw(12, 0, 1), augment(color_sigma=0.1)
    whole = noisy.training(images, plan, torch.arange(12))
    rows = torch.tensor([7, 2, 11])
    torch.testing.assert_close(noisy.training(images[rows], plan, rows), whole[rows], rtol=1e-6, atol=1e-4)
    assert torch.equal(
        augment().training(images[rows], plan, rows), augment().training(images, plan, torch.arange(12))[rows]
    )


def test_the_draw_is_a_function_of_seed_and_epoch():
    settings = ((0, 0), (0, 0), (0, 1), (1, 0))
    first, again, next_epoch, next_seed = (EpochPlan.draw(20, seed, epoch) for seed, epoch in settings)
    for name in ("order", "corner", "mirror", "color"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(next_epoch, name))
        assert not torch.equal(getattr(first, name), getattr(next_seed, name))


def color_noise(count: int, sigma: float = 0.1) -> np.ndarray:
    """Return [count, 3]: the noise of each image, measured on its patch."""
    images = torch.full((count, S, S, 3), 128, dtype=torch.uint8)
    made = augment(color_sigma=sigma).training(images, EpochPlan.draw(count, 0, 0), torch.arange(count))
    noise = made.double().numpy() + MEAN[:, None, None] - 128
    assert np.ptp(noise, axis=(2, 3)).max() == 0, "one colour for the whole image"
    return noise[:, :, 0, 0]


def test_colour_noise_has_the_covariance_of_section_4_1():
    # The paper, for pixels in 0-1: add the sum of p_i a_i lambda_i with a_i ~ N(0, 0.1). The covariance of this sum is
    # 0.01 C^2, where C is the covariance of the pixels.
    pixels = COVARIANCE / 255**2
    expected = 0.01 * pixels @ pixels * 255**2  # back in grey levels
    covariance = np.cov(color_noise(20000).T, bias=True)
    np.testing.assert_allclose(covariance, expected, atol=0.05 * expected.max())
    np.testing.assert_allclose(color_noise(20000).mean(0), 0, atol=0.05 * np.sqrt(expected.max()))


def test_components_are_the_covariances_eigenvectors():
    pca = ColorPCA.from_covariance(COVARIANCE)
    np.testing.assert_allclose((pca.axes * pca.scale * 255) @ pca.axes.T, COVARIANCE, rtol=1e-4)


def test_a_set_of_one_colour_has_no_colour_noise():
    pca = ColorPCA.from_covariance(np.full((3, 3), -1e-12))
    assert pca.scale.min() == 0
    assert pca.scale.max() < 1e-9


def test_patches_are_channels_last_in_memory():
    made = augment(color_sigma=0.1).training(squares(2), EpochPlan.draw(2, 0, 0), torch.arange(2))
    assert made.shape == (2, 3, PATCH, PATCH)
    assert made.is_contiguous(memory_format=torch.channels_last)
