"""Everything about a net except its weights, as JSON: architecture, preprocessing, classes, and where it comes from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from math import isfinite
from typing import Any

from alexnet_infer.architecture import Architecture
from alexnet_infer.errors import SpecError, UsageError, check_fields, check_keys, one_line, shown
from alexnet_infer.preprocess import Preprocessing

METADATA_KEY = "alexnet_infer"
FORMAT = 2
"""The manifest format that is written. Format 1 is also read; it has no `fit`, and all its images are cropped."""


@dataclass(frozen=True, kw_only=True)
class ClassName:
    """A class: its WordNet id ("n02123045") and its English names ("tabby, tabby cat").

    Raises SpecError unless both are printable text, since they are read from files and printed to a terminal.
    """

    wnid: str
    name: str

    def __post_init__(self) -> None:
        _check_text("class", self.wnid)
        _check_text(f"class {self.wnid}", self.name)

    @property
    def short(self) -> str:
        """The first of the English names."""
        return self.name.split(",")[0].strip()


@dataclass(frozen=True, kw_only=True)
class MeasuredError:
    """A measured error with its protocol. `top1` and `top5` are the numbers of wrong images out of `images`.

    Raises SpecError unless 0 <= top5 <= top1 <= images and images > 0.
    """

    data: str
    views: str
    images: int
    top1: int
    top5: int

    def __post_init__(self) -> None:
        _check_text("errors: data", self.data)
        _check_text("errors: views", self.views)
        counts = (self.top5, self.top1, self.images)
        if any(type(count) is not int for count in counts) or not 0 <= self.top5 <= self.top1 <= self.images > 0:
            raise SpecError(
                f"errors: top5, top1, images={shown(counts)}: expected whole numbers, 0 <= top5 <= top1 <= images > 0"
            )


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a net comes from: what a reader needs to trust it, cite it and train it again.

    Raises SpecError if a value could not be written to a file and read back.
    """

    data: str
    recipe: Mapping[str, Any]
    """Any JSON object nested at most four levels deep, with finite numbers and printable text."""
    seed: int | None
    """The random seed of the training; None if unknown."""
    date: str | None
    """The day on which training ended, in ISO 8601; None if unknown."""
    software: str
    errors: tuple[MeasuredError, ...] = ()

    def __post_init__(self) -> None:
        for name in ("data", "software"):
            _check_text(f"provenance: {name}", getattr(self, name))
        try:
            if self.date is not None:
                date.fromisoformat(self.date)
        except (TypeError, ValueError):
            raise SpecError(f"provenance: date={shown(self.date)}: expected an ISO 8601 date or null") from None
        if self.seed is not None and type(self.seed) is not int:
            raise SpecError(f"provenance: seed={shown(self.seed)}: expected a whole number or null")
        if not isinstance(self.recipe, Mapping) or not _is_plain(self.recipe):
            raise SpecError(
                f"provenance: recipe={shown(self.recipe)}: expected an object of printable text, finite numbers, true, "
                "false and null, at most four levels deep"
            )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about a net except its weights. Raises SpecError if its parts contradict each other."""

    name: str
    architecture: Architecture
    preprocessing: Preprocessing
    classes: tuple[ClassName, ...]
    """In the order of the outputs, sorted by WordNet id."""
    provenance: Provenance

    def __post_init__(self) -> None:
        _check_text("name", self.name)
        outputs, patch = self.architecture.classes, self.architecture.patch
        if len(self.classes) != outputs:
            raise SpecError(f"{len(self.classes)} class names: expected {outputs}, one for each output")
        if self.preprocessing.patch != patch:
            raise SpecError(f"preprocessing: patch={self.preprocessing.patch}: expected {patch}, the net's patch size")
        if self.architecture.channels != 3:
            raise SpecError(f"the net takes {self.architecture.channels} channels: expected 3, as in a photo")
        wnids = [c.wnid for c in self.classes]
        for before, after in pairwise(wnids):
            if before >= after:
                raise SpecError(f"class {after} comes after {before}: expected distinct WordNet ids in sorted order")

    def to_json(self) -> str:
        """Return the manifest as canonical JSON: keys are sorted, so equal manifests give equal text."""
        return json.dumps(
            {
                "format": FORMAT,
                "name": self.name,
                "architecture": self.architecture.to_json(),
                "preprocessing": self.preprocessing.to_json(),
                "classes": [[c.wnid, c.name] for c in self.classes],
                "provenance": dataclasses.asdict(self.provenance),
            },
            sort_keys=True,
            allow_nan=False,
        )

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Inverse of `to_json`. Raises SpecError if a field is missing, unknown, out of range or contradictory."""
        try:
            data = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_distinct_keys)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"the manifest is not JSON ({one_line(error)})") from None
        number = data.get("format") if isinstance(data, dict) else None
        if type(number) is not int or not 1 <= number <= FORMAT:
            raise SpecError(f"manifest format {shown(number)}: this version reads formats 1 to {FORMAT}")
        check_keys("manifest", data, ("format", "name", "architecture", "preprocessing", "classes", "provenance"))
        if number == 1 and isinstance(data["preprocessing"], dict) and "fit" not in data["preprocessing"]:
            data["preprocessing"]["fit"] = "crop"
        return cls(
            name=data["name"],
            architecture=Architecture.from_json(data["architecture"]),
            preprocessing=Preprocessing.from_json(data["preprocessing"]),
            classes=classes_from_json(data["classes"]),
            provenance=_provenance_from_json(data["provenance"]),
        )


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError(f"duplicate key in an object with {shown(sorted(fields))}")
    return fields


def _check_text(where: str, value: object) -> None:
    """Raise SpecError unless `value` is printable text: no line breaks, terminal escapes or lone surrogates."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise SpecError(f"{where}: {shown(value)}: expected printable text")


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
    if not isinstance(data, list):
        raise SpecError(f"classes={shown(data)}: expected a list of [WordNet id, name] pairs")
    for item in data:
        if not isinstance(item, list) or len(item) != 2:
            raise SpecError(f"class {shown(item)}: expected a [WordNet id, name] pair")
    return tuple(ClassName(wnid=wnid, name=name) for wnid, name in data)


def difference_of_classes(wnids: Sequence[str], other: Sequence[str]) -> str | None:
    """Return how the outputs of two nets differ, as "200 and 1,000" or "output 5 is 'n2' and 'n3'"; None if equal."""
    if len(wnids) != len(other):
        return f"{len(wnids):,} and {len(other):,}"
    pairs = enumerate(zip(wnids, other, strict=True))
    return next((f"output {i} is {shown(own)} and {shown(its)}" for i, (own, its) in pairs if own != its), None)


def _provenance_from_json(data: Any) -> Provenance:
    check_fields("provenance", data, Provenance)
    if not isinstance(data["errors"], list):
        raise SpecError(f"provenance: errors={shown(data['errors'])}: expected a list")
    for item in data["errors"]:
        check_fields("errors", item, MeasuredError)
    return Provenance(**{**data, "errors": tuple(MeasuredError(**item) for item in data["errors"])})


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
