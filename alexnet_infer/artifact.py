"""A trained net in one file: weights and everything needed to use and cite them.

The file is safetensors (no code in it can run): the tensors of the architecture, and the manifest as JSON under the
metadata key "alexnet_infer". ONNX files carry the same JSON under the same key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from alexnet_infer.architecture import Architecture
from alexnet_infer.errors import ModelFileError, SpecError, one_line, shown
from alexnet_infer.files import along, write_atomically
from alexnet_infer.preprocess import Preprocessing

METADATA_KEY = "alexnet_infer"
FORMAT = 2
"""What is written. Format 1, which is read, too, had no `fit`: all its images were cropped."""

EMBEDDED = "alexnet-64"
"""The net that comes with the package."""


@dataclass(frozen=True, kw_only=True)
class ClassName:
    """A class: its WordNet id ("n02123045") and its English names ("tabby, tabby cat").

    Raises SpecError unless both are printable text: they come from files and end on a terminal.
    """

    wnid: str
    name: str

    def __post_init__(self) -> None:
        _check_text("class", self.wnid)
        _check_text(f"class {self.wnid}", self.name)

    @property
    def short(self) -> str:
        """The first of the names."""
        return self.name.split(",")[0].strip()


@dataclass(frozen=True, kw_only=True)
class MeasuredError:
    """An error figure with its protocol. `top1` and `top5` count wrong images out of `images`.

    Raises SpecError on counts that can't be.
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
            raise SpecError(f"errors: top5, top1, images={shown(counts)}: expected whole numbers, none above the next")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a net comes from: what someone needs to trust it, to cite it and to train it again.

    Raises SpecError on values that could not be written to a file and read back.
    """

    data: str
    recipe: Mapping[str, Any]
    """Whatever JSON can say, four levels deep at most."""
    seed: int | None
    """None where it isn't known."""
    date: str | None
    """ISO 8601, the day on which training ended; None where it isn't known."""
    software: str
    errors: tuple[MeasuredError, ...] = ()

    def __post_init__(self) -> None:
        for name in ("data", "software"):
            _check_text(f"provenance: {name}", getattr(self, name))
        try:
            if self.date is not None:
                date.fromisoformat(self.date)
        except (TypeError, ValueError):
            raise SpecError(f"provenance: date={shown(self.date)}: expected an ISO 8601 date, or none") from None
        if self.seed is not None and type(self.seed) is not int:
            raise SpecError(f"provenance: seed={shown(self.seed)}: expected a whole number, or none")
        if not isinstance(self.recipe, Mapping) or not _is_plain(self.recipe):
            raise SpecError(
                f"provenance: recipe={shown(self.recipe)}: expected an object of text, finite numbers, true, false "
                "and null, four levels deep at most"
            )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that is known of a net but its weights. Raises SpecError when its parts disagree."""

    name: str
    architecture: Architecture
    preprocessing: Preprocessing
    classes: tuple[ClassName, ...]
    """In the order of the outputs, sorted by WordNet id."""
    provenance: Provenance

    def __post_init__(self) -> None:
        _check_text("name", self.name)
        if len(self.classes) != self.architecture.classes:
            raise SpecError(f"{len(self.classes)} class names for {self.architecture.classes} outputs")
        if self.preprocessing.patch != self.architecture.patch:
            raise SpecError(
                f"preprocessing cuts patches of {self.preprocessing.patch}, the net takes {self.architecture.patch}"
            )
        if self.architecture.channels != 3:
            raise SpecError(f"the net takes {self.architecture.channels} channels; photos have 3")
        wnids = [c.wnid for c in self.classes]
        for before, after in pairwise(wnids):
            if before >= after:
                raise SpecError(f"class {after} comes after {before}: expected distinct WordNet ids in sorted order")

    def to_json(self) -> str:
        """The manifest as canonical JSON: sorted keys, so that equal manifests are equal text."""
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
        """Inverse of `to_json`. Raises SpecError on anything missing, surplus, out of range or contradictory."""
        try:
            data = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_distinct_keys)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"the manifest is not JSON ({one_line(error)})") from None
        expected = {"format", "name", "architecture", "preprocessing", "classes", "provenance"}
        found = data.get("format") if isinstance(data, dict) else None
        if type(found) is not int or not 1 <= found <= FORMAT:
            raise SpecError(f"manifest format {shown(found)}: this version reads formats 1 to {FORMAT}")
        _check_keys("manifest", data, expected)
        if found == 1 and isinstance(data["preprocessing"], dict) and "fit" not in data["preprocessing"]:
            data["preprocessing"]["fit"] = "crop"
        return cls(
            name=data["name"],
            architecture=Architecture.from_json(data["architecture"]),
            preprocessing=Preprocessing.from_json(data["preprocessing"]),
            classes=classes_from_json(data["classes"]),
            provenance=_provenance_from_json(data["provenance"]),
        )


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError(f"a key occurs twice among {shown(sorted(fields))}")
    return fields


def _check_keys(where: str, data: Any, expected: set[str]) -> None:
    if not isinstance(data, dict):
        raise SpecError(f"{where}={shown(data)}: expected an object")
    if data.keys() != expected:
        raise SpecError(f"{where}: missing or unknown fields: {shown(sorted(data.keys() ^ expected))}")


def _check_text(where: str, value: object) -> None:
    """Text that can be printed: no line breaks, no terminal escapes, no half of a surrogate pair."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise SpecError(f"{where}: {shown(value)}: expected printable text")


