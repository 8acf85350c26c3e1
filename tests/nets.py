"""Small nets with random weights, for tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from alexnet_infer.artifact import Artifact
from alexnet_infer.backends.reference import ReferenceBackend
from alexnet_infer.manifest import ClassName, Manifest, Provenance
from alexnet_infer.preprocess import Preprocessing
from alexnet_infer.presets import ALEXNET_64, Variant

TINY = replace(ALEXNET_64, kernels=(16, 32, 32, 32, 32), hidden=24, classes=7)
"""Two columns, LRN and overlapping pooling, as in the paper's net. It runs in a few milliseconds."""


def random_artifact(variant: Variant = TINY, *, size: int | None = None, seed: int = 0) -> Artifact:
    """Return a net with He-initialised weights. Its biases and mean are large enough that omitting them is noticed."""
    rng = np.random.default_rng(seed)
    architecture = variant.build()
    tensors = {}
    for name, shape in architecture.tensors.items():
        part = name.split(".")[1]
        draw = rng.standard_normal(shape).astype(np.float32)
        if part == "weight" and len(shape) > 1:
            tensors[name] = draw * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        else:
            tensors[name] = np.abs(draw) + 1 if part == "running_var" else draw * 10
    manifest = Manifest(
        name=f"random-{variant.name}",
        architecture=architecture,
        preprocessing=Preprocessing(
            size=size or variant.patch + 7, patch=variant.patch, mean=np.array([123, 117, 104])
        ),
        classes=tuple(ClassName(wnid=f"n{i:08}", name=f"class {i}, number {i}") for i in range(variant.classes)),
        provenance=Provenance(data="none", recipe={"name": "random"}, seed=seed, date="2026-01-01", software="tests"),
    )
    # Logits of about unit size keep the softmax away from 0 and 1, where every net agrees.
    logits = ReferenceBackend(Artifact(manifest, tensors)).logits(large_patches(variant))
    for part in ("weight", "bias"):
        tensors[f"{architecture.operations[-1].name}.{part}"] /= np.float32(logits.std())
    return Artifact(manifest, tensors)


def large_patches(variant: Variant = TINY, count: int = 2, seed: int = 1) -> np.ndarray:
    """Return patches float32 [count, 3, patch, patch] that drive activations into the hundreds, where LRN matters."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 200, (count, 3, variant.patch, variant.patch)).astype(np.float32)
