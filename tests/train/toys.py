"""Tiny nets, recipes and data for the trainer's tests."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from alexnet_infer.architecture import Architecture
from alexnet_infer.manifest import ClassName
from alexnet_infer.presets import ALEXNET_64, Variant
from train.data import PackedImages
from train.display import Display
from train.finish import Finished, finish
from train.loop import Trainer
from train.parts import Sums
from train.recipe import FAST, Recipe
from train.step import StepReport

CLASSES = 3
TINY: Variant = replace(ALEXNET_64, kernels=(16, 16, 16, 16, 16), hidden=16, classes=CLASSES)
"""Two columns, LRN, overlapping pooling and dropout, like the paper's net."""

BRIEF = replace(FAST, epochs=2, batch=4, lr=0.01)
"""With `images(12)`: two epochs of three steps."""


def squares(count: int, seed: int = 0, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 [count, size, size, 3] and labels [count]: noise that is brighter in the label's channel."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    images = rng.integers(0, 160, (count, size, size, 3))
    images[np.arange(count), :, :, labels] += 90
    return images.astype(np.uint8), labels


def in_memory(pixels: np.ndarray, labels: np.ndarray) -> PackedImages:
    return PackedImages.of(pixels, labels, Sums.of(pixels))


def images(count: int, seed: int = 0, size: int = 64) -> PackedImages:
    return in_memory(*squares(count, seed, size))


def names(count: int) -> tuple[ClassName, ...]:
    return tuple(ClassName(wnid=f"n{i:08}", name=f"class {i}") for i in range(count))


def image_folder(root: Path, count: int = 12) -> Path:
    """Create a data set of PNG files: train/ and val/ with one folder per class."""
    for split, seed in (("train", 0), ("val", 1)):
        for i, (pixels, label) in enumerate(zip(*squares(count, seed), strict=True)):
            folder = root / split / f"n{label:08}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{i:03}.png")
    return root


def trainer(out: Path, architecture: Architecture | None = None, recipe: Recipe = BRIEF, **options) -> Trainer:
    """Return a trainer on 12 images."""
    architecture = architecture or TINY.build()
    sets = {"train": images(12), "validation": images(6, seed=1), "classes": names(architecture.classes)}
    out.mkdir(exist_ok=True)
    return Trainer(architecture, recipe, out=out, **(sets | options))


def silent() -> Display:
    return Display(Console(file=io.StringIO()))


def finished(run: Trainer, path: Path, data: str = "toys", **options) -> Finished:
    """Write the trainer's net in its current state."""
    return finish(run, run.saved.whole_model(), path, data, silent(), trained_epochs=run.trained_epochs, **options)


def tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Return copies of the weights, the statistics and the momentum."""
    return {name: tensor.clone() for name, tensor in trainer.saved.tensors().items()}


def assert_bit_identical(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different, f"differ: {different}"


class KilledError(Exception):
    """Ends a run in a test."""


def kill_after(steps: int):
    """Return a callback that ends `Trainer.run` after this many steps, in epochs of three."""

    def on_step(report: StepReport) -> None:
        if 3 * report.epoch + report.step == steps:
            raise KilledError

    return on_step
