"""Results of trained nets, as small JSON files that are kept: what was run, and which images it gets wrong."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from alexnet_infer import strict_json
from alexnet_infer.errors import SpecError, UnreadableInputError, cause_of
from alexnet_infer.files import read_limited, write_atomically
from alexnet_infer.strict_json import Record, Text, number, whole
from train.reproduction.plan import Mean, Task, Training
from train.wrong import packed_bits, unpacked_bits

FORMAT = 1
_MAX_BYTES = 2**22

_Count, _Size = (Annotated[int, whole(least, 2**40)] for least in (0, 1))
_Share = Annotated[float, number(0, 1)]


class Wrong(Record, kw_only=True):
    """The validation images that a net gets wrong (`train.wrong`)."""

    top1: Text
    top5: Text

    @classmethod
    def of(cls, wrong: np.ndarray) -> Wrong:
        """Return the record of `wrong`, bool [images, 2]: top-1 and top-5."""
        return cls(**packed_bits(wrong))

    def bits(self, images: int) -> np.ndarray:
        """Return bool [images, 2]. Raises SpecError if there are not so many bits."""
        return unpacked_bits({"top1": self.top1, "top5": self.top5}, images)


class Errors(Record, kw_only=True):
    """Numbers of wrong images."""

    images: _Size
    top1: _Count
    top5: _Count

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.top5 <= self.top1 <= self.images:
            raise SpecError(f"top1={self.top1}, top5={self.top5}: expected at most top1 and {self.images} images")


NEAREST = 6
"""Neighbours of an image, as in the paper's Figure 4."""


