"""Training views (section 4.1 of the paper), cut on the device from uint8 squares.

All random numbers of an epoch are drawn at its start from (seed, epoch) alone, one row per image of the set. So an
image's numbers do not depend on the batch size, the number of processes or the step at which a run was resumed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from alexnet_infer.preprocess import patch_offsets


@dataclass(frozen=True)
class ColorPCA:
    """Principal components of the RGB values of a training set's pixels, for the colour noise.

    `axes` float32 [3, 3] has a unit eigenvector of the covariance in each column. `scale` float32 [3] has the factor of
    each axis. The paper multiplies by the eigenvalue lambda for pixels in 0-1. In grey levels, that is 255 * lambda, or
    lambda_255 / 255 with the eigenvalue lambda_255 for pixels in 0-255.
    """

    axes: np.ndarray
    scale: np.ndarray

    @classmethod
    def from_covariance(cls, covariance: np.ndarray) -> ColorPCA:
        """Return the components of the 3 x 3 covariance of pixel values in 0-255."""
        values, vectors = np.linalg.eigh(covariance)
        return cls(vectors.astype(np.float32), (values.clip(0) / 255).astype(np.float32))


@dataclass(frozen=True)
class EpochPlan:
    """Order and random numbers of one epoch, for a set of N images."""

    order: Tensor
    """int64 [N]: a permutation of the set."""
    corner: Tensor
    """float32 [N, 2] in 0..1: position of the patch between the first and the last possible row and column."""
    mirror: Tensor
    """bool [N]: whether to mirror the patch."""
    color: Tensor
    """float32 [N, 3]: coefficients of the colour noise, N(0, 1), not yet multiplied by `color_sigma`."""
    key: Tensor
    """int64 [N]: the numbers that decide the dropout masks (`train.dropout`)."""

    @classmethod
    def draw(cls, count: int, seed: int, epoch: int) -> EpochPlan:
        """Draw the plan of an epoch for a set of `count` images."""
        rng = np.random.default_rng((seed, epoch))
        return cls(
            order=torch.from_numpy(rng.permutation(count)),
            corner=torch.from_numpy(rng.random((count, 2), np.float32)),
            mirror=torch.from_numpy(rng.random(count, np.float32) < 0.5),
            color=torch.from_numpy(rng.standard_normal((count, 3), np.float32)),
            key=torch.from_numpy(rng.integers(-(2**63), 2**63, count)),
        )

    def to(self, device: torch.device) -> EpochPlan:
        """Return the plan on `device`, so that the steps need not copy any of it."""
        return EpochPlan(*(getattr(self, field.name).to(device) for field in fields(self)))


class Augment:
    """uint8 squares [M, S, S, 3] -> patches [B, 3, patch, patch], channels-last, in grey levels, mean subtracted.

    `dtype` is the type of the patches. `views` is the recipe's `training_views`. On a GPU one kernel computes the
    patches (`train.augment_triton`).
    """

    def __init__(
        self,
        mean: np.ndarray,
        pca: ColorPCA,
        patch: int,
        color_sigma: float,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        views: Literal["random", "center"] = "random",
    ) -> None:
        self.mean = torch.from_numpy(np.array(mean)).to(device)
        self.color = torch.from_numpy((pca.axes * pca.scale * color_sigma).T.copy()).to(device)
        self.patch, self.dtype, self.views = patch, dtype, views

    def training(self, squares: Tensor, plan: EpochPlan, rows: Tensor, index: Tensor | None = None) -> Tensor:
        """Return patches of the images at `rows` of the set (int64 [B]), cut, mirrored and coloured by `plan`.

        `index`: int64 [B], the positions of these images in `squares`; None if `squares` are these images, in order.
        All tensors, including the plan's, must be on one device.
        """
        index = torch.arange(len(rows), device=rows.device) if index is None else index
        last = squares.shape[1] - self.patch
        noise = plan.color[rows] @ self.color
        if self.views == "random":
            corner, mirror = (plan.corner[rows] * (last + 1)).long().clamp_max(last), plan.mirror[rows]
        else:
            (center,) = patch_offsets(squares.shape[1], self.patch, "center")
            corner = torch.tensor(center, device=rows.device).expand(len(rows), 2).contiguous()
            mirror = torch.zeros_like(plan.mirror[rows])
        if squares.is_cuda:
            from train.augment_triton import training_patches

            return training_patches(squares, index, corner, mirror, noise, self.mean, self.patch, self.dtype)
        steps = torch.arange(self.patch)
        ys = corner[:, :1] + steps
        xs = corner[:, 1:] + torch.where(mirror[:, None], self.patch - 1 - steps, steps)
        at = (index[:, None, None], ys[:, :, None], xs[:, None, :])
        mean = self.mean[at[1:]] if self.mean.ndim == 3 else self.mean
        patches = squares[at].float() + (noise[:, None, None, :] - mean)
        return patches.permute(0, 3, 1, 2).to(self.dtype)
