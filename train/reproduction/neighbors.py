"""Training images nearest to validation images: in the last hidden layer, as in the paper's Figure 4, and in pixels."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from alexnet_infer.artifact import Artifact
from train.evaluate import PATCHES_PER_CALL, view_patches
from train.feed import Feed
from train.model import AlexNet
from train.reproduction.record import NEAREST, Neighbors

QUERIES, GALLERY = 1000, 20_000
"""Validation images, and training images among which their neighbours are: evenly spread over their splits."""


def nearest_neighbors(
    artifact: Artifact, training: Feed, validation: Feed, on_images: Callable[[int], None] = lambda count: None
) -> Neighbors:
    """Find the NEAREST training images of some validation images, by Euclidean distance.

    Features are the activations before the last layer, of the central view. Pixels are those of the same view. Returns,
    for each validation image, how many of its neighbours are of its class. `on_images` is called with the number of
    images seen since the last call.
    """
    gallery, queries = _spread(len(training), GALLERY), _spread(len(validation), QUERIES)
    see = _Eye(artifact, training.device)
    (own_features, own_pixels), labels = see.all(validation, queries, on_images), training.labels.cpu()[gallery]
    blocks = [
        (_distances(own_features, features), _distances(own_pixels, pixels))
        for features, pixels in see.blocks(training, gallery, on_images)
    ]
    in_features, in_pixels = (torch.cat(parts, 1).cpu() for parts in zip(*blocks, strict=True))
    nearest, own = min(NEAREST, len(gallery)), validation.labels.cpu()[queries][:, None]
    by_features, by_pixels = (d.topk(nearest, largest=False).indices for d in (in_features, in_pixels))
    distances = in_pixels.sqrt()
    return Neighbors(
        queries=len(queries),
        nearest=nearest,
        features=_text((labels[by_features] == own).sum(1)),
        pixels=_text((labels[by_pixels] == own).sum(1)),
        pixel_distance_of_features=float(distances.gather(1, by_features).mean()),
        pixel_distance_of_pixels=float(distances.gather(1, by_pixels).mean()),
        pixel_distance_of_all=float(distances.mean(dtype=torch.float64)),
    )


class _Eye:
    """Sees the central views of images: features of the last hidden layer [N, units], and pixels less the mean [N, P].

    Both are float32 on the device.
    """

    def __init__(self, artifact: Artifact, device: torch.device) -> None:
        model, preprocessing = AlexNet(artifact.manifest.architecture), artifact.manifest.preprocessing
        model.take(artifact.tensors)
        model.to(device, memory_format=torch.channels_last).eval()
        self.layers, self.patch = list(model.children())[:-1], preprocessing.patch
        self.mean = torch.from_numpy(np.array(preprocessing.mean)).to(device)

    @torch.no_grad()
    def blocks(self, feed: Feed, rows: Tensor, on_images: Callable[[int], None]) -> Iterator[tuple[Tensor, Tensor]]:
        parts = rows.split(PATCHES_PER_CALL[feed.device.type])
        for part, squares in zip(parts, feed.batches(parts), strict=True):
            x = patches = view_patches(squares, self.mean, self.patch, "center")[:, 0]
            for layer in self.layers:
                x = layer(x)
            on_images(len(part))
            yield x.flatten(1), patches.flatten(1)

    def all(self, feed: Feed, rows: Tensor, on_images: Callable[[int], None]) -> tuple[Tensor, Tensor]:
        features, pixels = zip(*self.blocks(feed, rows, on_images), strict=True)
        return torch.cat(features), torch.cat(pixels)


def _spread(images: int, count: int) -> Tensor:
    """Return positions of `count` images, or all, evenly spread."""
    return torch.linspace(0, images - 1, min(count, images), dtype=torch.float64).round().long()


def _distances(queries: Tensor, gallery: Tensor) -> Tensor:
    """Return the squared Euclidean distances [queries, gallery]."""
    squares = (queries**2).sum(1)[:, None] + (gallery**2).sum(1)
    return (squares - 2 * queries @ gallery.T).clamp_min(0)


def _text(counts: Tensor) -> str:
    return base64.b64encode(counts.to(torch.uint8).cpu().numpy().tobytes()).decode()
