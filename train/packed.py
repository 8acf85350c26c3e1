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
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_infer.datasets import Split
from alexnet_infer.errors import AlexNetInferError, SpecError, cause_of, shown
from alexnet_infer.files import open_regular, read_limited
from alexnet_infer.manifest import ClassName
from alexnet_infer.reading import Unreadable
from train.packed_manifest import FileEntry, SplitEntry, parse_manifest

FORMAT = "alexnet-infer packed set"
MANIFEST, MEAN = "manifest.json", "mean.npy"
SPLITS: tuple[Split, ...] = ("train", "validation")
AGAIN = "remove the folder and create it again with python -m train prepare"

MAX_MANIFEST = 2**24
"""In bytes. That of the full ImageNet (21,841 classes, 2,600 shards) has 3 MB, and 200 for each unreadable image."""

_START = re.compile(rb'\s*\{\s*"format"\s*:\s*"' + re.escape(FORMAT.encode()) + rb'"')


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

    The format is its first field. The rest is not read, and may be damaged.
    """
    try:
        with open_regular(path) as file:
            return _START.match(file.read(300)) is not None
    except (OSError, SpecError):
        return False


@dataclass(frozen=True)
class PackedFile:
    name: str
    bytes: int
    sha256: str


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
            _expect(f"{path}: SHA-256", digest.hexdigest(), file.sha256)


def open_packed(root: Path) -> PackedSet:
    """Open a packed set. Checks the manifest, the sizes of all files, and the labels and the mean with their hashes.

    Raises PackedSetError if one of them is wrong. The pixels are not read; `PackedSet.verify` reads them.
    """
    path = root / MANIFEST
    if not has_format(path):  # the message must not advise removing a folder of something else
        raise PackedSetError(f"{path}: expected the manifest of a packed set; make one with python -m train prepare")
    with _reading(path):
        text = read_limited(path, MAX_MANIFEST)
    try:
        manifest = parse_manifest(text)
    except SpecError as error:
        raise PackedSetError(f"{path}: {error}; {AGAIN}") from None
    size, classes = manifest.size, manifest.classes
    parsed = {name: _split(root, name, getattr(manifest.splits, name), size, len(classes)) for name in SPLITS}
    mean_file = _array_file(root, manifest.mean, MEAN, "<f4", (size, size, 3))
    mean = _array(root, mean_file, "<f4", (size, size, 3))
    if not ((mean >= 0) & (mean <= 255)).all():
        raise PackedSetError(f"{root / MEAN}: found {mean.min():g} to {mean.max():g}, expected 0 to 255; {AGAIN}")
    return PackedSet(
        root=root,
        size=size,
        classes=classes,
        mean=mean,
        covariance=_read_only(np.array(manifest.covariance, np.float64)),
        digest=hashlib.sha256(text).hexdigest(),
        files=(*(file for _, files in parsed.values() for file in files), mean_file),
        splits={name: split for name, (split, _) in parsed.items()},
    )


def _split(root: Path, name: Split, split: SplitEntry, size: int, classes: int) -> tuple[PackedSplit, list[PackedFile]]:
    shards = []
    for i, shard in enumerate(split.shards):
        shards.append(_file(root, shard, shard_name(name, i), shard.images * size * size * 3))
    total = sum(shard.images for shard in split.shards)
    _expect(f"{root / MANIFEST}: total of images in the shards of {name}", total, split.images)
    labels_file = _array_file(root, split.labels, labels_name(name), "<i4", (split.images,))
    labels = _array(root, labels_file, "<i4", (split.images,)).astype(np.int64)
    if len(out_of_range := np.flatnonzero((labels < 0) | (labels >= classes))):
        image = out_of_range[0]
        where = f"{root / labels_file.name}: label of image {image}"
        raise PackedSetError(f"{where}: found {labels[image]}, expected 0 to {classes - 1}; {AGAIN}")
    unreadable = tuple(Unreadable(image=item.name, reason=item.reason) for item in split.unreadable)
    return PackedSplit(split.listing, tuple(shards), _read_only(labels), unreadable), [*shards, labels_file]


def _array_file(root: Path, file: FileEntry, name: str, dtype: str, shape: tuple[int, ...]) -> PackedFile:
    header = len(_npy_header(dtype, shape))
    return _file(root, file, name, header + int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize)


def _file(root: Path, file: FileEntry, name: str, size: int) -> PackedFile:
    _expect(f"{root / MANIFEST}: file", file.file, name)  # so that no other path is opened
    _expect(f"{root / name}: size in bytes", _size(root / name), size)
    return PackedFile(name, size, file.sha256)


def _array(root: Path, file: PackedFile, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Read an array into memory. The header must be the one that NumPy writes for it, so no header is interpreted."""
    path = root / file.name
    with _reading(path):
        data = read_limited(path, file.bytes)
    _expect(f"{path}: SHA-256", hashlib.sha256(data).hexdigest(), file.sha256)
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


def _expect(where: str, found: object, expected: object) -> None:
    if found != expected:
        raise PackedSetError(f"{where}: found {shown(found)}, expected {shown(expected)}; {AGAIN}")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise PackedSetError, which names `path`, if reading it fails inside the block."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a wrong size
        reason = cause_of(error)
        raise PackedSetError(f"{path}: can't be read ({reason}); {AGAIN}") from None


def _read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
