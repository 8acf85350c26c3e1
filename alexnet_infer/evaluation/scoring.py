"""How predictions are scored: among which classes a net chooses, and which labels are right.

Predictions do not depend on it. So cached predictions are scored in several ways without running a net again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np

from alexnet_infer.datasets import map_classes
from alexnet_infer.datasets.classes import is_wordnet_id
from alexnet_infer.datasets.ilsvrc import ilsvrc_classes
from alexnet_infer.datasets.texts import MAX_TABLE_BYTES, read_file, read_lines
from alexnet_infer.errors import UnreadableInputError, UsageError, one_line, shown
from alexnet_infer.evaluation.paper import VALIDATION_IMAGES
from alexnet_infer.evaluation.predictions import ImageRow, Predictions, PredictionsError
from alexnet_infer.files import MAX_JSON_BYTES
from alexnet_infer.metrics import mean_probabilities

Shards = Sequence[Predictions]
"""The predictions of one net, in consecutive parts of the images."""

WORDS = ("all", "shared")
"""The values of --classes that are not files."""

RightClasses = Mapping[int, tuple[int, ...]]
"""Number of an ILSVRC validation image, from 1 -> the classes that are right for it, positions in ILSVRC's classes."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How predictions become errors. The default is ILSVRC's way: all classes, and one right label per image."""

    classes: str = "all"
    """The classes among which a net chooses: "all" its own, the "shared" ones that the data has, too, or those in a
    file. The protocols of ImageNet-A and ImageNet-R use the shared ones."""
    wnids: frozenset[str] | None = None
    """The WordNet ids in that file."""
    labels: str | None = None
    """The name of the file of `right`, or None for the data's own labels."""
    right: RightClasses | None = None
    """Several right classes per image, such as the ReaL labels. Images without any are left out, as their authors do
    (Beyer et al., "Are we done with ImageNet?", 2020)."""


def parse_scoring(classes: str = "all", labels: Path | None = None) -> Scoring:
    """Return the scoring that the options --classes and --labels ask for.

    `classes` is "all", "shared" or the path of a file whose lines begin with a WordNet id. `labels` is a JSON file with
    one list of class indices for each of ILSVRC's 50,000 validation images, in their order, as the ReaL labels are
    published. Raises UnreadableInputError if a file can't be read or isn't such a file.
    """
    return Scoring(
        classes=classes if classes in WORDS else _name(Path(classes)),
        wnids=None if classes in WORDS else _read_wnids(Path(classes)),
        labels=None if labels is None else labels.name,
        right=None if labels is None else _read_right(labels),
    )


def _name(path: Path) -> str:
    """The name of a file of classes. It differs from the words that have a meaning of their own."""
    return f"./{path.name}" if path.name in WORDS else path.name


def _read_wnids(path: Path) -> frozenset[str]:
    try:
        lines = read_lines(path, MAX_TABLE_BYTES)
    except FileNotFoundError:
        raise UnreadableInputError(f"--classes {path}: no such file; expected all, shared or a file") from None
    except UnreadableInputError as error:
        raise UnreadableInputError(f"--classes {error}") from None
    wnids = [(line.split() or [""])[0] for line in lines]
    for number, (wnid, line) in enumerate(zip(wnids, lines, strict=True), start=1):
        if not is_wordnet_id(wnid):
            raise UnreadableInputError(
                f"--classes {path}, line {number}: {shown(line)}: expected a line that begins with a WordNet id"
            )
    return frozenset(wnids)


def _read_right(path: Path) -> RightClasses:
    try:
        lists = msgspec.json.decode(read_file(path, MAX_JSON_BYTES), type=list[list[int]])
    except FileNotFoundError:
        raise UnreadableInputError(f"--labels {path}: no such file; expected a file such as real.json") from None
    except UnreadableInputError as error:
        raise UnreadableInputError(f"--labels {error}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise UnreadableInputError(
            f"--labels {path}: {one_line(error)}; expected JSON with one list of class indices per image, such as "
            "real.json"
        ) from None
    if len(lists) != VALIDATION_IMAGES:  # with one line less, all labels might be those of the next image
        raise UnreadableInputError(
            f"--labels {path}: has labels for {len(lists):,} images; expected {VALIDATION_IMAGES:,}, one list for each "
            "of ILSVRC's validation images"
        )
    classes = len(ilsvrc_classes())
    for number, right in enumerate(lists, start=1):
        if any(not 0 <= index < classes for index in right):
            raise UnreadableInputError(
                f"--labels {path}: image {number} has the labels {shown(right)}: expected class indices from 0 to "
                f"{classes - 1}"
            )
    return {number: tuple(right) for number, right in enumerate(lists, start=1)}


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some images in their order, as they are scored."""

    places: np.ndarray
    """Positions among all predictions, int [B]."""
    rows: list[ImageRow]
    probabilities: list[np.ndarray]
    """Of each net, [B, outputs]: float32, or float64 if classes are left out."""
    right: np.ndarray
    """The right outputs of each image, int [B, R]; -1 where there are fewer than R."""

    @property
    def mean(self) -> np.ndarray:
        """The equal-weight mean of the nets' probabilities, [B, outputs]. Those of an only net are unchanged."""
        return mean_probabilities(self.probabilities) if len(self.probabilities) > 1 else self.probabilities[0]


