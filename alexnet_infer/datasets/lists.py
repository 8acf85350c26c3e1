"""Layouts `flat`, `kaggle`, `caffe` and `tiny-imagenet`: folders of images, and a list with their labels."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import ClassVar

from alexnet_infer.datasets.base import Listed, Split, labelled
from alexnet_infer.datasets.classes import (
    check_sorted,
    class_name,
    find_names,
    find_table,
    read_table,
    sorted_classes,
)
from alexnet_infer.datasets.devkit import NAMES, find_devkit, open_devkit
from alexnet_infer.datasets.folders import ANNOTATIONS, labelled_folders
from alexnet_infer.datasets.places import Place, refuse_lines
from alexnet_infer.datasets.tree import (
    Folder,
    Walk,
    children,
    distinct,
    images_in,
    is_wordnet_id,
    place_of,
    read_lines,
    same_name,
    subfolders,
)
from alexnet_infer.datasets.zips import ZipMember
from alexnet_infer.errors import UnreadableInputError, UsageError, one_line, shown

_IMAGE = re.compile(r"(ILSVRC2012_val_[0-9]{8})\.(?:jpe?g|png|webp|bmp|tiff?)", re.IGNORECASE)
_FOLDERS = ("", "val", "validation", "valid", "ILSVRC2012_img_val")


class Flat(Listed):
    """The unpacked validation archive and the devkit.

    The images are in `root` or its subfolder `val`, `validation` or `ILSVRC2012_img_val`. The devkit is in `root`.
    Converted images, such as `ILSVRC2012_val_00000001.png`, are accepted.
    """

    layout = "flat"
    accepts: ClassVar = {"validation": f"a folder of ILSVRC2012_val_*.JPEG with {NAMES[0]}"}

    @classmethod
    def detect(cls, root: Folder, split: Split) -> bool:
        is_caffe = find_devkit(root) is None and (root / Caffe.LIST).is_file()  # the labels come from Caffe's list
        return not is_caffe and bool(cls._folders(root))

    def __init__(self, root: Folder, split: Split) -> None:
        folders = self._folders(root)
        if not folders:
            raise self.absent(root, split)
        if len(folders) > 1:
            raise UsageError(
                f"{root}: has ILSVRC2012_val_* in {folders[0]} and in {folders[1]}; expected them in one folder"
            )
        devkit, (folder,) = open_devkit(root), folders
        images: dict[str, str] = {}
        for name in images_in(folder):
            if match := _IMAGE.fullmatch(name):
                number = match[1].lower()
                if number in images:
                    raise UnreadableInputError(f"{folder}: {images[number]} and {name} have one number; expected one")
                images[number] = name
        self.classes = devkit.classes
        actual = {name: images.get(PurePosixPath(name).stem.lower(), name) for name in devkit.labels}
        self.entries = labelled(
            {actual[name]: label for name, label in devkit.labels.items()},
            devkit.truth,
            {name: place_of(folder, name) for name in images.values()},
            folder,
        )

    @staticmethod
    def _folders(root: Folder) -> list[Folder]:
        return [f for f in _image_folders(root) if any(map(_IMAGE.fullmatch, children(f)))]


class Kaggle(Listed):
    """Kaggle's unpacked archive: images in `ILSVRC/Data/CLS-LOC`, the classes in `LOC_synset_mapping.txt` and the
    validation labels in `LOC_val_solution.csv`.

    The two files are in `root` or in a folder on the path to `CLS-LOC`. Training images are in one folder per class.
    """

    layout = "kaggle"
    accepts: ClassVar = {
        "train": "ILSVRC/Data/CLS-LOC/train/ with LOC_synset_mapping.txt",
        "validation": "ILSVRC/Data/CLS-LOC/val/ with LOC_val_solution.csv and LOC_synset_mapping.txt",
    }

    @classmethod
    def detect(cls, root: Folder, split: Split) -> bool:
        return cls._folder(root, split).is_dir()

    def __init__(self, root: Folder, split: Split) -> None:
        folder = self._folder(root, split)
        if not folder.is_dir():
            raise self.absent(root, split)
        mapping = self._find(root, "LOC_synset_mapping.txt")
        names = read_table(mapping)
        self.classes = sorted_classes(mapping, names, names)
        positions = {c.wnid: i for i, c in enumerate(self.classes)}
        if split == "validation":
            solution = self._find(root, "LOC_val_solution.csv")
            labels = _read_solution(solution, positions)
            self.entries = labelled(labels, solution, images_in(folder), folder)
            return
        folders = {path.name: path for path in subfolders(folder)}
        if folders.keys() != positions.keys():
            differing = folders.keys() ^ positions.keys()
            raise UnreadableInputError(
                f"{folder}: its folders and {mapping.name} differ in {len(differing)} classes; the first is "
                f"{shown(min(differing))}; expected one folder per class"
            )
        ordered = [folders[wnid] for wnid in positions]
        self.entries = list(labelled_folders(Walk(folder).images(ordered), ordered))

    @staticmethod
    def _folder(root: Folder, split: Split) -> Folder:
        return root / "ILSVRC" / "Data" / "CLS-LOC" / {"train": "train", "validation": "val"}[split]

    @staticmethod
    def _find(root: Folder, name: str) -> Folder:
        folders = (root, root / "ILSVRC", root / "ILSVRC" / "Data", root / "ILSVRC" / "Data" / "CLS-LOC")
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is None:
            raise UnreadableInputError(f"{root / name}: not found; it is part of Kaggle's archive")
        return path


def _read_solution(path: Folder, positions: dict[str, int]) -> dict[str, int]:
    """Image file name -> label. A row has an ImageId and, for each box, a WordNet id and four coordinates."""
    labels: dict[str, int] = {}
    bad: list[tuple[int, str]] = []
    repeated: list[tuple[int, str]] = []
    rows = csv.reader(read_lines(path))
    try:
        header = next(rows, [])
        if header != ["ImageId", "PredictionString"]:
            raise UnreadableInputError(f"{path}: starts with {shown(header)}: expected ImageId,PredictionString")
        for row in rows:
            name = f"{row[0]}.JPEG" if row else ""
            wnids = set(row[1].split()[::5]) if len(row) == 2 else set()
            if len(wnids) != 1 or not wnids <= positions.keys():
                bad.append((rows.line_num, ",".join(row)))
            elif name in labels:
                repeated.append((rows.line_num, row[0]))
            else:
                labels[name] = positions[wnids.pop()]
    except csv.Error as error:
        raise UnreadableInputError(f"{path}, line {rows.line_num}: {one_line(error)}") from None
    refuse_lines(path, bad, "an ImageId and boxes of one class of LOC_synset_mapping.txt")
    refuse_lines(path, repeated, "each ImageId once")
    return labels


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
        folders = [folder for folder in _image_folders(root) if _located(first, folder, path, files)]
        if len(folders) > 1:
            raise UsageError(
                f"{root}: the images of {self.LIST} are in {folders[0]} and in {folders[1]}; expected one folder"
            )
        folder = folders[0] if folders else root
        self.entries = labelled(labels, path, _located(labels, folder, path, files), folder, all_images=False)


def _image_folders(root: Folder) -> list[Folder]:
    """The folders in which the images of a list may be."""
    return distinct(folder for name in _FOLDERS if (folder := root / name).is_dir())


def _located(
    names: Iterable[str], folder: Folder, source: Folder, files_in: Callable[[Folder | None], Mapping[str, str]]
) -> dict[str, Place | ZipMember]:
    """The files that `names` in the list `source` refer to, by name, as far as they exist. `files_in` is `_files`.

    Raises UnreadableInputError if two names refer to one file, which would count twice.
    """
    listings: dict[str, tuple[Folder | None, Mapping[str, str], dict[str, str]]] = {}
    taken: dict[str, dict[str, str]] = {}
    """Folder, without links -> each file that has been located in it -> its name in the list."""
    located: dict[str, Place | ZipMember] = {}
    for name in names:
        parent, slash, file = name.rpartition("/")
        if parent + slash not in listings:
            where = _parent(parent + slash, folder)
            real = os.path.realpath(where) if isinstance(where, Path) else str(where)
            listings[parent + slash] = where, files_in(where), taken.setdefault(real, {})
        where, files, own = listings[parent + slash]
        actual = files.get(file) or files.get(same_name(file))
        if actual is None:
            continue
        if own.setdefault(actual, name) is not name:
            raise UnreadableInputError(
                f"{source}: {shown(own[actual])} and {shown(name)} are the same file; expected each image once"
            )
        located[name] = place_of(where, actual)
    return located


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


class TinyImageNet(Listed):
    """Tiny ImageNet's own archive: images in `val/images`, and their WordNet ids in `val/val_annotations.txt`.

    `wnids.txt` lists the classes, and `words.txt` their names. (Its training split has the layout `folders`.)
    """

    layout = "tiny-imagenet"
    accepts: ClassVar = {"validation": "Tiny ImageNet's val/images/ with val/val_annotations.txt"}

    @classmethod
    def detect(cls, root: Folder, split: Split) -> bool:
        folder = root / "val"
        return (folder / ANNOTATIONS).is_file() and (folder / "images").is_dir() and bool(images_in(folder / "images"))

    def __init__(self, root: Folder, split: Split) -> None:
        if not self.detect(root, split):
            raise self.absent(root, split)
        source, folder = root / "val" / ANNOTATIONS, root / "val" / "images"
        wnids = _read_annotations(source)
        table = root / "wnids.txt"
        classes = read_table(table) if table.is_file() else dict.fromkeys(wnids.values())
        self.classes = sorted_classes(table, classes, find_names(root))
        positions = {c.wnid: i for i, c in enumerate(self.classes)}
        if unknown := [name for name, wnid in wnids.items() if wnid not in positions]:
            wnid = wnids[unknown[0]]
            raise UnreadableInputError(f"{source}: {shown(unknown[0])} is of class {wnid}, which isn't in {table}")
        labels = {name: positions[wnid] for name, wnid in wnids.items()}
        self.entries = labelled(labels, source, images_in(folder), folder)


def _read_annotations(path: Folder) -> dict[str, str]:
    """Image file name -> WordNet id. A line has them, and the four coordinates of a box, separated by tabs."""
    wnids: dict[str, str] = {}
    bad: list[tuple[int, str]] = []
    repeated: list[tuple[int, str]] = []
    for number, line in enumerate(read_lines(path), start=1):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0].strip()
        if not name or not is_wordnet_id(wnid):
            bad.append((number, line))
        elif name in wnids:
            repeated.append((number, name))
        else:
            wnids[name] = wnid
    refuse_lines(path, bad, "an image's name, a tab and a WordNet id")
    refuse_lines(path, repeated, "each image once")
    return wnids


def _read_list(path: Folder, classes: int) -> dict[str, int]:
    is_number = re.compile(r"[0-9]{1,9}").fullmatch
    labels: dict[str, int] = {}
    bad: list[tuple[int, str]] = []
    repeated: list[tuple[int, str]] = []
    for number, line in enumerate(read_lines(path), start=1):
        name, _, label = line.strip().rpartition(" ")
        name = name.strip()
        if not name or not is_number(label) or int(label) >= classes:
            bad.append((number, line))
        elif name in labels:
            repeated.append((number, name))
        else:
            labels[name] = int(label)
    refuse_lines(path, bad, f"an image's name, a space and a label from 0 to {classes - 1}")
    refuse_lines(path, repeated, "each image once")
    return labels
