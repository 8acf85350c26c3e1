"""Nearest neighbours against a search by hand, in features of the NumPy reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

import torch

from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.preprocess import patches
from tests.nets import random_artifact
from tests.train.toys import TINY, images
from train.feed import Feed
from train.reproduction import neighbors as module
from train.reproduction.neighbors import nearest_neighbors


def by_hand(artifact, training, validation, layer: str | None) -> tuple[list[int], np.ndarray]:
    """Return how many of the six nearest training images of each validation image have its label, and the distances."""

    def seen(images) -> np.ndarray:
        views = [patches(square, artifact.manifest.preprocessing, "center")[0] for square in images.shards[0].numpy()]
        if layer is None:
            return np.stack(views).reshape(len(views), -1).astype(float)
        backend = ReferenceBackend(artifact, outputs=(layer,))
        return np.stack([backend.activations(view[None])[layer][0].ravel() for view in views]).astype(float)

    gallery, queries = seen(training), seen(validation)
    distances = np.linalg.norm(queries[:, None] - gallery[None], axis=2)
    order = np.argsort(distances, axis=1)[:, :6]
    labels = training.labels.numpy()
    return (labels[order] == validation.labels.numpy()[:, None]).sum(1).tolist(), distances


@pytest.fixture
def case():
    artifact = random_artifact(replace(TINY, classes=3), seed=3)
    return artifact, images(30, seed=1), images(8, seed=2)


def test_neighbours_and_distances_are_those_of_a_search_by_hand(case):
    artifact, training, validation = case
    found = nearest_neighbors(artifact, *(Feed(split, torch.device("cpu")) for split in (training, validation)))
    features, pixels = found.shares()
    (in_layer, _), (in_pixels, distances) = (by_hand(*case, layer) for layer in ("fc7", None))
    assert (features * 6).round().astype(int).tolist() == in_layer
    assert (pixels * 6).round().astype(int).tolist() == in_pixels
    assert in_layer != in_pixels
    assert found.pixel_distance_of_all == pytest.approx(distances.mean(), rel=1e-4)
    assert found.pixel_distance_of_pixels == pytest.approx(np.sort(distances, 1)[:, :6].mean(), rel=1e-4)
    assert found.pixel_distance_of_pixels < found.pixel_distance_of_features < 1.5 * found.pixel_distance_of_all
    assert (found.queries, found.nearest) == (8, 6)


def test_blocks_of_the_gallery_do_not_change_the_result(case, monkeypatch):
    artifact, *splits = case
    feeds = [Feed(split, torch.device("cpu")) for split in splits]
    whole, counted = nearest_neighbors(artifact, *feeds), []
    monkeypatch.setitem(module.PATCHES_PER_CALL, "cpu", 7)
    parts = nearest_neighbors(artifact, *feeds, counted.append)
    assert (parts.features, parts.pixels) == (whole.features, whole.pixels)
    assert sum(counted) == 38


def test_queries_and_gallery_are_spread_evenly_and_few_images_are_all_taken(case, monkeypatch):
    artifact, training, validation = case
    monkeypatch.setattr(module, "GALLERY", 4)
    monkeypatch.setattr(module, "QUERIES", 3)
    found = nearest_neighbors(artifact, *(Feed(split, torch.device("cpu")) for split in (training, validation)))
    assert (found.queries, found.nearest) == (3, 4)
    assert module._spread(8, 3).tolist() == [0, 4, 7]
    assert module._spread(3, 8).tolist() == [0, 1, 2]
