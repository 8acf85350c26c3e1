"""Everything about a net except its weights, as JSON: architecture, preprocessing, classes, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import isfinite
from typing import Annotated, Any

import msgspec

from alexnet_infer import strict_json
from alexnet_infer.architecture import Architecture
from alexnet_infer.errors import SpecError, UsageError, shown
from alexnet_infer.preprocess import Preprocessing
from alexnet_infer.strict_json import Date, Record, Text

METADATA_KEY = "alexnet_infer"
FORMAT = 2
"""The manifest format that is written. Format 1 is also read; it has no `fit`, and all its images are cropped."""


class ClassName(Record, kw_only=True):
    """A class: its WordNet id ("n02123045") and its English names ("tabby, tabby cat").

    Raises SpecError unless both are printable text, since they are read from files and printed to a terminal.
    """

    wnid: Text
    name: Text

    @property
    def short(self) -> str:
        """The first of the English names."""
        return self.name.split(",")[0].strip()


Count = Annotated[int, strict_json.whole(0, 2**53)]


class MeasuredError(Record, kw_only=True):
    """A measured error with its protocol. `top1` and `top5` are the numbers of wrong images out of `images`.

    Raises SpecError unless 0 <= top5 <= top1 <= images and images > 0.
    """

    data: Text
    views: Text
    images: Count
    top1: Count
    top5: Count

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.top5 <= self.top1 <= self.images > 0:
            counts = shown((self.top5, self.top1, self.images))
            raise SpecError(f"top5, top1, images={counts}: expected 0 <= top5 <= top1 <= images > 0")


class Provenance(Record, kw_only=True):
    """Where a net comes from: what a reader needs to trust it, cite it and train it again.

    Raises SpecError if a value could not be written to a file and read back.
    """

    data: Text
    recipe: Mapping[str, Any]
    """Any JSON object nested at most four levels deep, with finite numbers and printable text."""
    seed: int | None
    """The random seed of the training; None if unknown."""
    date: Date | None
    """The day on which training ended, in ISO 8601; None if unknown."""
    software: Text
    errors: tuple[MeasuredError, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        strict_json.check_date(self.date)
        if not _is_plain(self.recipe):
            raise SpecError(
                f"recipe={shown(self.recipe)}: expected an object of printable text, finite numbers, true, "
                "false and null, at most four levels deep"
            )


class Manifest(Record, kw_only=True):
    """Everything about a net except its weights. Raises SpecError if its parts contradict each other."""

    name: Text
    architecture: Architecture
    preprocessing: Preprocessing
    classes: tuple[ClassName, ...]
    """In the order of the outputs, sorted by WordNet id."""
    provenance: Provenance

    def __post_init__(self) -> None:
        super().__post_init__()
        outputs, patch = self.architecture.classes, self.architecture.patch
        if len(self.classes) != outputs:
            raise SpecError(f"{len(self.classes)} class names: expected {outputs}, one for each output")
        if self.preprocessing.patch != patch:
            raise SpecError(f"preprocessing: patch={self.preprocessing.patch}: expected {patch}, the net's patch size")
        if self.architecture.channels != 3:
            raise SpecError(f"the net takes {self.architecture.channels} channels: expected 3, as in a photo")
        for before, after in pairwise(self.wnids):
            if before >= after:
                raise SpecError(f"class {after} comes after {before}: expected distinct WordNet ids in sorted order")

    @property
    def wnids(self) -> tuple[str, ...]:
        """The WordNet ids of the classes, in order."""
        return tuple(c.wnid for c in self.classes)

    def to_json(self) -> str:
        """Return the manifest as canonical JSON: keys are sorted, so equal manifests give equal text."""
        return json.dumps(
            {
                "format": FORMAT,
                "name": self.name,
                "architecture": self.architecture.to_json(),
                "preprocessing": self.preprocessing.to_json(),
                "classes": [[c.wnid, c.name] for c in self.classes],
                "provenance": msgspec.to_builtins(self.provenance),
            },
            sort_keys=True,
            allow_nan=False,
        )

    @classmethod
    def from_json(cls, text: str, where: str = "manifest") -> Manifest:
        """Inverse of `to_json`. Raises SpecError if a field is missing, unknown, out of range or contradictory."""
        number, data = strict_json.parse_format(text, where, FORMAT, oldest=1)
        if number == 1 and isinstance(data.get("preprocessing"), dict):
            data["preprocessing"].setdefault("fit", "crop")
        readers = {"architecture": Architecture.from_json, "preprocessing": Preprocessing.from_json}
        return strict_json.build(data, cls, where, classes=_class_from_json, **readers)


def _is_plain(value: object, levels: int = 4) -> bool:
    """Whether JSON can hold `value`: finite numbers, printable text, at most `levels` nested lists and objects."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and key.isprintable() for key in value) and _is_plain([*value.values()], levels)
    if isinstance(value, list | tuple):
        return levels > 0 and all(_is_plain(v, levels - 1) for v in value)
    if isinstance(value, str):
        return value.isprintable()
    return value is None or isinstance(value, bool | int) or (isinstance(value, float) and isfinite(value))


def classes_from_json(data: Any) -> tuple[ClassName, ...]:
    """Return the classes in a manifest's list of [WordNet id, name] pairs.

    Raises SpecError if `data` is not such a list.
    """
    return strict_json.convert(data, tuple[ClassName, ...], "classes", _class_from_json)


def _class_from_json(pair: Any, where: str) -> ClassName:
    if not isinstance(pair, list) or len(pair) != 2:
        raise SpecError(f"{where}={shown(pair)}: expected a [WordNet id, name] pair")
    return strict_json.build({"wnid": pair[0], "name": pair[1]}, ClassName, where)


def difference_of_classes(wnids: Sequence[str], other: Sequence[str]) -> str | None:
    """Return how the outputs of two nets differ, as "200 and 1,000" or "output 5 is 'n2' and 'n3'"; None if equal."""
    if len(wnids) != len(other):
        return f"{len(wnids):,} and {len(other):,}"
    pairs = enumerate(zip(wnids, other, strict=True))
    return next((f"output {i} is {shown(own)} and {shown(its)}" for i, (own, its) in pairs if own != its), None)


def check_same_classes(wnids: Sequence[Sequence[str]], names: Sequence[str]) -> None:
    """Check that all nets of an ensemble have the same outputs: equal WordNet ids in the same order.

    Raises UsageError, with the names of two nets that differ.
    """
    for own, name in zip(wnids, names, strict=True):
        if difference := difference_of_classes(own, wnids[0]):
            raise UsageError(
                f"{name}: has different classes from {names[0]} ({difference}); only nets with the same classes, in "
                "the same order, can be averaged"
            )