class Neighbors(Record, kw_only=True):
    """How many of the nearest training images of some validation images are of their class."""

    queries: _Size
    nearest: Annotated[int, whole(1, NEAREST)]
    """Neighbours of each image: NEAREST, or all training images if there are fewer."""
    features: Text
    """For neighbours in the last hidden layer: the number of each image, a byte each, as base64."""
    pixels: Text
    """The same for neighbours in pixels."""
    pixel_distance_of_features: Annotated[float, number(0, 1e9)]
    """Mean Euclidean distance in grey levels, over all pixels of the view, of the neighbours in the last hidden layer,
    of those in pixels, and of all training images."""
    pixel_distance_of_pixels: Annotated[float, number(0, 1e9)]
    pixel_distance_of_all: Annotated[float, number(0, 1e9)]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.shares()

    def shares(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the share of neighbours of the same class, float64 [queries], in features and in pixels."""
        features, pixels = (self._counts(text) / self.nearest for text in (self.features, self.pixels))
        return features, pixels

    def _counts(self, text: str) -> np.ndarray:
        try:
            counts = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
        except ValueError:
            raise SpecError("neighbors: expected base64") from None
        if len(counts) != self.queries or counts.max() > self.nearest:
            raise SpecError(f"neighbors: expected {self.queries} numbers from 0 to {self.nearest}")
        return counts


class Curve(Record, kw_only=True):
    """Figures of a run by epoch."""

    loss: tuple[Annotated[float, number(0, 1e6)], ...]
    """Mean training loss of each quarter of an epoch."""
    top1_error: tuple[_Share, ...]
    """On validation images."""
    top5_error: tuple[_Share, ...]
    training_error: tuple[_Share, ...]
    """Mean top-1 error of each epoch on the images as the net was trained on them, before each update. Empty if the
    log is of an earlier version, which did not have it."""
    steps_per_epoch: _Size | None
    """None for results of earlier versions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.loss or not self.top1_error or len(self.top1_error) != len(self.top5_error):
            raise SpecError("a curve: expected one or more epochs, with both errors of each")
        if self.training_error and (len(self.training_error) != len(self.top1_error) or not self.steps_per_epoch):
            raise SpecError("a curve: expected a training error of each epoch, and steps_per_epoch")


class Data(Record, kw_only=True):
    """Identity of the images of both splits: `images`, their number, and `sha256` (`measure.data_of`)."""

    train: dict[str, Any]
    validation: dict[str, Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("train", "validation"):
            strict_json.check_value(getattr(self, name).get("images"), _Size, f"{name}.images")


class Result(Record, kw_only=True):
    """What was measured of one net, or of the mean of several."""

    settings: dict[str, Any]
    """What identifies the result (`train.reproduction.settings`)."""
    data: Data
    images: _Size
    """Validation images."""
    center: Wrong
    ten: Wrong
    training: Errors | None
    """Central view, on as many training images as there are validation images; None for the mean of several nets."""
    neighbors: Neighbors | None
    """Measured for the run "paper" only."""
    color: tuple[_Share, ...]
    """Share of colour in the kernels of each half of conv1 (`alexnet_infer.kernels`); empty for a mean."""
    columns: Annotated[int, whole(1, 2)]
    parameters: _Count
    curve: Curve | None
    seconds: Annotated[float, number(0, 1e9)] | None
    """Time spent in training; None if the net was not trained here."""
    hardware: Text
    software: Text
    date: strict_json.Date

    def __post_init__(self) -> None:
        super().__post_init__()
        strict_json.check_date(self.date)
        if self.images != self.data.validation["images"]:
            raise SpecError(f"images={self.images}: expected {self.data.validation['images']}, as in data.validation")
        for name, wrong in (("center", self.center), ("ten", self.ten)):
            top1, top5 = wrong.bits(self.images).T
            if (top5 & ~top1).any():
                raise SpecError(f"{name}: images that are wrong in top-5 but not in top-1")
        if len(self.color) != (0 if self.training is None else 2):
            raise SpecError(f"color={self.color}: expected two shares for a net, and none for a mean of nets")

    def wrong(self, views: str) -> np.ndarray:
        """Return the images that are wrong with "center" or "ten" views, bool [images, 2]."""
        return (self.center if views == "center" else self.ten).bits(self.images)


def with_neighbors(task: Task) -> bool:
    """Whether nearest neighbours are measured for a task."""
    return isinstance(task, Training) and task.run == "paper"


def _optional(data: Any, where: str, kind: type) -> Any:
    return None if data is None else strict_json.build(data, kind, where)


def _curve(data: Any, where: str) -> Curve | None:
    if isinstance(data, dict):
        data = {"training_error": [], "steps_per_epoch": None} | data  # earlier versions did not have them
    return _optional(data, where, Curve)


@dataclass(frozen=True)
class Records:
    """The results in a folder, one file per task: `scale/run-seed.json`."""

    folder: Path

    def path(self, task: Task) -> Path:
        return self.folder / f"{task}.json"

    def read(self, task: Task, settings: dict[str, Any]) -> Result | None:
        """Return the result of a task; None if there is none, or if it was made with other settings.

        Raises UnreadableInputError if the file is damaged.
        """
        path = self.path(task)
        try:
            text = read_limited(path, _MAX_BYTES)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UnreadableInputError(f"{path}: can't be read ({cause_of(error)}); remove it") from None
        try:
            _, fields = strict_json.parse_format(text, "result", FORMAT)
            result = strict_json.build(
                fields,
                Result,
                "result",
                training=partial(_optional, kind=Errors),
                curve=_curve,
                neighbors=partial(_optional, kind=Neighbors),
            )
        except SpecError as error:
            raise UnreadableInputError(f"{path}: {error}; remove it, and run its experiment again") from None
        if result.settings != settings:
            return None
        if isinstance(task, Mean) != (result.training is None):
            raise UnreadableInputError(f"{path}: expected errors on training images for one net; remove it")
        return None if with_neighbors(task) and result.neighbors is None else result

    def write(self, task: Task, result: Result) -> None:
        """Write the result of a task, atomically."""
        path = self.path(task)
        path.parent.mkdir(parents=True, exist_ok=True)
        fields = {"format": FORMAT} | msgspec.to_builtins(result)
        write_atomically(path, (json.dumps(fields, indent=1) + "\n").encode())
