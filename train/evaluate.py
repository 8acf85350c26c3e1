"""Errors of a net: the evaluation protocol (docs/evaluation.md) on the trainer's images, in PyTorch or in a runtime."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from alexnet_infer.artifact import Artifact
from alexnet_infer.errors import AlexNetInferError
from alexnet_infer.metrics import classes_ahead, mean_probabilities
from alexnet_infer.predict import Net
from alexnet_infer.preprocess import Views, patch_offsets
from train.feed import Feed
from train.model import AlexNet

PATCHES_PER_CALL = {"cpu": 160, "cuda": 2560}
"""Patches in a forward pass. The output of conv1 for 160 patches takes 190 MB in the full-width net."""

EVAL_BATCH = 16
"""Images per call of a runtime. With the batch of `alexnet-infer eval`, probabilities are the same to the last bit."""

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


class ModuleScorer:
    """Runs a torch module on the device of `mean`. A call puts the module into evaluation mode.

    A call takes at most `batch` squares, uint8 [B, S, S, 3] on that device. It returns the class probabilities, float32
    [B, classes], for each kind of views: the mean over ten, and those of the central view, which then cost nothing.
    """

    def __init__(self, model: nn.Module, mean: Tensor, patch: int, views: Views) -> None:
        self.model, self.mean, self.patch, self.views = model, mean, patch, views
        self.batch = PATCHES_PER_CALL[mean.device.type] // (10 if views == "ten" else 1)

    @classmethod
    def of(cls, artifact: Artifact, device: torch.device, views: Views = "ten") -> ModuleScorer:
        """Return the net in a model file as a module on `device`."""
        model, preprocessing = AlexNet(artifact.manifest.architecture), artifact.manifest.preprocessing
        model.take(artifact.tensors)
        mean = torch.from_numpy(np.array(preprocessing.mean)).to(device)
        return cls(model.to(device, memory_format=torch.channels_last), mean, preprocessing.patch, views)

    @torch.no_grad()
    def __call__(self, squares: Tensor) -> dict[Views, np.ndarray]:
        self.model.eval()
        patches = view_patches(squares, self.mean, self.patch, self.views)
        logits = self.model(patches.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        probabilities = logits.float().softmax(1).unflatten(0, patches.shape[:2])
        if self.views == "center":
            return {"center": probabilities[:, 0].cpu().numpy()}
        return {"center": probabilities[:, CENTER].cpu().numpy(), "ten": probabilities.mean(1).cpu().numpy()}


class NetScorer:
    """The same for a net in one of the package's runtimes.

    Calls and probabilities are those of `alexnet-infer eval`: every call has `batch` images, the last one padded with
    zeros, because rounding may depend on the number.
    """

    def __init__(self, net: Net) -> None:
        self.net, self.batch = net, EVAL_BATCH

    def __call__(self, squares: Tensor) -> dict[Views, np.ndarray]:
        inputs = [self.net.inputs(square) for square in squares.numpy()]
        padding = [np.zeros_like(inputs[0])] * (self.batch - len(inputs))
        scores = self.net.backend.infer(np.concatenate([*inputs, *padding]))
        if self.net.views == "center":
            return {"center": scores[: len(inputs)]}
        views = {"center": scores[CENTER::10], "ten": self.net.mean_over_views(scores, self.batch)}
        return {name: values[: len(inputs)] for name, values in views.items()}


class MeanScorer:
    """The mean of the probabilities of several nets, in the same calls."""

    def __init__(self, scorers: Sequence[ModuleScorer | NetScorer]) -> None:
        self.scorers, self.batch = scorers, min(scorer.batch for scorer in scorers)

    def __call__(self, squares: Tensor) -> dict[Views, np.ndarray]:
        scores = [scorer(squares) for scorer in self.scorers]
        return {views: mean_probabilities([of_net[views] for of_net in scores]) for views in scores[0]}


Scorer = ModuleScorer | NetScorer | MeanScorer


def correct_images(
    scorer: Scorer, feed: Feed, rows: Tensor, on_images: Callable[[int], None] = lambda count: None
) -> dict[Views, np.ndarray]:
    """Return, by views, bool [len(rows), 2]: whether an image's label is ranked first, and among the first five.

    Ties go to the lower class index. `on_images` is called with the number of images seen since the last call. Raises
    DivergedError if a probability is NaN.
    """
    correct: dict[Views, list[np.ndarray]] = defaultdict(list)
    parts = rows.split(scorer.batch)
    for part, squares in zip(parts, feed.batches(parts), strict=True):
        labels = feed.labels[part.to(feed.device)].cpu().numpy()
        for views, scores in scorer(squares).items():
            if np.isnan(scores).any():
                raise DivergedError("the net's output is not finite: the run diverged; try a smaller --lr")
            correct[views].append(classes_ahead(scores, labels)[:, None] < (1, 5))
        on_images(len(part))
    return {views: np.concatenate(images) for views, images in correct.items()}


def wrong_images(
    scorer: Scorer, feed: Feed, on_images: Callable[[int], None] = lambda count: None
) -> dict[Views, np.ndarray]:
    """Return, by views, bool [images, 2]: whether an image of the whole split is wrong, top-1 and top-5.

    Unreadable images are wrong, and come last. Errors are those of `correct_images`.
    """
    unreadable = np.ones((len(feed.images.unreadable), 2), bool)
    correct = correct_images(scorer, feed, torch.arange(len(feed)), on_images)
    return {views: np.concatenate([~of_views, unreadable]) for views, of_views in correct.items()}


def count_correct(
    scorer: Scorer, feed: Feed, rows: Tensor, on_images: Callable[[int], None] = lambda count: None
) -> dict[Views, tuple[int, int]]:
    """Return, by views, the numbers of images that are correct in `correct_images`: top-1 and top-5."""
    correct = correct_images(scorer, feed, rows, on_images)
    return {views: (int(images[:, 0].sum()), int(images[:, 1].sum())) for views, images in correct.items()}
