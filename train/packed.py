"""The trainer's packed set: images decoded and squared once (`train.prepare`), then read through memory maps.

A folder with

    manifest.json         what is here, with every file's SHA-256; written last, so without it there is no set yet
    train-00000.bin, ...  uint8 [n, S, S, 3], RGB, C order, no header; likewise validation-00000.bin, ...
    train-labels.npy      int32 [N], positions in the manifest's classes; likewise validation-labels.npy
    mean.npy              float32 [S, S, 3] in 0-255: at each pixel, the mean over the training split (section 2)

In both splits an image that can't be read or decoded is left out and listed in the manifest with the reason; the
trainer counts those of the validation split as wrong. The manifest's first field is its format, which tells it from any
other program's manifest.json, and of each split it has the source's `LabelledImages.listing`.
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

from alexnet_infer.artifact import ClassName
from alexnet_infer.datasets import Split
from alexnet_infer.errors import AlexNetInferError, SpecError, one_line, shown

FORMAT, VERSION = "alexnet-infer packed set", 2
RESAMPLE = "bicubic"
MANIFEST, MEAN = "manifest.json", "mean.npy"
SPLITS: tuple[Split, ...] = ("train", "validation")
AGAIN = "remove the folder and make it again with python -m train prepare"

_MAX_MANIFEST = 2**26
_MAX_IMAGES = 10**8
"""Six times the largest labelled set there is; it bounds what a manifest can make the reader allocate."""


class PackedSetError(AlexNetInferError):
    """A packed set that is damaged, incomplete, contradicts itself, or is of another version."""

    exit_code = 4


def shard_name(split: Split, number: int) -> str:
    return f"{split}-{number:05}.bin"


def labels_name(split: Split) -> str:
    return f"{split}-labels.npy"


def is_packed(root: Path) -> bool:
    """Whether `root` holds a finished packed set, sound or not; `open_packed` tells which."""
    return is_ours(root / MANIFEST)


def is_ours(path: Path) -> bool:
    """Whether this program wrote the JSON at `path`, by its format; a damaged file still counts when the format stands
    at its beginning. Of whatever else lies there, at most 64 MB are read."""
    try:
        if not path.is_file():  # reading a pipe would wait for ever
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
    """An image that was left out. Both texts are printable."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class PackedSplit:
    """`labels` int64 [N], read-only. A shard without images stays unread."""

    listing: str
    shards: tuple[PackedFile, ...]
    labels: np.ndarray
    unreadable: tuple[Unreadable, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedSet:
    """An open packed set. Its pixels are on disk until they are used."""

    root: Path
    size: int
    """S, in pixels."""
    classes: tuple[ClassName, ...]
    """Sorted by WordNet id; labels are positions in it."""
    mean: np.ndarray
    """float32 [S, S, 3] RGB in 0-255, of the training split. Read-only."""
    covariance: np.ndarray
    """float64 [3, 3] of the RGB values (0-255) of all pixels of the training split. Read-only."""
    digest: str
    """Hex SHA-256 of the manifest, which holds those of all files: it identifies the set."""
    files: tuple[PackedFile, ...]
    """All but the manifest."""
    splits: Mapping[Split, PackedSplit]

    @property
    def bytes(self) -> int:
        """Of all `files`: what `verify` reads."""
        return sum(file.bytes for file in self.files)

    def images(self, split: Split) -> int:
        return len(self.splits[split].labels)

    def labels(self, split: Split) -> np.ndarray:
        """int64 [N], read-only."""
        return self.splits[split].labels

    def unreadable(self, split: Split) -> tuple[Unreadable, ...]:
        """The images that the source has and the set lacks."""
        return self.splits[split].unreadable

    def listing(self, split: Split) -> str:
        """The source's `LabelledImages.listing`: a hash of the names, sizes and labels of all its images."""
        return self.splits[split].listing

    def shards(self, split: Split) -> list[np.memmap]:
        """The split's images in the labels' order: read-only memory maps, uint8 [n, S, S, 3] with n of at least 1.

        Raises PackedSetError when a file can't be mapped any more.
        """
        maps = []
        for file in self.splits[split].shards:
            shape = (file.bytes // (3 * self.size**2), self.size, self.size, 3)
            if shape[0]:  # an empty file can't be mapped
                with _reading(self.root / file.name):
                    maps.append(np.memmap(self.root / file.name, np.uint8, "r", shape=shape))
        return maps

    def verify(self, on_bytes: Callable[[int], None] = lambda count: None) -> None:
        """Reads every file and compares its SHA-256; `on_bytes` gets the number of bytes just read.

        Raises PackedSetError naming the first that differs.
        """
        for file in self.files:
            digest, path = hashlib.sha256(), self.root / file.name
            with _reading(path), path.open("rb") as stream:
                while block := stream.read(2**20):
                    digest.update(block)
                    on_bytes(len(block))
            _Found(f"{path}: SHA-256", digest.hexdigest()).equal(file.sha256)


def open_packed(root: Path) -> PackedSet:
    """Opens a packed set after checking that manifest, sizes of all files, labels and mean agree.

    Raises PackedSetError. The pixels aren't read: `PackedSet.verify` does that.
    """
    path = root / MANIFEST
    if not is_ours(path):  # then nobody may be told to remove the folder
        raise PackedSetError(f"{path}: expected the manifest of a packed set; make one with python -m train prepare")
    text = _manifest_bytes(path)
    manifest = _checked_version(_Found(f"{path}: manifest", _parsed(path, text)))
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
class _Found:
    """A value from a manifest, which anyone may have written, and where it stands.

    Every method returns the value as what its name says, or raises PackedSetError.
    """

    where: str
    value: Any

    def refuse(self, expected: str) -> PackedSetError:
        return PackedSetError(f"{self.where}: found {shown(self.value)}, expected {expected}; {AGAIN}")

    def fields(self, *names: str) -> dict[str, _Found]:
        if not isinstance(self.value, dict):
            raise self.refuse("an object")
        if wrong := sorted(self.value.keys() ^ set(names)):
            raise PackedSetError(f"{self.where}: missing or unknown fields: {shown(wrong)}; {AGAIN}")
        return {name: _Found(f"{self.where}.{name}", self.value[name]) for name in names}

    def items(self) -> list[_Found]:
        if not isinstance(self.value, list):
            raise self.refuse("a list")
        return [_Found(f"{self.where}[{i}]", value) for i, value in enumerate(self.value)]

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
        """float64 of `shape`, no value beyond 255 squared, which bounds whatever 8-bit pixels give."""
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
    _Found(f"{path}: size in bytes", _size(path)).whole(0, _MAX_MANIFEST)
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
        raise PackedSetError(f"{path}: found no sound JSON ({one_line(error)}), expected a manifest; {AGAIN}") from None


def _checked_version(manifest: _Found) -> dict[str, _Found]:
    """The manifest's fields; the version comes first, since another one may have other fields."""
    _Found(f"{manifest.where}.version", manifest.value.get("version")).equal(VERSION)
    statistics = ("mean", "covariance", "eigenvalues", "eigenvectors")
    return manifest.fields("format", "version", "size", "resample", "classes", "splits", *statistics, "software")


def _classes(found: _Found) -> tuple[ClassName, ...]:
    classes = []
    for item in found.items():
        fields = item.fields("wnid", "name")
        try:
            classes.append(ClassName(wnid=fields["wnid"].text(), name=fields["name"].text()))
        except SpecError as error:
            raise PackedSetError(f"{item.where}: {error}; {AGAIN}") from None
    if not classes or any(a.wnid >= b.wnid for a, b in pairwise(classes)):
        raise found.refuse("distinct WordNet ids in sorted order")
    return tuple(classes)


def _split(root: Path, name: Split, found: _Found, size: int, classes: int) -> tuple[PackedSplit, list[PackedFile]]:
    fields = found.fields("listing", "images", "shards", "labels", "unreadable")
    listing = fields["listing"].sha256()
    images = fields["images"].whole(1, _MAX_IMAGES)
    shards, total = [], 0
    for number, item in enumerate(fields["shards"].items()):
        shard = item.fields("file", "images", "sha256")
        shard["file"].equal(shard_name(name, number))  # so no other path is ever opened
        count = shard["images"].whole(0, images)
        shards.append(_file(root, shard, count * size * size * 3))
        total += count
    _Found(f"{found.where}.shards: images in all", total).equal(images)
    labels_file = _array_file(root, fields["labels"], labels_name(name), "<i4", (images,))
    labels = _array(root, labels_file, "<i4", (images,)).astype(np.int64)
    if len(wrong := np.flatnonzero((labels < 0) | (labels >= classes))):
        where = f"{root / labels_file.name}: label of image {wrong[0]}"
        raise _Found(where, int(labels[wrong[0]])).refuse(f"0 to {classes - 1}")
    unreadable = []
    for item in fields["unreadable"].items():
        entry = item.fields("name", "reason")
        unreadable.append(Unreadable(entry["name"].text(), entry["reason"].text()))
    return PackedSplit(listing, tuple(shards), _read_only(labels), tuple(unreadable)), [*shards, labels_file]


def _array_file(root: Path, found: _Found, name: str, dtype: str, shape: tuple[int, ...]) -> PackedFile:
    fields = found.fields("file", "sha256")
    fields["file"].equal(name)
    header = len(_npy_header(dtype, shape))
    return _file(root, fields, header + int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize)


def _file(root: Path, fields: dict[str, _Found], expected: int) -> PackedFile:
    name = fields["file"].text()
    _Found(f"{root / name}: size in bytes", _size(root / name)).equal(expected)
    return PackedFile(name, expected, fields["sha256"].sha256())


def _array(root: Path, file: PackedFile, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """A small array, read whole. Only the header that NumPy writes for it is taken, so none has to be interpreted."""
    path = root / file.name
    with _reading(path):
        data = path.read_bytes()
    _Found(f"{path}: SHA-256", hashlib.sha256(data).hexdigest()).equal(file.sha256)
    header = _npy_header(dtype, shape)
    if len(data) != file.bytes or not data.startswith(header):
        found = f"another header ({shown(data[: len(header)])})"
        raise PackedSetError(f"{path}: found {found}, expected that of {dtype} {list(shape)}; {AGAIN}")
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
    except (OSError, ValueError) as error:  # ValueError: a file that became too short for its map
        reason = getattr(error, "strerror", None) or one_line(error)
        raise PackedSetError(f"{path}: found {reason}, expected a readable file; {AGAIN}") from None


def _read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
