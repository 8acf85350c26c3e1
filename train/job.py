"""The settings of one training run. Does not import torch, so that a wrong setting is refused at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from alexnet_infer.architecture import Architecture
from alexnet_infer.backends import Device
from alexnet_infer.errors import UsageError, shown
from alexnet_infer.presets import Variant
from train.recipe import Recipe

TAKEN = ("last", "best", "log")
"""Names that other files in a run's folder use."""


def default_size(patch: int) -> int:
    """Return S for patches of side `patch`: the next multiple of 32 above it.

    256 for 227 (the paper's) and 224, 64 for 57.
    """
    return (patch // 32 + 1) * 32


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train, on which data, and where to write the result. Raises UsageError on values out of range."""

    variant: Variant
    """The net. Its number of classes is replaced by the data's, and its dropout rate by the recipe's."""
    recipe: Recipe
    data: Path
    """A packed set (`train.packed`), or a data set that `alexnet_infer.datasets.LabelledImages` reads."""
    out: Path
    """Folder for the checkpoints and the result."""
    name: str
    """Name of the trained net and, without suffix, of its file in `out`."""
    size: int | None = None
    """S: side of the squares that images are rescaled and cropped to. None for the size of a packed set, or
    `default_size` of the net's patch for other data."""
    init_from: Path | None = None
    """A trained net to start from. Its last layer is replaced if its classes differ from the data's."""
    seed: int = 0
    columns: int = 1
    """Processes that share one net: 1, or 2 with one of its columns each."""
    device: Device = "auto"
    compile: bool | None = None
    """Whether to use `torch.compile`; None to use it on a GPU if a compiler is installed."""
    accumulate: int = 1
    """Number of equal parts that a batch is split into. They run one after the other, which saves memory."""
    max_hours: float | None = None
    """Stop after this many hours, with a checkpoint and a result; None for no limit."""
    result: Literal["last", "best"] = "last"
    """Weights for the result: the last, or those of the epoch with the lowest top-1 validation error."""
    tensorboard: bool = False
    """Whether to write TensorBoard event files as well."""

    def __post_init__(self) -> None:
        if self.size is not None and not self.variant.patch <= self.size <= 4096:
            raise UsageError(
                f"--image-size {shown(self.size)}: expected {self.variant.patch} (the patch of {self.variant.name}) to "
                "4096"
            )
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed {shown(self.seed)}: expected 0 to {2**32 - 1}")
        if not 1 <= self.accumulate <= 10**6:
            raise UsageError(f"--accumulate {shown(self.accumulate)}: expected 1 to 1000000")
        if self.max_hours is not None and not 0 < self.max_hours < 1e5:
            raise UsageError(f"--max-hours {self.max_hours}: expected more than 0 and less than 100000")
        width = self.variant.width
        if not (math.isfinite(width) and 0 < width <= 16):
            raise UsageError(f"--width {width}: expected more than 0 and at most 16")
        if not 0 <= self.variant.hidden <= 65536:
            raise UsageError(f"--hidden {shown(self.variant.hidden)}: expected 0 to 65536")
        if self.variant.columns not in (1, 2):
            raise UsageError(f"--net-columns {shown(self.variant.columns)}: expected 1 or 2")
        if self.variant.pool_size not in (2, 3):
            raise UsageError(f"--pool-size {shown(self.variant.pool_size)}: expected 2 or 3")
        wrong = self.name.startswith(".") or "/" in self.name or "\\" in self.name or self.name in TAKEN
        if not self.name or not self.name.isprintable() or wrong or len(self.name.encode()) > 200:
            raise UsageError(
                f"--name {self.name!r}: expected a file name without a folder or suffix, other than 'last', 'best' "
                "and 'log'"
            )

    def architecture(self, classes: int) -> Architecture:
        """Return the architecture to train: the variant's, with `classes` classes and the recipe's dropout rate.

        Raises SpecError if the variant's values do not describe a net.
        """
        return self.recipe.apply_to(replace(self.variant, classes=classes).build())

    @property
    def result_path(self) -> Path:
        """Path of the trained net's file."""
        return self.out / f"{self.name}.safetensors"
