"""One training run, as the command line describes it. Imports no torch, so that a wrong request is refused at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alexnet_infer.errors import UsageError
from alexnet_infer.presets import Variant
from train.recipe import Recipe

TAKEN = ("last", "best", "log")
"""Names of other files in a run's folder."""


def default_size(patch: int) -> int:
    """S for patches of this side: the next multiple of 32 above it: 256 for 227 (the paper's) and 224, 64 for 57."""
    return (patch // 32 + 1) * 32


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train, on what, and where to put it. Raises UsageError on values out of range."""

    variant: Variant
    """The net; its number of classes is that of the data, whatever stands here."""
    recipe: Recipe
    data: Path
    """A packed set (`train.packed`), or a data set as `alexnet_infer.datasets.LabelledImages` takes it."""
    out: Path
    """Folder of the checkpoint and the result."""
    name: str
    """Of the trained net, and of its file in `out`."""
    size: int | None = None
    """S: side of the squares that images are rescaled and cropped to; None for a packed set's own, or else
    `default_size` of the net's patch."""
    init_from: Path | None = None
    """A trained net to start from; its last layer is replaced where the classes are others."""
    seed: int = 0
    columns: int = 1
    """Processes that share the net, each with as many of its columns."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool | None = None
    """Use `torch.compile`; None for wherever a compiler is found."""
    accumulate: int = 1
    """Parts that a batch is worked on in, one after the other, to save memory."""
    max_hours: float | None = None
    """Stop after so long, with a checkpoint and a result; None for never."""
    result: Literal["last", "best"] = "last"
    """Which weights become the result: the last, or those of the lowest validation error."""
    tensorboard: bool = False
    """Write TensorBoard's event files, too."""

    def __post_init__(self) -> None:
        if self.size is not None and not self.variant.patch <= self.size <= 4096:
            raise UsageError(
                f"--image-size {self.size}: expected {self.variant.patch} (the patch of {self.variant.name}) to 4096"
            )
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed {self.seed}: expected 0 to {2**32 - 1}")
        if self.accumulate < 1:
            raise UsageError(f"--accumulate {self.accumulate}: expected at least 1")
        if self.max_hours is not None and not 0 < self.max_hours < 1e5:
            raise UsageError(f"--max-hours {self.max_hours}: expected more than 0")
        width = self.variant.width
        if not (math.isfinite(width) and 0 < width <= 16):
            raise UsageError(f"--width {width}: expected more than 0 and at most 16")
        wrong = self.name.startswith(".") or "/" in self.name or "\\" in self.name or self.name in TAKEN
        if not self.name or not self.name.isprintable() or wrong or len(self.name.encode()) > 200:
            raise UsageError(
                f"--name {self.name!r}: expected the name of a file, without folders and suffix, other than 'last', "
                "'best' and 'log'"
            )

    @property
    def result_path(self) -> Path:
        """The trained net's file."""
        return self.out / f"{self.name}.safetensors"
