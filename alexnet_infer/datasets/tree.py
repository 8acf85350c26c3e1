"""Folders of images, on disk or in an archive: which files are images, and which folders belong to a set."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal
from unicodedata import normalize

from alexnet_infer.datasets.inside import Inside
from alexnet_infer.datasets.places import Place, refuse
from alexnet_infer.datasets.zips import ZipMember
from alexnet_infer.photos import IMAGE_SUFFIXES, OTHER_PICTURE_SUFFIXES

Folder = Path | Inside
"""A folder or file, on disk or in an archive."""

Split = Literal["train", "validation"]

_LITTER = frozenset(
    {
        "@eadir",
        "@__thumb",
        "@recycle",
        "@recently-snapshot",
        "@sharebin",
        "@tmp",
        "#recycle",
        "#snapshot",
        "~snapshot",
        "$recycle.bin",
        "$extend",
        "recycler",
        "system volume information",
        "lost+found",
        "__macosx",
        "network trash folder",
        "temporary items",
        "icon\r",
        "thumbs.db:encryptable",
        "__pycache__",
    }
)
"""Lower-case names of folders and files that storage systems, file managers and other programs leave among images."""

_COMPANIONS = frozenset(
    "txt csv tsv json jsonl xml yaml yml toml html htm md rst log ini cfg db lst list idx py ipynb sh npy npz mat pkl "  # noqa: SIM905
    "pt pth onnx safetensors lnk url desktop md5 sha1 sha256 sum crc bak orig old swp identifier xmp aae".split()
)
"""Suffixes of files that aren't images of the set. Backup copies of an image are among them."""

SPLIT_FOLDERS: Mapping[Split, tuple[str, ...]] = {"train": ("train",), "validation": ("validation", "val", "valid")}
"""Split -> the names that its folder may have."""

_OTHER_SPLITS = frozenset(("training", "test", "testing", "data"))

_DOCUMENTS = frozenset("readme license licence copying makefile md5sums sha1sums sha256sums checksums".split())  # noqa: SIM905
"""Lower-case names of files without a suffix that aren't images."""

_PICTURES = IMAGE_SUFFIXES + OTHER_PICTURE_SUFFIXES

Item = tuple[str, Place | ZipMember]
"""The path of an image as a string, and where it is."""


def belongs(name: str) -> bool:
    """Whether a file or folder of this name may belong to a set. Hidden ones and litter of other programs do not."""
    return not name.startswith(".") and name.lower() not in _LITTER


def is_image(name: str) -> bool:
    """Whether a file of this name counts as an image of its folder.

    It does unless it is known to be something else. So an image in a format that can't be read, or without a suffix,
    counts as wrong and is listed. It is not left out silently.
    """
    stem, _, suffix = name.lower().rpartition(".")
    if not belongs(name) or name.endswith("~"):
        return False
    return suffix not in (_COMPANIONS if stem else _DOCUMENTS)


def is_picture(name: str) -> bool:
    """Whether a file of this name certainly is an image, in a format that can be read or in another."""
    return belongs(name) and name.lower().endswith(_PICTURES)


def is_split_folder(name: str) -> bool:
    """Whether a folder of this name holds a split, so that it isn't a class."""
    return name in _OTHER_SPLITS or any(name in names for names in SPLIT_FOLDERS.values())


def children(folder: Folder, *, everything: bool = False) -> dict[str, bool]:
    """The names in `folder` that may belong to a set, sorted -> whether each is a folder. Links are followed.

    With `everything`, hidden names and litter are among them.

    Raises UnreadableInputError if the folder can't be listed.
    """
    names = folder.children() if isinstance(folder, Inside) else listing(folder)[0]
    return {name: names[name] for name in sorted(names) if everything or belongs(name)}


def listing(folder: Path) -> tuple[dict[str, bool], set[str]]:
    """The names in a folder on the disk -> whether each is a folder, and the names that are links."""
    names, links = {}, set()
    try:
        with os.scandir(folder) as entries:  # tells folders from files without a system call for each
            for entry in entries:
                if entry.is_symlink():
                    links.add(entry.name)
                    names[entry.name] = _leads_to_folder(entry)
                else:
                    names[entry.name] = entry.is_dir()
    except OSError as error:
        refuse(folder, error)
    return names, links


def _leads_to_folder(link: os.DirEntry[str]) -> bool:
    try:
        return link.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself is like a link to nowhere
            return False
        raise


def is_empty(folder: Folder) -> bool:
    """Whether nothing in `folder` may belong to a set. Raises UnreadableInputError if it can't be listed."""
    if isinstance(folder, Inside):
        return not any(map(belongs, folder.children()))
    try:
        with os.scandir(folder) as entries:
            return not any(belongs(entry.name) for entry in entries)
    except OSError as error:
        refuse(folder, error)


def subfolders(folder: Folder) -> list[Folder]:
    """The folders directly in `folder`, sorted by name."""
    names = folder.children() if isinstance(folder, Inside) else listing(folder)[0]
    return [folder / name for name in sorted(name for name in names if names[name] and belongs(name))]


def distinct(folders: Iterable[Folder]) -> list[Folder]:
    """`folders` without those that are links to an earlier one."""
    found: dict[object, Folder] = {}
    for folder in folders:
        found.setdefault(identity(folder) if isinstance(folder, Path) else folder.inner, folder)
    return list(found.values())


def images_in(folder: Folder) -> dict[str, Place | ZipMember]:
    """The images directly in `folder`, by name."""
    return {
        name: place_of(folder, name) for name, is_folder in children(folder).items() if not is_folder and is_image(name)
    }


def place_of(folder: Folder, name: str) -> Place | ZipMember:
    """Where the file `name` in `folder` is."""
    return (folder / name).place() if isinstance(folder, Inside) else Place(f"{folder}{os.sep}{name}")


def identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        refuse(folder, error)
    return status.st_dev, status.st_ino


def is_wordnet_id(text: str) -> bool:
    return re.fullmatch(r"n[0-9]{8}", text) is not None


def same_name(name: str) -> str:
    """The form in which names are compared. macOS stores "é" as two characters, most other programs as one."""
    return name if name.isascii() else normalize("NFC", name)
