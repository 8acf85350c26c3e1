"""Layout `caffe`: a list of images, wherever they are, with their labels."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import ClassVar

from alexnet_infer.datasets.base import Listed, labelled
from alexnet_infer.datasets.classes import check_sorted, class_name, find_table, without_images
from alexnet_infer.datasets.places import Place
from alexnet_infer.datasets.texts import WrongLines, read_lines
from alexnet_infer.datasets.tree import (
    SPLIT_FOLDERS,
    Folder,
    Split,
    children,
    distinct,
    is_picture,
    place_of,
    same_name,
)
from alexnet_infer.datasets.zips import ZipMember
from alexnet_infer.errors import UnreadableInputError, UsageError, shown

_FOLDERS = ("", *SPLIT_FOLDERS["validation"], "ILSVRC2012_img_val")


class Caffe(Listed):
    """Caffe's `val.txt` in `root`: one line per image, with its file name and its label.

    A label is a position in a table of classes in `root`: `synset_words.txt`, `synsets.txt` or another of TABLES, in
    order of WordNet ids. Names may contain folders. They are relative to `root` or to its subfolder `val`,
    `validation`, `valid` or `ILSVRC2012_img_val`, or else absolute. Images that aren't in `val.txt` don't belong to the
    set.
    """

    LIST = "val.txt"
    layout = "caffe"
    accepts: ClassVar = {"validation": "val.txt with synset_words.txt and the images"}

    @classmethod
    def detect(cls, root: Folder, split: Split) -> bool:
        return (root / cls.LIST).is_file()

    def __init__(self, root: Folder, split: Split) -> None:
        path = root / self.LIST
        if not path.is_file():
            raise self.absent(root, split)
        table, names = find_table(root)
        if not names:
            raise UnreadableInputError(
                f"{root / 'synset_words.txt'}: not found; expected the WordNet ids of the classes in {self.LIST}"
            )
        check_sorted(table, names)
        self.classes = tuple(class_name(table, wnid, name) for wnid, name in names.items())
        labels = _read_list(path, len(names))
        first, files = list(islice((name for name in labels if not name.startswith("/")), 10)), cache(_files)
        folders = [folder for folder in image_folders(root) if _located(first, folder, path, files)[0]]
        if len(folders) > 1:
            raise UsageError(
                f"{root}: the images of {self.LIST} are in {folders[0]} and in {folders[1]}; expected one folder"
            )
        folder = folders[0] if folders else root
        located, listings = _located(labels, folder, path, files)
        self.entries = labelled(labels, path, located, folder, all_images=False)
        if isinstance(folder, Path):
            _check_links([place.path for place in located.values()])
        self.notes = without_images(path, self.classes, labels.values())
        if others := sum(map(_not_listed, listings)):
            self.notes += (f"{others:,} images in {folder} are not in {path.name}: they don't count",)


def image_folders(root: Folder) -> list[Folder]:
    """The folders in which the images of a list may be."""
    return distinct(folder for name in _FOLDERS if (folder := root / name).is_dir())


_Listing = tuple[Mapping[str, str], dict[str, str]]
"""A folder's files (`_files`), and each of them that the list has -> its name in the list."""


def _located(
    names: Iterable[str], folder: Folder, source: Folder, files_in: Callable[[Folder | None], Mapping[str, str]]
) -> tuple[dict[str, Place | ZipMember], Collection[_Listing]]:
    """The files that `names` in the list `source` refer to, by name, as far as they exist, and the folders they are in.

    `files_in` is `_files`. Raises UnreadableInputError if two names refer to one file, which would count twice.
    """
    folders: dict[str, tuple[Folder | None, _Listing]] = {}
    listings: dict[str, _Listing] = {}
    """By the folder's path without links: two names of one folder have one listing."""
    located: dict[str, Place | ZipMember] = {}
    for name in names:
        parent, slash, file = name.rpartition("/")
        if parent + slash not in folders:
            where = _parent(parent + slash, folder)
            real = os.path.realpath(where) if isinstance(where, Path) else str(where)
            folders[parent + slash] = where, listings.setdefault(real, (files_in(where), {}))
        where, (files, own) = folders[parent + slash]
        actual = files.get(file) or files.get(same_name(file))
        if actual is None:
            continue
        if own.setdefault(actual, name) != name:
            raise UnreadableInputError(
                f"{source}: {shown(own[actual])} and {shown(name)} are the same file; expected each image once"
            )
        located[name] = place_of(where, actual)
    return located, listings.values()


def _check_links(paths: Collection[str]) -> None:
    """Raise UnreadableInputError if one of the images is a link to another, which would count twice."""
    links = {path for path in paths if os.path.islink(path)}  # noqa: PTH114 (there may be a million)
    targets = {_file(path): path for path in links if os.path.exists(path)}  # noqa: PTH110
    for path in paths if targets else ():
        if path not in links and (link := targets.get(_file(path))):
            raise UnreadableInputError(
                f"{link}: a link to {path}, another image of the list, which would count twice; remove one of them"
            )


def _file(path: str) -> tuple[int, int]:
    status = os.stat(path)  # noqa: PTH116
    return status.st_dev, status.st_ino


def _not_listed(listing: _Listing) -> int:
    """Count the images in a folder that the list doesn't have."""
    files, own = listing
    return sum(is_picture(name) and name not in own for name in {*files.values()})


def _parent(name: str, folder: Folder) -> Folder | None:
    """The folder `name`, relative to `folder` or absolute. A list can't refer to folders by ".."; an archive has no
    absolute names."""
    if ".." in name.split("/") or (name.startswith("/") and not isinstance(folder, Path)):
        return None
    if name.startswith("/"):
        return Path(name)
    for part in name.split("/"):
        if part in ("", "."):
            continue
        if not part.isascii() and not (folder / part).is_dir() and folder.is_dir():
            alike = (
                own for own, is_folder in children(folder).items() if is_folder and same_name(own) == same_name(part)
            )
            part = next(alike, part)
        folder = folder / part
    return folder


def _files(folder: Folder | None) -> Mapping[str, str]:
    """The files in `folder`: the name that is compared -> the actual name. It is empty if there is no such folder."""
    if folder is None or not folder.is_dir():
        return {}
    names = {name: name for name, is_folder in children(folder, everything=True).items() if not is_folder}
    return {**{same_name(name): name for name in names if not name.isascii()}, **names}


def _read_list(path: Folder, classes: int) -> dict[str, int]:
    is_number = re.compile(r"[0-9]{1,9}").fullmatch
    labels: dict[str, int] = {}
    bad, repeated = WrongLines(), WrongLines()
    for number, line in enumerate(read_lines(path), start=1):
        parts = line.rsplit(None, 1)
        if len(parts) < 2 or not is_number(parts[1]) or (label := int(parts[1])) >= classes:
            bad.add(number, line)
        elif (name := parts[0].strip()) in labels:
            repeated.add(number, name)
        else:
            labels[name] = label
    bad.refuse(path, f"an image's name, a space and a label from 0 to {classes - 1}")
    repeated.refuse(path, "each image once")
    return labels
