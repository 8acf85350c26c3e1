"""What the manifest of a packed set (`train.packed`) contains."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from msgspec import Meta

from alexnet_infer import strict_json
from alexnet_infer.errors import SpecError, shown
from alexnet_infer.manifest import ClassName
from alexnet_infer.preprocess import Side
from alexnet_infer.strict_json import Record, Sha256, number, whole

VERSION = 3
"""Version 2 is also read. It has the eigenvalues and eigenvectors of the covariance as well, which nothing needs."""

RESAMPLE = "bicubic"

_MAX_IMAGES = 10**8
"""Limits how much memory a manifest can make the reader allocate. The full ImageNet has 14 million images."""

Printable = Annotated[str, Meta(description="printable text")]
Product = Annotated[float, number(-(255**2), 255**2)]
"""No statistic of 8-bit pixels is larger."""
Row = tuple[Product, Product, Product]


class FileEntry(Record, kw_only=True):
    file: Printable
    sha256: Sha256


class ShardEntry(FileEntry, kw_only=True):
    images: Annotated[int, whole(0, _MAX_IMAGES)]


class UnreadableEntry(Record, kw_only=True):
    name: Printable
    reason: Printable


class SplitEntry(Record, kw_only=True):
    listing: Sha256
    images: Annotated[int, whole(1, _MAX_IMAGES)]
    shards: tuple[ShardEntry, ...]
    labels: FileEntry
    unreadable: tuple[UnreadableEntry, ...]


class SplitEntries(Record, kw_only=True):
    train: SplitEntry
    validation: SplitEntry


class PackedManifest(Record, kw_only=True):
    size: Side
    resample: Literal["bicubic"]
    classes: tuple[ClassName, ...]
    splits: SplitEntries
    mean: FileEntry
    covariance: Annotated[tuple[Row, Row, Row], Meta(description="3 x 3 numbers from -65025 to 65025")]
    software: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.classes or any(a.wnid >= b.wnid for a, b in pairwise(self.classes)):
            raise SpecError(f"classes={shown(self.classes)}: expected distinct WordNet ids in sorted order")


class _Version2(PackedManifest, kw_only=True):
    eigenvalues: Any
    eigenvectors: Any


def parse_manifest(text: bytes) -> PackedManifest:
    """Return the manifest of a file in the packed set's format. Raises SpecError if it is damaged."""
    data = strict_json.parse(text, "manifest")
    del data["format"]
    version = data.pop("version", None)  # first, because another version may have other fields
    strict_json.check_value(version, Literal[2, 3], "manifest.version")
    return strict_json.build(data, PackedManifest if version == VERSION else _Version2, "manifest")