def _is_plain(value: object, levels: int = 4) -> bool:
    """Whether JSON can hold `value`, finite and printable, within so many levels of lists and objects."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and key.isprintable() for key in value) and _is_plain([*value.values()], levels)
    if isinstance(value, list | tuple):
        return levels > 0 and all(_is_plain(v, levels - 1) for v in value)
    if isinstance(value, str):
        return value.isprintable()
    return value is None or isinstance(value, bool | int) or (isinstance(value, float) and isfinite(value))


def classes_from_json(data: Any) -> tuple[ClassName, ...]:
    """The classes in a manifest's list of [WordNet id, names]. Raises SpecError when it is none."""
    if not isinstance(data, list):
        raise SpecError(f"classes={shown(data)}: expected a list of [WordNet id, name] pairs")
    for item in data:
        if not isinstance(item, list) or len(item) != 2:
            raise SpecError(f"class {shown(item)}: expected a [WordNet id, name] pair")
    return tuple(ClassName(wnid=wnid, name=name) for wnid, name in data)


def _provenance_from_json(data: Any) -> Provenance:
    _check_keys("provenance", data, {item.name for item in dataclasses.fields(Provenance)})
    if not isinstance(data["errors"], list):
        raise SpecError(f"provenance: errors={shown(data['errors'])}: expected a list")
    for item in data["errors"]:
        _check_keys("errors", item, {field.name for field in dataclasses.fields(MeasuredError)})
    return Provenance(**{**data, "errors": tuple(MeasuredError(**item) for item in data["errors"])})


