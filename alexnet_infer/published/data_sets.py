"""The registry of labelled image sets that are free: `models/datasets.json`, or the file named by a variable."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from alexnet_infer.errors import SpecError, UnreadableInputError, UsageError, meant, shown
from alexnet_infer.files import along
from alexnet_infer.published.download import Wanted
from alexnet_infer.published.registry import Name, Text, Urls, check_distinct, check_urls, read_registry
from alexnet_infer.strict_json import Record, matching, whole

VARIABLE = "ALEXNET_INFER_DATASETS"
"""The environment variable that names a registry file to use instead, with a site's own sets or mirrors."""

ALL = "all"
"""The part that stands for all parts of a set."""

BLOCK = 2048
"""Bytes that a file takes on a disk on top of its size, on average: half a block."""

Digest = Annotated[
    str,
    matching(
        "md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}",
        "md5, sha256, sha384 or sha512, a colon and its hex digits",
    ),
]
"""MD5, which is all that some sets have, finds damage but is not safe against a forger. It is not accepted for nets."""
Folder = Annotated[str, matching(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", "the name of a folder")]
Count = Annotated[int, whole(0, 10**9)]


class Archive(Record, kw_only=True):
    """A file with images: a .tar, .tar.gz or .zip. Raises SpecError for invalid values."""

    part: Name | None
    """The name of the part of the set that the file holds; None if it holds the set."""
    urls: Urls
    """URLs of the file, tried in this order."""
    size: Annotated[int, whole(1, 2**40 - 1)]
    """In bytes."""
    digest: Digest
    """Kind and hex digits: "sha256:6198..."."""
    digest_source: Text
    """Who published the digest."""
    files: Annotated[int, whole(1, 10**9)]
    """The number of images in the file, also those without a label."""
    folders: tuple[Folder, ...]
    """The folders in a part, which are put side by side; empty if the file holds the set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_urls(self.urls)
        if (self.part is None) != (not self.folders) or self.part == ALL:
            raise SpecError(
                f"part={shown(self.part)}, folders={shown(self.folders)}: expected a part (not {ALL}) with its "
                "folders, or neither"
            )

    @property
    def filename(self) -> str:
        """The name of the file at its publisher."""
        return PurePosixPath(urlsplit(self.urls[0]).path).name

    @property
    def check(self) -> str:
        """The kind of the digest, for people: "SHA-256" or "MD5"."""
        return self.digest.partition(":")[0].upper().replace("SHA", "SHA-")

    @property
    def room(self) -> int:
        """The bytes that the unpacked images take on a disk, about. Images barely shrink in an archive."""
        return self.size + self.size // 10 + self.files * BLOCK


class DataSet(Record, kw_only=True):
    """A labelled image set that can be fetched. Raises SpecError for invalid values."""

    name: Name
    summary: Text
    validation: Count
    """The number of images that `eval` uses."""
    train: Count
    """The number of labelled images for training."""
    classes: Annotated[int, whole(1, 10**6)]
    licence: Text
    terms: Text
    """The URL of the page with the licence, or with the terms of use."""
    model: Name | None
    """A net that knows the classes, for the suggested command; None if the default net does."""
    archives: Annotated[tuple[Archive, ...], Meta(min_length=1, description="a list of archives")]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_urls((self.terms,), "terms")
        if len(self.archives) > 1 and not all(self.parts):
            raise SpecError(f"{self.name}: {len(self.archives)} archives: expected a part for each")
        check_distinct(self.parts, "parts")
        check_distinct([folder for archive in self.archives for folder in archive.folders], "folders")

    @property
    def parts(self) -> tuple[str | None, ...]:
        return tuple(archive.part for archive in self.archives)

    @property
    def size(self) -> int:
        """Size of all archives, in bytes."""
        return sum(archive.size for archive in self.archives)

    def choose(self, parts: Sequence[str]) -> tuple[Archive, ...]:
        """Return the archives of the named parts, or of a set without parts. Raises UsageError."""
        if self.parts == (None,):
            if parts:
                raise UsageError(f"--part {parts[0]}: {self.name} has no parts; leave out --part")
            return self.archives
        sizes = ", ".join(f"{archive.part} ({archive.size / 1e9:.1f} GB)" for archive in self.archives)
        expected = f"expected {sizes}, or {ALL} ({self.size / 1e9:.1f} GB)"
        if not parts:
            raise UsageError(f"{self.name} has parts; name at least one with --part: {expected}")
        for part in parts:
            if part not in (*self.parts, ALL):
                raise UsageError(f"--part {shown(part)}: {expected}")
        return tuple(archive for archive in self.archives if {archive.part, ALL} & {*parts})

    def wanted(self, archive: Archive) -> Wanted:
        """Return what the downloader needs to know of an archive."""
        name = f"{self.name} {archive.part}" if archive.part else self.name
        return Wanted(
            name=name,
            size=archive.size,
            digest=archive.digest,
            command=f"alexnet-infer data get {self.name}{f' --part {archive.part}' if archive.part else ''}",
            room=archive.room,
            elsewhere="choose a folder on another disk with --to",
            wrong=UnreadableInputError,
        )


def data_sets() -> Mapping[str, DataSet]:
    """Return all sets by name. Raises UnreadableInputError if the registry file is missing or invalid."""
    return _read(Path(os.environ.get(VARIABLE) or along("datasets.json")))


def data_set(name: str) -> DataSet:
    """Return the set `name`. Raises UsageError for an unknown name, with a similar name if there is one."""
    sets = data_sets()
    if name in sets:
        return sets[name]
    raise UsageError(f"{shown(name)} is not a set that can be fetched{meant(name, sets)}; expected {', '.join(sets)}")


@functools.lru_cache(maxsize=4)
def _read(path: Path) -> Mapping[str, DataSet]:
    return read_registry(path, "sets", DataSet, UnreadableInputError)
