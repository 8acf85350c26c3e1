"""Layout `folders`: one folder per class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar, NoReturn

from alexnet_infer.datasets.base import Entry, Listed, Place, Split, is_image, refuse
from alexnet_infer.datasets.classes import class_name, find_table, is_wordnet_id
from alexnet_infer.errors import UnreadableInputError

_FOLDERS = {"train": ("train",), "validation": ("validation", "val")}


class Folders(Listed):
    """A folder `train`, or `validation` or `val`, with one folder per WordNet id, as torchvision stores ILSVRC.

    If there is no folder for the validation split, `root` itself may contain the class folders. A table of classes in
    `root` may give their names. Every folder that isn't hidden is a class: an empty one keeps its position among the
    labels.
    """

    layout = "folders"
    accepts: ClassVar = {
        "train": "a folder train/ with one folder per class",
        "validation": "a folder validation/ or val/ with one folder per class",
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
            raise UnreadableInputError(f"{folder}: no images here; expected one folder of images per class")


def find_folder(root: Path, split: Split) -> Path | None:
    """The folder that contains the split's class folders, or None."""
    folder = next((root / name for name in _FOLDERS[split] if (root / name).is_dir()), None)
    if folder is None and split == "validation" and root.is_dir():
        return root if any(is_wordnet_id(path.name) for path in class_folders(root)) else None
    return folder


def class_folders(folder: Path) -> list[Path]:
    """The class folders in order of WordNet ids. Hidden folders are not classes."""
    try:
        with os.scandir(folder) as listing:  # tells folders from 50,000 images without a system call for each
            names = [entry.name for entry in listing if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        refuse(folder, error)
    return [folder / name for name in sorted(names)]


def entries(folders: list[Path]) -> list[Entry]:
    """The images below each folder, sorted within it. The label is the folder's position."""
    return [
        Entry(str(path), label, Place(path)) for label, folder in enumerate(folders) for path in _image_files(folder)
    ]


def _image_files(folder: Path) -> list[Path]:
    """The images below `folder`, sorted. Raises UnreadableInputError if a folder can't be listed."""

    def fail(error: OSError) -> NoReturn:
        refuse(folder, error)

    return sorted(
        Path(parent) / name for parent, _, names in os.walk(folder, onerror=fail) for name in names if is_image(name)
    )