@dataclass(frozen=True, eq=False)
class Artifact:
    """A manifest with its weights: `tensors` has exactly the names and shapes of `manifest.architecture.tensors`.

    Raises SpecError when it hasn't, or when a weight is not finite (or a variance below 0).
    """

    manifest: Manifest
    tensors: Mapping[str, np.ndarray] = field(repr=False)
    """float32 in C order, in the architecture's order, whatever the precision on disk or of what was given."""

    def __post_init__(self) -> None:
        expected = self.manifest.architecture.tensors
        _check_names(self.tensors, expected)
        converted = {}
        for name, shape in expected.items():
            tensor = np.asarray(self.tensors[name])
            _check_tensor(name, tensor.dtype.name, tensor.shape, shape)
            with np.errstate(over="ignore"):
                # C order, whatever the order in memory (torch's channels-last): safetensors writes memory as it lies
                converted[name] = np.ascontiguousarray(tensor, np.float32)
            if not _all_finite(converted[name]):
                raise SpecError(f"{name} has weights that are NaN, infinite or beyond float32")
            if name.endswith(".running_var") and (converted[name] < 0).any():
                raise SpecError(f"{name} has variances below 0")
        object.__setattr__(self, "tensors", converted)

    def save(self, path: Path, dtype: type[np.floating] = np.float16) -> None:
        """Writes the file in one piece, weights as `dtype`.

        Raises SpecError when a weight doesn't fit `dtype`, OSError when the file can't be written.
        """
        with np.errstate(over="ignore"):
            stored = {name: tensor.astype(dtype) for name, tensor in self.tensors.items()}
        for name, tensor in stored.items():
            if not np.isfinite(tensor).all():
                raise SpecError(f"{name} has weights too large for {np.dtype(dtype).name}: save it as float32")
        write_atomically(path, safetensors.numpy.save(stored, {METADATA_KEY: self.manifest.to_json()}))


def _all_finite(values: np.ndarray) -> bool:
    """NaN and infinity survive a sum, which is several times faster than a look at each value; a sum may overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum()) or np.isfinite(values).all())


def _check_names(found: Iterable[str], expected: Mapping[str, Any]) -> None:
    found = set(found)
    if missing := [name for name in expected if name not in found]:
        raise SpecError(f"missing tensors: {shown(missing)}")
    if surplus := found - expected.keys():
        raise SpecError(f"unknown tensors: {shown(sorted(surplus))}")


_DTYPES = ("float16", "float32", "float64")


def _check_tensor(name: str, dtype: str, shape: Sequence[int], expected: Sequence[int]) -> None:
    if dtype not in _DTYPES:
        raise SpecError(f"{name} has type {dtype}: expected {', '.join(_DTYPES)}")
    if tuple(shape) != tuple(expected):
        raise SpecError(f"{name} has shape {list(shape)}: expected {list(expected)}")


def load_artifact(path: Path) -> Artifact:
    """Reads a trained net. Raises ModelFileError, saying which tensor or field is wrong."""
    with _reading(path) as file:
        manifest = _manifest(file)
        expected = manifest.architecture.tensors
        _check_names(file.keys(), expected)
        for name, shape in expected.items():  # before any is read
            part = file.get_slice(name)
            dtype = {"F16": "float16", "F32": "float32", "F64": "float64"}.get(part.get_dtype(), part.get_dtype())
            _check_tensor(name, dtype, part.get_shape(), shape)
        return Artifact(manifest, {name: file.get_tensor(name) for name in expected})


def load_manifest(path: Path) -> Manifest:
    """Reads a net's manifest without its weights. Raises ModelFileError."""
    with _reading(path) as file:
        return _manifest(file)


def _manifest(file: safe_open) -> Manifest:
    metadata = file.metadata() or {}
    if METADATA_KEY not in metadata:
        raise SpecError("has no alexnet-infer manifest: expected a file that this project's trainer wrote")
    return Manifest.from_json(metadata[METADATA_KEY])


@contextmanager
def _reading(path: Path) -> Iterator[safe_open]:
    """An open safetensors file. Whatever goes wrong with it becomes a ModelFileError that names it."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SpecError("is not a regular file: expected a model file")
        with path.open("rb"), safe_open(path, "np") as file:  # Python's own errors say what hinders
            yield file
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or one_line(error)}") from None
    except SafetensorError as error:
        raise ModelFileError(f"{path}: damaged, or not a safetensors file ({one_line(error)})") from None
    except SpecError as error:
        raise ModelFileError(f"{path}: {error}") from None


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def embedded_model() -> Path:
    """Where the embedded net lies: in the installed package, or in `models/` of a checkout."""
    place = along(f"{EMBEDDED}.safetensors")
    if not place.is_file():
        raise ModelFileError(f"the embedded net is missing: expected {place}; install the package again")
    return place
