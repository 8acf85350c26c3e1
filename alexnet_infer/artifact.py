"""A trained net in one file: its weights, and everything needed to use and cite them.

A model file is a safetensors file, which holds no code: the tensors of the architecture, and the manifest as JSON under
the metadata key "alexnet_infer". Exported ONNX files hold the same JSON under the same key.
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
from alexnet_infer.errors import ModelFileError, SpecError, check_fields, check_keys, one_line, shown, wrong_names
from alexnet_infer.files import along, write_atomically
from alexnet_infer.preprocess import Preprocessing

METADATA_KEY = "alexnet_infer"
FORMAT = 2
"""The manifest format that is written. Format 1 is also read; it has no `fit`, and all its images are cropped."""

EMBEDDED = "alexnet-64-0"
"""The default net, which is bundled with the package."""


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


@dataclass(frozen=True, eq=False)
class Artifact:
    """A manifest with its weights.

    Raises SpecError unless `tensors` has exactly the names and shapes of `manifest.architecture.tensors`, every weight
    is finite in float32, and every variance is at least 0.
    """

    manifest: Manifest
    tensors: Mapping[str, np.ndarray] = field(repr=False)
    """By name, in the architecture's order. Arrays of float16, float32 or float64 are converted to float32, C order."""

    def __post_init__(self) -> None:
        expected = self.manifest.architecture.tensors
        _check_names(self.tensors, expected)
        converted = {}
        for name, shape in expected.items():
            tensor = np.asarray(self.tensors[name])
            _check_tensor(name, tensor.dtype.name, tensor.shape, shape)
            with np.errstate(over="ignore"):
                # safetensors writes an array's memory as is, so torch's channels-last layout must become C order.
                converted[name] = np.ascontiguousarray(tensor, np.float32)
            if not _all_finite(converted[name]):
                raise SpecError(f"{name} has weights that are NaN, infinite or beyond float32")
            if name.endswith(".running_var") and (converted[name] < 0).any():
                raise SpecError(f"{name} has variances below 0")
        object.__setattr__(self, "tensors", converted)

    def save(self, path: Path, dtype: type[np.floating] = np.float16) -> None:
        """Write a model file atomically, with the weights as `dtype`.

        Raises SpecError if a weight is too large for `dtype`, and OSError if the file can't be written.
        """
        with np.errstate(over="ignore"):
            stored = {name: tensor.astype(dtype) for name, tensor in self.tensors.items()}
        for name, tensor in stored.items():
            if not np.isfinite(tensor).all():
                raise SpecError(f"{name} has weights too large for {np.dtype(dtype).name}: save it as float32")
        write_atomically(path, safetensors.numpy.save(stored, {METADATA_KEY: self.manifest.to_json()}))


def _all_finite(values: np.ndarray) -> bool:
    """Whether no value is NaN or infinite.

    NaN and infinity survive a sum, which is several times faster than checking each value. The sum itself may overflow.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum()) or np.isfinite(values).all())


def _check_names(names: Iterable[str], expected: Iterable[str]) -> None:
    if wrong := wrong_names("tensors", names, expected):
        raise SpecError(wrong)


_DTYPES = ("float16", "float32", "float64")


def _check_tensor(name: str, dtype: str, shape: Sequence[int], expected: Sequence[int]) -> None:
    if dtype not in _DTYPES:
        raise SpecError(f"{name} has type {dtype}: expected one of {', '.join(_DTYPES)}")
    if tuple(shape) != tuple(expected):
        raise SpecError(f"{name} has shape {list(shape)}: expected {list(expected)}")


def load_artifact(path: Path) -> Artifact:
    """Read a net from a model file. Raises ModelFileError, naming the invalid tensor or field."""
    with _reading(path) as file:
        manifest = _manifest(file)
        expected = manifest.architecture.tensors
        _check_names(file.keys(), expected)
        for name, shape in expected.items():  # check all tensors before reading any
            part = file.get_slice(name)
            dtype = {"F16": "float16", "F32": "float32", "F64": "float64"}.get(part.get_dtype(), part.get_dtype())
            _check_tensor(name, dtype, part.get_shape(), shape)
        return Artifact(manifest, {name: file.get_tensor(name) for name in expected})


def load_manifest(path: Path) -> Manifest:
    """Read the manifest of a model file without its weights. Raises ModelFileError if the file is invalid."""
    with _reading(path) as file:
        return _manifest(file)


def _manifest(file: safe_open) -> Manifest:
    metadata = file.metadata() or {}
    if METADATA_KEY not in metadata:
        raise SpecError(
            "has no alexnet-infer manifest: expected a model file; `alexnet-infer import` converts checkpoints of the "
            "trainer"
        )
    return Manifest.from_json(metadata[METADATA_KEY])


@contextmanager
def _reading(path: Path) -> Iterator[safe_open]:
    """Open a safetensors file. Errors inside the block are raised as a ModelFileError that names the file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SpecError("is not a regular file: expected a model file")
        with path.open("rb"), safe_open(path, "np") as file:  # open() first: its OSError names the cause
            yield file
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or one_line(error)}") from None
    except SafetensorError as error:
        foreign = "" if path.suffix == ".safetensors" else "; `alexnet-infer import` converts files of other programs"
        raise ModelFileError(f"{path}: damaged, or not a safetensors file ({one_line(error)}){foreign}") from None
    except SpecError as error:
        raise ModelFileError(f"{path}: {error}") from None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def embedded_model() -> Path:
    """Return the path of the default net, in the installed package or in `models/` of a checkout.

    Raises ModelFileError if the file is missing.
    """
    path = along(f"{EMBEDDED}.safetensors")
    if not path.is_file():
        raise ModelFileError(f"the bundled net is missing: expected {path}; reinstall alexnet-infer")
    return path
