"""Small nets on a server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from msgspec import structs

from alexnet_infer.nets import load
from alexnet_infer.predict import Ensemble, Net
from alexnet_infer.serve.model import Model
from tests.nets import TINY, random_artifact
from tests.serve.running import Running, running


@pytest.fixture(scope="session")
def nets(tmp_path_factory) -> list[Net]:
    """Three nets with different weights, the last of which has other classes and larger squares."""
    folder = tmp_path_factory.mktemp("nets")
    variants = [TINY, TINY, replace(TINY, classes=4)]
    paths = []
    for seed, variant in enumerate(variants):
        artifact = random_artifact(variant, seed=seed, size=variant.patch + (11 if seed == 2 else 7))
        artifact = type(artifact)(structs.replace(artifact.manifest, name=f"tiny {seed}"), artifact.tensors)
        paths.append(folder / f"{seed}.safetensors")
        artifact.save(paths[-1])
    return [load(path, device="cpu", backend="onnxruntime") for path in paths]


@pytest.fixture(scope="session")
def models(nets) -> dict[str, Model]:
    served = [Model.of(nets[0]), Model.of(nets[2], "other"), Model.of(Ensemble(nets[:2]))]
    return {model.name: model for model in served}


@pytest.fixture(scope="module")
def client(models) -> Iterator[Running]:
    """A server with two nets and an ensemble, whose limits are small enough to reach."""
    with running(*models.values(), max_batch=4, queue=32, max_body=3_000_000, max_pixels=1_000_000) as client:
        yield client
