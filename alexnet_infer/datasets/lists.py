"""Layouts `flat`, `kaggle` and `tiny-imagenet`: folders of images, and a list with their labels."""

from __future__ import annotations

import csv
import re
from pathlib import PurePosixPath
from typing import ClassVar

from alexnet_infer.datasets.base import Listed, labelled
from alexnet_infer.datasets.caffe import Caffe, image_folders
from alexnet_infer.datasets.classes import (
    find_names,
    read_table,
    sorted_classes,
    without_images,
)
from alexnet_infer.datasets.devkit import NAMES, find_devkit, open_devkit
from alexnet_infer.datasets.folders import ANNOTATIONS, labelled_folders
from alexnet_infer.datasets.texts import WrongLines, read_lines
from alexnet_infer.datasets.tree import (
    Folder,
    Split,
    children,
    images_in,
    is_wordnet_id,
    place_of,
    subfolders,
)
from alexnet_infer.datasets.walk import Walk
from alexnet_infer.errors import UnreadableInputError, UsageError, one_line, shown

_IMAGE = re.compile(r"(ILSVRC2012_val_[0-9]{8})(?:_(n[0-9]{8}))?\.(?:jpe?g|png|webp|bmp|tiff?)", re.IGNORECASE)
"""The name of a validation image; Hugging Face's archives add its WordNet id."""


class Flat(Listed):
    """The unpacked validation archive and the devkit.

    The images are in `root` or its subfolder `val`, `validation`, `valid` or `ILSVRC2012_img_val`. The devkit is in
    `root`. It isn't needed if the images' names end in their WordNet ids, as in Hugging Face's archive. Converted
    images, such as `ILSVRC2012_val_00000001.png`, are accepted.
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
        (folder,) = folders
        images: dict[str, str] = {}
        wnids: dict[str, str] = {}
        for name in images_in(folder):
            if match := _IMAGE.fullmatch(name):
                number = match[1].lower()
                if number in images:
                    raise UnreadableInputError(f"{folder}: {images[number]} and {name} have one number; expected one")
                images[number] = name
                if match[2]:
                    wnids[name] = match[2]
        places = {name: place_of(folder, name) for name in images.values()}
        if len(wnids) == len(images):
            self.classes = sorted_classes(folder, {*wnids.values()}, find_names(root))
            position = {c.wnid: i for i, c in enumerate(self.classes)}
            labels, source = {name: position[wnid] for name, wnid in wnids.items()}, folder
        else:
            devkit = open_devkit(root)
            self.classes, source = devkit.classes, devkit.truth
            actual = {name: images.get(PurePosixPath(name).stem.lower(), name) for name in devkit.labels}
            labels = {actual[name]: label for name, label in devkit.labels.items()}
        self.entries = labelled(labels, source, places, folder)

    @staticmethod
    def _folders(root: Folder) -> list[Folder]:
        return [f for f in image_folders(root) if any(map(_IMAGE.fullmatch, children(f)))]


class Kaggle(Listed):
    """Kaggle's unpacked archive: images in `ILSVRC/Data/CLS-LOC`, the classes in `LOC_synset_mapping.txt` and the
    validation labels in `LOC_val_solution.csv`.

    The two files are in `root` or in a folder on the path to `CLS-LOC`. Training images are in one folder per class,
    and validation images may be.
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
        sorted_into_folders = any(is_wordnet_id(path.name) for path in subfolders(folder))
        if split == "validation" and not sorted_into_folders:
            solution = self._find(root, "LOC_val_solution.csv")
            labels = _read_solution(solution, positions)
            self.entries = labelled(labels, solution, images_in(folder), folder)
            self.notes = without_images(solution, self.classes, labels.values())
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
    bad, repeated = WrongLines(), WrongLines()
    rows = csv.reader(read_lines(path))
    try:
        header = next(rows, [])
        if header != ["ImageId", "PredictionString"]:
            raise UnreadableInputError(f"{path}: starts with {shown(header)}: expected ImageId,PredictionString")
        for row in rows:
            name = f"{row[0]}.JPEG" if row else ""
            wnids = set(row[1].split()[::5]) if len(row) == 2 else set()
            if len(wnids) != 1 or not wnids <= positions.keys():
                bad.add(rows.line_num, ",".join(row))
            elif name in labels:
                repeated.add(rows.line_num, row[0])
            else:
                labels[name] = positions[wnids.pop()]
    except csv.Error as error:
        raise UnreadableInputError(f"{path}, line {rows.line_num}: {one_line(error)}") from None
    bad.refuse(path, "an ImageId and boxes of one class of LOC_synset_mapping.txt")
    repeated.refuse(path, "each ImageId once")
    return labels


class TinyImageNet(Listed):
    """Tiny ImageNet's own archive: images in `val/images`, and their WordNet ids in `val/val_annotations.txt`.

    `wnids.txt` lists the classes, and `words.txt` their names. (Its training split has the layout `folders`.)
    """

    layout = "tiny-imagenet"
    accepts: ClassVar = {"validation": "Tiny ImageNet's val/val_annotations.txt"}

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
        classes = read_table(table) or dict.fromkeys(wnids.values())
        self.classes = sorted_classes(table, classes, find_names(root))
        positions = {c.wnid: i for i, c in enumerate(self.classes)}
        if unknown := [name for name, wnid in wnids.items() if wnid not in positions]:
            wnid = wnids[unknown[0]]
            raise UnreadableInputError(f"{source}: {shown(unknown[0])} is of class {wnid}, which isn't in {table}")
        labels = {name: positions[wnid] for name, wnid in wnids.items()}
        self.entries = labelled(labels, source, images_in(folder), folder)
        self.notes = without_images(source, self.classes, labels.values())


def _read_annotations(path: Folder) -> dict[str, str]:
    """Image file name -> WordNet id. A line has them, and the four coordinates of a box, separated by tabs."""
    wnids: dict[str, str] = {}
    bad, repeated = WrongLines(), WrongLines()
    for number, line in enumerate(read_lines(path), start=1):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0].strip()
        if not name or not is_wordnet_id(wnid):
            bad.add(number, line)
        elif name in wnids:
            repeated.add(number, name)
        else:
            wnids[name] = wnid
    bad.refuse(path, "an image's name, a tab and a WordNet id")
    repeated.refuse(path, "each image once")
    return wnids
