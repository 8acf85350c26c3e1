"""The trainer's packed set: images decoded to squares once (`train.prepare`), then read through memory maps.

It is a folder with these files:

    manifest.json         description of the set with the SHA-256 of every file; written last, so a set is complete if
                          it has one
    train-00000.bin, ...  uint8 [n, S, S, 3], RGB, C order, no header; likewise validation-00000.bin, ...
    train-labels.npy      int32 [N], positions in the manifest's classes; likewise validation-labels.npy
    mean.npy              float32 [S, S, 3] in 0-255: the mean over the training split at each pixel (section 2)

Images that can't be read or decoded are left out of both splits and listed in the manifest with the reason. The trainer
counts those of the validation split as wrong. The first field of the manifest is its format, which distinguishes it
from the manifest.json of other programs. For each split it has the source's `LabelledImages.listing`.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_infer.datasets import Split
from alexnet_infer.errors import AlexNetInferError, SpecError, one_line, shown, wrong_names
from alexnet_infer.manifest import ClassName

FORMAT, VERSION = "alexnet-infer packed set", 2
RESAMPLE = "bicubic"
MANIFEST, MEAN = "manifest.json", "mean.npy"
SPLITS: tuple[Split, ...] = ("train", "validation")
AGAIN = "remove the folder and create it again with python -m train prepare"

_MAX_MANIFEST = 2**26
_MAX_IMAGES = 10**8
"""Limits how much memory a manifest can make the reader allocate. The full ImageNet has 14 million images."""


class PackedSetError(AlexNetInferError):
    """A packed set is damaged, incomplete or inconsistent, or has an unsupported version."""

    exit_code = 4


def shard_name(split: Split, number: int) -> str:
    return f"{split}-{number:05}.bin"


def labels_name(split: Split) -> str:
    return f"{split}-labels.npy"


def is_packed(root: Path) -> bool:
    """Whether `root` has the manifest of a packed set. `open_packed` checks whether the set is valid."""
    return has_format(root / MANIFEST)


def has_format(path: Path) -> bool:
    """Whether the file at `path` is JSON in the format of alexnet-infer's packed sets.

    A damaged file counts if the format is near its beginning. Reads at most 64 MB.
    """
    try:
        if not path.is_file():  # reading a pipe would block
            return False
        with path.open("rb") as file:
            text = file.read(_MAX_MANIFEST)
    except OSError:
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError, MemoryError):
        return FORMAT.encode() in text[:300]
    return isinstance(value, dict) and value.get("format") == FORMAT


@dataclass(frozen=True)
class PackedFile:
    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Unreadable:
    """An image that was left out. Both strings are printable."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class PackedSplit:
    """One split. `labels` is int64 [N], read-only. `shards` may include empty files, which are not read."""

    listing: str
    shards: tuple[PackedFile, ...]
    labels: np.ndarray
    unreadable: tuple[Unreadable, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedSet:
    """An open packed set. Its pixels stay on disk until they are used."""

    root: Path
    size: int
    """S, in pixels."""
    classes: tuple[ClassName, ...]
    """Sorted by WordNet id; labels are positions in this tuple."""
    mean: np.ndarray
    """Mean of the training split, float32 [S, S, 3], RGB in 0-255. Read-only."""
    covariance: np.ndarray
    """Covariance of the RGB values (0-255) of all pixels of the training split, float64 [3, 3]. Read-only."""
    digest: str
    """SHA-256 of the manifest in hexadecimal. It identifies the set, as the manifest has the hashes of all files."""
    files: tuple[PackedFile, ...]
    """All files but the manifest."""
    splits: Mapping[Split, PackedSplit]

    @property
    def bytes(self) -> int:
        """Total size of `files`, which `verify` reads."""
        return sum(file.bytes for file in self.files)

    def images(self, split: Split) -> int:
        """Number of images in the set, without unreadable ones."""
        return len(self.splits[split].labels)

    def labels(self, split: Split) -> np.ndarray:
        """The labels, int64 [N], read-only."""
        return self.splits[split].labels

    def unreadable(self, split: Split) -> tuple[Unreadable, ...]:
        """The images of the source that are not in the set."""
        return self.splits[split].unreadable

    def listing(self, split: Split) -> str:
        """The source's `LabelledImages.listing`: a hash of the names, sizes and labels of all its images."""
        return self.splits[split].listing

    def shards(self, split: Split) -> list[np.memmap]:
        """Return the split's images in the order of the labels: read-only memory maps, uint8 [n, S, S, 3], n >= 1.

        Raises PackedSetError if a file can't be mapped, because it has changed since the set was opened.
        """
        maps = []
        for file in self.splits[split].shards:
            shape = (file.bytes // (3 * self.size**2), self.size, self.size, 3)
            if shape[0]:  # an empty file can't be mapped
                with _reading(self.root / file.name):
                    maps.append(np.memmap(self.root / file.name, np.uint8, "r", shape=shape))
        return maps

    def verify(self, on_bytes: Callable[[int], None] = lambda count: None) -> None:
        """Read every file and check its SHA-256. `on_bytes` is called with the number of bytes just read.

        Raises PackedSetError with the name of the first file that differs.
        """
        for file in self.files:
            digest, path = hashlib.sha256(), self.root / file.name
            with _reading(path), path.open("rb") as stream:
                while block := stream.read(2**20):
                    digest.update(block)
                    on_bytes(len(block))
            _Value(f"{path}: SHA-256", digest.hexdigest()).equal(file.sha256)


def open_packed(root: Path) -> PackedSet:
    """Open a packed set. Checks the manifest, the sizes of all files, and the labels and the mean with their hashes.

    Raises PackedSetError if one of them is wrong. The pixels are not read; `PackedSet.verify` reads them.
    """
    path = root / MANIFEST
    if not has_format(path):  # the message must not advise removing a folder of something else
        raise PackedSetError(f"{path}: expected the manifest of a packed set; make one with python -m train prepare")
    text = _manifest_bytes(path)
    manifest = _checked_version(_Value(f"{path}: manifest", _parsed(path, text)))
    size = manifest["size"].whole(1, 4096)
    manifest["resample"].equal(RESAMPLE)
    classes = _classes(manifest["classes"])
    splits = manifest["splits"].fields(*SPLITS)
    parsed = {name: _split(root, name, splits[name], size, len(classes)) for name in SPLITS}
    mean_file = _array_file(root, manifest["mean"], MEAN, "<f4", (size, size, 3))
    mean = _array(root, mean_file, "<f4", (size, size, 3))
    if not ((mean >= 0) & (mean <= 255)).all():
        raise PackedSetError(f"{root / MEAN}: found {mean.min():g} to {mean.max():g}, expected 0 to 255; {AGAIN}")
    manifest["eigenvalues"].matrix((3,))
    manifest["eigenvectors"].matrix((3, 3))
    return PackedSet(
        root=root,
        size=size,
        classes=classes,
        mean=mean,
        covariance=manifest["covariance"].matrix((3, 3)),
        digest=hashlib.sha256(text).hexdigest(),
        files=(*(file for _, files in parsed.values() for file in files), mean_file),
        splits={name: split for name, (split, _) in parsed.items()},
    )


@dataclass(frozen=True)
class _Value:
    """An untrusted value, such as one from a manifest, and its location, for error messages.

    A method returns the value as the type in its name, or raises PackedSetError if it is not of that type.
    """

    where: str
    value: Any

    def refuse(self, expected: str) -> PackedSetError:
        return PackedSetError(f"{self.where}: found {shown(self.value)}, expected {expected}; {AGAIN}")

    def fields(self, *names: str) -> dict[str, _Value]:
        if not isinstance(self.value, dict):
            raise self.refuse("an object")
        if wrong := wrong_names("fields", self.value, names):
            raise PackedSetError(f"{self.where}: {wrong}; {AGAIN}")
        return {name: _Value(f"{self.where}.{name}", self.value[name]) for name in names}

    def items(self) -> list[_Value]:
        if not isinstance(self.value, list):
            raise self.refuse("a list")
        return [_Value(f"{self.where}[{i}]", value) for i, value in enumerate(self.value)]

    def whole(self, low: int, high: int) -> int:
        if type(self.value) is not int or not low <= self.value <= high:
            raise self.refuse(f"a whole number from {low} to {high}")
        return self.value

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value.isprintable():
            raise self.refuse("printable text")
        return self.value

    def sha256(self) -> str:
        if len(self.text()) != 64 or set(self.value) - set("0123456789abcdef"):
            raise self.refuse("64 hexadecimal digits")
        return self.value

    def equal(self, expected: object) -> None:
        if type(self.value) is not type(expected) or self.value != expected:
            raise self.refuse(shown(expected))

    def matrix(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return float64 of `shape`. Refuses values beyond 255 squared, which no statistics of 8-bit pixels have."""
        if len(shape) > 1:
            rows = [item.matrix(shape[1:]) for item in self.items()]
        else:
            rows = [item.value for item in self.items()]
            if not all(type(v) in (int, float) and abs(v) <= 255**2 for v in rows):
                raise self.refuse("numbers from -65025 to 65025")
        if len(rows) != shape[0]:
            raise self.refuse(f"{shape[0]} entries")
        return _read_only(np.array(rows, np.float64))


def _manifest_bytes(path: Path) -> bytes:
    _Value(f"{path}: size in bytes", _size(path)).whole(0, _MAX_MANIFEST)
    with _reading(path):
        return path.read_bytes()


def _parsed(path: Path, text: bytes) -> Any:
    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) != len(dict(pairs)):
            raise ValueError("a key occurs twice")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:
        raise PackedSetError(f"{path}: found invalid JSON ({one_line(error)}), expected a manifest; {AGAIN}") from None


def _checked_version(manifest: _Value) -> dict[str, _Value]:
    """Return the manifest's fields. Checks the version first, because another version may have other fields."""
    _Value(f"{manifest.where}.version", manifest.value.get("version")).equal(VERSION)
    statistics = ("mean", "covariance", "eigenvalues", "eigenvectors")
    return manifest.fields("format", "version", "size", "resample", "classes", "splits", *statistics, "software")


def _classes(value: _Value) -> tuple[ClassName, ...]:
    classes = []
    for item in value.items():
        fields = item.fields("wnid", "name")
        try:
            classes.append(ClassName(wnid=fields["wnid"].text(), name=fields["name"].text()))
        except SpecError as error:
            raise PackedSetError(f"{item.where}: {error}; {AGAIN}") from None
    if not classes or any(a.wnid >= b.wnid for a, b in pairwise(classes)):
        raise value.refuse("distinct WordNet ids in sorted order")
    return tuple(classes)


def _split(root: Path, name: Split, value: _Value, size: int, classes: int) -> tuple[PackedSplit, list[PackedFile]]:
    fields = value.fields("listing", "images", "shards", "labels", "unreadable")
    listing = fields["listing"].sha256()
    images = fields["images"].whole(1, _MAX_IMAGES)
    shards, total = [], 0
    for number, item in enumerate(fields["shards"].items()):
        shard = item.fields("file", "images", "sha256")
        shard["file"].equal(shard_name(name, number))  # so that no other path is opened
        count = shard["images"].whole(0, images)
        shards.append(_file(root, shard, count * size * size * 3))
        total += count
    _Value(f"{value.where}.shards: total of images", total).equal(images)
    labels_file = _array_file(root, fields["labels"], labels_name(name), "<i4", (images,))
    labels = _array(root, labels_file, "<i4", (images,)).astype(np.int64)
    if len(out_of_range := np.flatnonzero((labels < 0) | (labels >= classes))):
        image = out_of_range[0]
        where = f"{root / labels_file.name}: label of image {image}"
        raise _Value(where, int(labels[image])).refuse(f"0 to {classes - 1}")
    unreadable = []
    for item in fields["unreadable"].items():
        entry = item.fields("name", "reason")
        unreadable.append(Unreadable(entry["name"].text(), entry["reason"].text()))
    return PackedSplit(listing, tuple(shards), _read_only(labels), tuple(unreadable)), [*shards, labels_file]


def _array_file(root: Path, value: _Value, name: str, dtype: str, shape: tuple[int, ...]) -> PackedFile:
    fields = value.fields("file", "sha256")
    fields["file"].equal(name)
    header = len(_npy_header(dtype, shape))
    return _file(root, fields, header + int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize)


def _file(root: Path, fields: dict[str, _Value], expected: int) -> PackedFile:
    name = fields["file"].text()
    _Value(f"{root / name}: size in bytes", _size(root / name)).equal(expected)
    return PackedFile(name, expected, fields["sha256"].sha256())


def _array(root: Path, file: PackedFile, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Read an array into memory. The header must be the one that NumPy writes for it, so no header is interpreted."""
    path = root / file.name
    with _reading(path):
        data = path.read_bytes()
    _Value(f"{path}: SHA-256", hashlib.sha256(data).hexdigest()).equal(file.sha256)
    header = _npy_header(dtype, shape)
    if len(data) != file.bytes or not data.startswith(header):
        other = shown(data[: len(header)])
        raise PackedSetError(f"{path}: found header {other}, expected that of {dtype} {list(shape)}; {AGAIN}")
    return np.frombuffer(data, dtype, offset=len(header)).reshape(shape)


def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    return header.getvalue()


def _size(path: Path) -> int:
    with _reading(path):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise PackedSetError(f"{path}: found a folder, pipe or device, expected a file; {AGAIN}")
        return status.st_size


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: the file is now too short for its map
        reason = getattr(error, "strerror", None) or one_line(error)
        raise PackedSetError(f"{path}: can't be read ({reason}); {AGAIN}") from None


def _read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
