"""A trained net in one file: its weights, and everything needed to use and cite them.

A model file is a safetensors file, which holds no code: the tensors of the architecture, and the manifest as JSON under
the metadata key "alexnet_infer". Exported ONNX files hold the same JSON under the same key.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from alexnet_infer.errors import ModelFileError, SpecError, UsageError, cause_of, one_line, wrong_names
from alexnet_infer.files import along, open_regular, size_of, write_atomically
from alexnet_infer.manifest import METADATA_KEY, Manifest
from alexnet_infer.recognize import SAFETENSORS, recognize
from alexnet_infer.tensor_file import open_tensors

CHECKPOINT_KEYS = {"config", "state"}
"""The metadata keys by which a checkpoint of the trainer is recognised."""

EMBEDDED = "alexnet-64-0"
"""The default net, which is bundled with the package."""


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
        manifest = _manifest(file, path)
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
        return _manifest(file, path)


def _manifest(file: safe_open, path: Path) -> Manifest:
    metadata = file.metadata() or {}
    if METADATA_KEY in metadata:
        return Manifest.from_json(metadata[METADATA_KEY])
    if metadata.keys() >= CHECKPOINT_KEYS:
        raise SpecError(
            f"is a checkpoint of the trainer: expected the finished net{_finished_beside(path)}; `alexnet-infer import "
            f"{shlex.quote(str(path))}` makes a net of the checkpoint"
        )
    raise SpecError("has no alexnet-infer manifest: expected a model file, such as the trainer's finished net")


def _finished_beside(checkpoint: Path) -> str:
    """Return the model files in the checkpoint's folder for a message, as in ", such as runs/x/x.safetensors"."""
    for path in sorted(checkpoint.parent.glob("*.safetensors")):
        with suppress(SpecError, OSError, SafetensorError), open_tensors(path) as file:
            if METADATA_KEY in (file.metadata() or {}):
                return f", such as {path}"
    return ""


def _not_safetensors(path: Path, error: SafetensorError) -> str:
    kind = recognize(path)
    if kind is None or kind is SAFETENSORS:
        return f"damaged, or not a safetensors file ({one_line(error)})"
    if kind.importable:
        command = f"alexnet-infer import {shlex.quote(str(path))} --as PRESET"
        return f"is {kind.text}: expected a model file; `{command}` converts it"
    advice = f"; {kind.advice}" if kind.advice else ""
    return (
        f"is {kind.text}, which can't be read: expected a model file, or one that `alexnet-infer import` converts to "
        f"it{advice}"
    )


@contextmanager
def _reading(path: Path) -> Iterator[safe_open]:
    """Open a safetensors file. Errors inside the block are raised as a ModelFileError that names the file."""
    try:
        size_of(path)
        with open_tensors(path) as file:
            yield file
    except OSError as error:
        raise ModelFileError(f"{path}: {cause_of(error)}") from None
    except SafetensorError as error:
        raise ModelFileError(f"{path}: {_not_safetensors(path, error)}") from None
    except SpecError as error:
        raise ModelFileError(f"{path}: {error}") from None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex. Raises as `open_regular` does."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_different(files: Iterable[tuple[object, Collection[str]]]) -> None:
    """Check that no net occurs twice in an ensemble: the mean of a net with itself is no ensemble.

    `files`: each file or server with what identifies the nets in it, such as a SHA-256. Raises UsageError with both.
    """
    first: dict[str, object] = {}
    for path, nets in files:
        for net in dict.fromkeys(nets):
            if twin := first.get(net):
                how = "named twice" if path == twin else f"the same net as {twin}"
                raise UsageError(f"{path}: {how}; an ensemble needs different nets")
            first[net] = path


def embedded_model() -> Path:
    """Return the path of the default net, in the installed package or in `models/` of a checkout.

    Raises ModelFileError if the file is missing.
    """
    path = along(f"{EMBEDDED}.safetensors")
    if not path.is_file():
        raise ModelFileError(f"the bundled net is missing: expected {path}; reinstall alexnet-infer")
    return path
