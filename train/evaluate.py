"""Errors of a net in training: the evaluation protocol (docs/evaluation.md) on the trainer's images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from alexnet_infer.errors import AlexNetInferError
from alexnet_infer.metrics import topk_correct
from alexnet_infer.preprocess import Views, patch_offsets
from train.feed import Feed

PATCHES_PER_CALL = {"cpu": 160, "cuda": 2560}
"""Patches in a forward pass. The output of conv1 for 160 patches takes 190 MB in the full-width net."""

CENTER = 4
"""Position of the unmirrored central patch among the ten (`alexnet_infer.preprocess.patches`)."""


def view_patches(squares: Tensor, mean: Tensor, patch: int, views: Views = "ten") -> Tensor:
    """Return the views of a batch: uint8 [B, S, S, 3] -> float32 [B, views, 3, patch, patch].

    Order and values of the views are those of `alexnet_infer.preprocess.patches`, bit for bit.
    """
    images = (squares.float() - mean).permute(0, 3, 1, 2)
    cut = [images[:, :, y : y + patch, x : x + patch] for y, x in patch_offsets(squares.shape[1], patch, views)]
    if views == "ten":
        cut += [view.flip(-1) for view in cut]
    return torch.stack(cut, 1)


class DivergedError(AlexNetInferError):
    """The loss, the gradient, a weight or the net's output is not finite."""


@torch.no_grad()
def count_correct(
    model: nn.Module,
    feed: Feed,
    rows: Tensor,
    mean: Tensor,
    patch: int,
    views: Views,
    on_images: Callable[[int], None] = lambda count: None,
) -> dict[Views, tuple[int, int]]:
    """Return, by view, the number of images at `rows` whose label is ranked first, and among the first five.

    With `views` "ten", the counts are for the mean of the ten probability vectors and, as it costs nothing, for the
    central view; with "center" for the central view only. Ties go to the lower class index. `on_images` is called with
    the number of images counted since the last call. Puts `model` into evaluation mode.

    Raises DivergedError if a probability is NaN.
    """
    model.eval()
    counted: tuple[Views, ...] = ("center", "ten") if views == "ten" else ("center",)
    correct = np.zeros((len(counted), 2), int)
    parts = rows.split(PATCHES_PER_CALL[feed.device.type] // (10 if views == "ten" else 1))
    for part, squares in zip(parts, feed.batches(parts), strict=True):
        patches = view_patches(squares, mean, patch, views)
        logits = model(patches.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        probabilities = logits.float().softmax(1).unflatten(0, patches.shape[:2])
        if probabilities.isnan().any():
            raise DivergedError("the net's output is not finite: the run diverged; try a smaller --lr")
        scores = (probabilities[:, CENTER], probabilities.mean(1)) if views == "ten" else (probabilities[:, 0],)
        labels = feed.labels[part.to(feed.device)].cpu().numpy()
        correct += [[topk_correct(view.cpu().numpy(), labels, k) for k in (1, 5)] for view in scores]
        on_images(len(part))
    return {view: (int(top1), int(top5)) for view, (top1, top5) in zip(counted, correct, strict=True)}
