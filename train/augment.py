"""Training-time views (section 4.1 of the paper), made on the device from uint8 squares.

Every random number of an epoch is drawn at its start from (seed, epoch) alone, one row an image of the set. So a draw
belongs to an image, whatever the batch size, the number of processes or the point at which a run was resumed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class ColorPCA:
    """Principal components of the RGB values of a training set's pixels, for the colour noise.

    `axes` float32 [3, 3] holds a unit eigenvector of the covariance in each column; `scale` float32 [3] holds the
    factor of each. The paper multiplies by the eigenvalue lambda of pixels in 0-1, which in grey levels is
    255 * lambda = lambda_255 / 255.
    """

    axes: np.ndarray
    scale: np.ndarray

    @classmethod
    def from_covariance(cls, covariance: np.ndarray) -> ColorPCA:
        """From the 3 x 3 covariance of pixel values in 0-255."""
        values, vectors = np.linalg.eigh(covariance)
        return cls(vectors.astype(np.float32), (values.clip(0) / 255).astype(np.float32))


@dataclass(frozen=True)
class EpochPlan:
    """Order and random draws of one epoch."""

    order: Tensor
    """int64 [N]: a permutation of the set."""
    corner: Tensor
    """float32 [N, 2] in 0..1: where the patch lies between the first and the last possible row and column."""
    mirror: Tensor
    """bool [N]."""
    color: Tensor
    """float32 [N, 3]: the coefficients a ~ N(0, 1), before `color_sigma`."""
    key: Tensor
    """int64 [N]: the numbers from which the dropout masks follow (`train.dropout`)."""

    @classmethod
    def draw(cls, count: int, seed: int, epoch: int) -> EpochPlan:
        rng = np.random.default_rng((seed, epoch))
        return cls(
            order=torch.from_numpy(rng.permutation(count)),
            corner=torch.from_numpy(rng.random((count, 2), np.float32)),
            mirror=torch.from_numpy(rng.random(count, np.float32) < 0.5),
            color=torch.from_numpy(rng.standard_normal((count, 3), np.float32)),
            key=torch.from_numpy(rng.integers(-(2**63), 2**63, count)),
        )

    def to(self, device: torch.device) -> EpochPlan:
        """The plan in the memory of `device`, so that a step copies nothing of it."""
        return EpochPlan(*(getattr(self, field.name).to(device) for field in fields(self)))


class Augment:
    """uint8 squares [., S, S, 3] -> patches [B, 3, patch, patch] (channels-last), mean subtracted, in 0-255.

    `dtype` is that of the patches. On a GPU one kernel does all of it (`train.augment_triton`).
    """

    def __init__(
        self,
        mean: np.ndarray,
        pca: ColorPCA,
        patch: int,
        color_sigma: float,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.mean = torch.from_numpy(np.array(mean)).to(device)
        self.color = torch.from_numpy((pca.axes * pca.scale * color_sigma).T.copy()).to(device)
        self.patch, self.dtype = patch, dtype

    def training(self, squares: Tensor, plan: EpochPlan, rows: Tensor, index: Tensor | None = None) -> Tensor:
        """Random patches, mirrors and colour noise, as `plan` says of the images at `rows` of the set (int64 [B]).

        `index` int64 [B] says where these images are among `squares`; None: they are the squares, in order. All
        tensors, the plan's too, are on one device.
        """
        index = torch.arange(len(rows), device=rows.device) if index is None else index
        last = squares.shape[1] - self.patch
        corner = (plan.corner[rows] * (last + 1)).long().clamp_max(last)
        mirror, noise = plan.mirror[rows], plan.color[rows] @ self.color
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