class Scores:
    """The predictions of nets for the same images, with the classes that can be chosen and the labels that are right.

    Raises UsageError if the nets have none of the classes.
    """

    def __init__(self, nets: Sequence[Shards], scoring: Scoring | None = None) -> None:
        self.nets, self.scoring = nets, scoring or Scoring()
        self.about = nets[0][0].about
        self.classes = self.about.data.classes
        """The data's classes, to which the labels in the rows refer."""
        outputs = self.about.net.classes
        self._chosen = self._choose([output.wnid for output in outputs])
        self.outputs = [outputs[i] for i in self._chosen]
        """The classes among which the nets choose."""
        self.to_output = np.array(map_classes(self.classes, self.outputs))
        """The output of each of the data's classes, or -1."""
        self.left_out = 0
        """The number of images that `chunks` has left out, because no label is right."""

    def _choose(self, wnids: Sequence[str]) -> list[int]:
        """The outputs of the net that can be chosen, in their order."""
        allowed = self.scoring.wnids
        if allowed is None and self.scoring.classes == "all":
            return list(range(len(wnids)))
        if allowed is None:
            allowed = frozenset(c.wnid for c in self.classes)
        chosen = [i for i, wnid in enumerate(wnids) if wnid in allowed]
        if not chosen:
            raise UsageError(
                f"--classes {self.scoring.classes}: the nets have none of these classes; expected one or more"
            )
        return chosen

    def chunks(self) -> Iterator[Chunk]:
        """Yield all images that are scored, in order.

        If classes are left out, a net's probabilities for the others are scaled so that they add up to 1: the softmax
        of its logits for these classes. They are float64, so that no two that differ become equal. Raises
        PredictionsError if the predictions are damaged or for different images, and UsageError if an image isn't one
        of those that the labels are for.
        """
        begin = self.left_out = 0
        for rows, probabilities in together(self.nets):
            right = self._right(rows)
            kept = np.flatnonzero((right >= -1).any(1))
            self.left_out += len(rows) - len(kept)
            yield Chunk(
                places=begin + kept,
                rows=[rows[i] for i in kept],
                probabilities=[self._restricted(values[kept]) for values in probabilities],
                right=np.maximum(right[kept], -1),
            )
            begin += len(rows)

    def _restricted(self, probabilities: np.ndarray) -> np.ndarray:
        if len(self._chosen) == probabilities.shape[1]:
            return probabilities
        chosen = probabilities[:, self._chosen].astype(np.float64)
        total = chosen.sum(1, keepdims=True)
        return np.divide(chosen, total, out=np.zeros_like(chosen), where=total > 0)

    def _right(self, rows: Sequence[ImageRow]) -> np.ndarray:
        """The right outputs, int [B, R]: -1 is no output of the nets, and -2 no label."""
        if self.scoring.right is None:
            return self.to_output[[row.label for row in rows]][:, None]
        position = {output.wnid: i for i, output in enumerate(self.outputs)}
        outputs = [position.get(c.wnid, -1) for c in ilsvrc_classes()]
        lists = [[outputs[index] for index in self._labels(row)] for row in rows]
        right = np.full((len(rows), max(map(len, lists), default=0) or 1), -2)
        for own, labels in zip(right, lists, strict=True):
            own[: len(labels)] = labels
        return right

    def _labels(self, row: ImageRow) -> tuple[int, ...]:
        match = re.fullmatch(r"ILSVRC2012_val_([0-9]{8})(?:_n[0-9]{8})?", PurePosixPath(row.name).stem)
        labels = self.scoring.right.get(int(match[1])) if match else None
        if labels is None:
            raise UsageError(
                f"--labels {self.scoring.labels}: has no labels for {row.name}; expected ILSVRC's validation images, "
                f"ILSVRC2012_val_00000001.JPEG to ILSVRC2012_val_{len(self.scoring.right):08}.JPEG"
            )
        return labels


def together(nets: Sequence[Shards]) -> Iterator[tuple[list[ImageRow], list[np.ndarray]]]:
    """Yield the images in order, B at a time, with each net's probabilities float32 [B, classes].

    Raises PredictionsError if the predictions are damaged or for different images.
    """
    walks = [(chunk for part in shards for chunk in part.chunks()) for shards in nets]
    for chunks in zip(*walks, strict=True):
        if any(rows != chunks[0][0] for rows, _ in chunks):
            raise PredictionsError(
                f"{nets[0][0].folder}: its images differ from those in the other nets' predictions, or could be read "
                "in only one of the runs; remove the folder and run the evaluation again"
            )
        yield chunks[0][0], [values for _, values in chunks]
