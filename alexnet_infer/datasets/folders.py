"""A folder for each class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar, NoReturn

from alexnet_infer.datasets.base import Entry, Listed, Place, Split, is_image, refuse
from alexnet_infer.datasets.classes import class_name, find_table, is_wordnet_id
from alexnet_infer.errors import UnreadableInputError

_FOLDERS = {"train": ("train",), "validation": ("validation", "val")}


class Folders(Listed):
    """A folder `train`, or `validation` or `val`, with one folder a WordNet id, as torchvision keeps ILSVRC. Without
    them `root` itself may hold the classes for validation. A table of classes in `root` may give their names.

    A class is a folder that is there: an empty one keeps its place among the labels.
    """

    layout = "folders"
    accepts: ClassVar = {
        "train": "a folder train/ with one folder for each class",
        "validation": "a folder validation/ or val/ with one folder for each class",
    }

    @classmethod
    def detect(cls, root: Path, split: Split) -> bool:
        folder = find_folder(root, split)
        return folder is not None and bool(class_folders(folder))

    def __init__(self, root: Path, split: Split) -> None:
        folder = find_folder(root, split)
        if folder is None:
            raise self.absent(root, split)
        folders = class_folders(folder)
        names = find_table(root)[1]
        self.classes = tuple(class_name(path, path.name, names.get(path.name, path.name)) for path in folders)
        self.entries = entries(folders)
        if not self.entries:
            raise UnreadableInputError(
                f"{folder}: no images here; expected one folder for each class with images in it"
            )


def find_folder(root: Path, split: Split) -> Path | None:
    """The folder that holds the split's classes, if they are kept so."""
    folder = next((root / name for name in _FOLDERS[split] if (root / name).is_dir()), None)
    if folder is None and split == "validation" and root.is_dir():
        return root if any(is_wordnet_id(path.name) for path in class_folders(root)) else None
    return folder


def class_folders(folder: Path) -> list[Path]:
    """In order of WordNet ids. Hidden ones are no classes."""
    try:
        with os.scandir(folder) as found:  # which knows what is a folder without asking about 50,000 images
            names = [entry.name for entry in found if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        refuse(folder, error)
    return [folder / name for name in sorted(names)]


def entries(folders: list[Path]) -> list[Entry]:
    """Every image below each folder, whose position is the label, sorted in it."""
    return [
        Entry(str(path), label, Place(path)) for label, folder in enumerate(folders) for path in _image_files(folder)
    ]


def _image_files(folder: Path) -> list[Path]:
    """Every image below `folder`, by its name's ending, sorted. What can't be listed is an error, not left out."""

    def fail(error: OSError) -> NoReturn:
        refuse(folder, error)

    return sorted(
        Path(parent) / name for parent, _, names in os.walk(folder, onerror=fail) for name in names if is_image(name)
    )
