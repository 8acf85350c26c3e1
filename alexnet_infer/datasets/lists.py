"""Layouts `flat`, `kaggle` and `caffe`: a flat folder of images, and a list with their labels."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import ClassVar

from alexnet_infer.datasets.base import Listed, Split, images_in, labelled, read_lines, refuse_lines
from alexnet_infer.datasets.classes import check_sorted, class_name, find_table, read_table, sorted_classes
from alexnet_infer.datasets.devkit import NAMES, find_devkit, open_devkit
from alexnet_infer.datasets.folders import class_folders, entries
from alexnet_infer.errors import UnreadableInputError, one_line, shown

_IMAGE = re.compile(r"ILSVRC2012_val_[0-9]{8}\.JPEG")
_FOLDERS = ("", "val", "validation", "ILSVRC2012_img_val")


class Flat(Listed):
    """The unpacked validation archive and the devkit.

    The images are in `root` or its subfolder `val`, `validation` or `ILSVRC2012_img_val`. The devkit is in `root`.
    """

    layout = "flat"
    accepts: ClassVar = {"validation": f"a folder of ILSVRC2012_val_*.JPEG with {NAMES[0]}"}

    @classmethod
    def detect(cls, root: Path, split: Split) -> bool:
        is_caffe = find_devkit(root) is None and (root / Caffe.LIST).is_file()  # the labels come from Caffe's list
        return not is_caffe and cls._folder(root) is not None

    def __init__(self, root: Path, split: Split) -> None:
        folder = self._folder(root)
        if folder is None:
            raise self.absent(root, split)
        devkit = open_devkit(root)
        images = {name: place for name, place in images_in(folder).items() if _IMAGE.fullmatch(name)}
        self.classes = devkit.classes
        self.entries = labelled(devkit.labels, devkit.truth, images, folder)

    @staticmethod
    def _folder(root: Path) -> Path | None:
        folders = (root / name for name in _FOLDERS if (root / name).is_dir())
        return next((f for f in folders if any(_IMAGE.fullmatch(path.name) for path in f.iterdir())), None)


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
    def detect(cls, root: Path, split: Split) -> bool:
        return cls._folder(root, split).is_dir()

    def __init__(self, root: Path, split: Split) -> None:
        folder = self._folder(root, split)
        if not folder.is_dir():
            raise self.absent(root, split)
        mapping = self._find(root, "LOC_synset_mapping.txt")
        self.classes = sorted_classes(mapping, read_table(mapping))
        positions = {c.wnid: i for i, c in enumerate(self.classes)}
        if split == "validation":
            solution = self._find(root, "LOC_val_solution.csv")
            labels = _read_solution(solution, positions)
            self.entries = labelled(labels, solution, images_in(folder), folder)
            return
        folders = {path.name: path for path in class_folders(folder)}
        if folders.keys() != positions.keys():
            differing = folders.keys() ^ positions.keys()
            raise UnreadableInputError(
                f"{folder}: its folders and {mapping.name} differ in {len(differing)} classes; the first is "
                f"{shown(min(differing))}; expected one folder per class"
            )
        self.entries = entries([folders[wnid] for wnid in positions])

    @staticmethod
    def _folder(root: Path, split: Split) -> Path:
        return root / "ILSVRC" / "Data" / "CLS-LOC" / {"train": "train", "validation": "val"}[split]

    @staticmethod
    def _find(root: Path, name: str) -> Path:
        folders = (root, root / "ILSVRC", root / "ILSVRC" / "Data", root / "ILSVRC" / "Data" / "CLS-LOC")
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is None:
            raise UnreadableInputError(f"{root / name}: not found; it is part of Kaggle's archive")
        return path


def _read_solution(path: Path, positions: dict[str, int]) -> dict[str, int]:
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
    order of WordNet ids. The images are in `root` or its subfolder `val`, `validation` or `ILSVRC2012_img_val`. Images
    that aren't in `val.txt` don't belong to the set.
    """

    LIST = "val.txt"
    layout = "caffe"
    accepts: ClassVar = {"validation": "val.txt with synset_words.txt and the images"}

    @classmethod
    def detect(cls, root: Path, split: Split) -> bool:
        return (root / cls.LIST).is_file()

    def __init__(self, root: Path, split: Split) -> None:
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
        candidates = [folder for name in _FOLDERS if (folder := root / name).is_dir()]
        folder = next((f for f in candidates if any((f / name).exists() for name in list(labels)[:10])), root)
        self.entries = labelled(labels, path, images_in(folder), folder, all_images=False)


def _read_list(path: Path, classes: int) -> dict[str, int]:
    labels: dict[str, int] = {}
    bad: list[tuple[int, str]] = []
    repeated: list[tuple[int, str]] = []
    for number, line in enumerate(read_lines(path), start=1):
        name, _, label = line.strip().rpartition(" ")
        name = name.strip()
        if not name or not re.fullmatch(r"[0-9]{1,9}", label) or int(label) >= classes:
            bad.append((number, line))
        elif name in labels:
            repeated.append((number, name))
        else:
            labels[name] = int(label)
    refuse_lines(path, bad, f"an image's name, a space and a label from 0 to {classes - 1}")
    refuse_lines(path, repeated, "each image once")
    return labels
