"""Layout `tar`: ILSVRC2012's own archives, read in place through an index of the images' positions."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path
from typing import IO, ClassVar

from alexnet_infer.datasets.base import Entry, Listed, Split, labelled
from alexnet_infer.datasets.classes import class_name, find_table, incomplete
from alexnet_infer.datasets.devkit import NAMES, Devkit, find_devkit, open_devkit
from alexnet_infer.datasets.inside import check_member, tar_members
from alexnet_infer.datasets.places import Place
from alexnet_infer.datasets.tree import Folder, is_image
from alexnet_infer.errors import UnreadableInputError, printable

_ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "validation": "ILSVRC2012_img_val.tar"}
_CLASS_ARCHIVE = re.compile(r"(n[0-9]{8})\.tar")


class Tar(Listed):
    """`ILSVRC2012_img_val.tar` with the devkit beside it, or `ILSVRC2012_img_train.tar`, a tar with one tar per class.

    `root` is the folder that contains them, or the archive itself. For training, the inner tars may also be files in
    `root` or its subfolder `train` or `ILSVRC2012_img_train`.

    Building the index takes one small read per image, since headers are reached by seeking past the images.
    """

    layout = "tar"
    accepts: ClassVar = {
        "train": f"{_ARCHIVES['train']} or a folder of n*.tar",
        "validation": f"{_ARCHIVES['validation']} with {NAMES[0]}",
    }

    @classmethod
    def detect(cls, root: Folder, split: Split) -> bool:
        if not isinstance(root, Path):
            return False
        if (root.name == _ARCHIVES[split] and root.is_file()) or (root / _ARCHIVES[split]).is_file():
            return True
        return split == "train" and bool(_class_archives(root))

    def __init__(self, root: Folder, split: Split) -> None:
        if not isinstance(root, Path):
            raise self.absent(root, split)
        archive, folder = (root, root.parent) if root.is_file() else (root / _ARCHIVES[split], root)
        if split == "train" and not archive.is_file() and (archives := _class_archives(root)):
            self._set_training(archives[0].parent, _index_class_archives(archives), folder)
        elif not archive.is_file():
            raise self.absent(root, split)
        elif split == "train":
            self._set_training(archive, _index_training(archive), folder)
        else:
            with archive.open("rb") as file:
                images = _images(file, archive)
            devkit = open_devkit(folder)
            self.classes = devkit.classes
            self.entries = labelled(devkit.labels, devkit.truth, images, archive)

    def _set_training(self, where: Path, images: dict[str, dict[str, Place]], folder: Path) -> None:
        if not any(images.values()):
            raise UnreadableInputError(f"{where}: no images in it; expected n*.tar, one per class")
        table, names = _names(folder)
        wnids = sorted(images)
        self.classes = tuple(class_name(where, wnid, names.get(wnid)) for wnid in wnids)
        self.notes = tuple(incomplete(where, wnids, [(table, names)] if names else []))
        self.entries = [
            Entry(printable(name), label, images[wnid][name])
            for label, wnid in enumerate(wnids)
            for name in sorted(images[wnid])
        ]


def _class_archives(root: Path) -> list[Path]:
    """The class archives in the first folder that has any, sorted."""
    folders = (root, root / "train", root / "ILSVRC2012_img_train")
    archives = ([path for path in folder.glob("n*.tar") if _CLASS_ARCHIVE.fullmatch(path.name)] for folder in folders)
    return sorted(next(filter(None, archives), []))


def _names(folder: Path) -> tuple[Folder, dict[str, str]]:
    """The path of a table of classes or else of the devkit, and WordNet id -> name; empty if there is neither."""
    table, names = find_table(folder)
    if not names and (devkit := find_devkit(folder)):
        table, names = devkit, {c.wnid: c.name for c in Devkit(devkit).classes}
    return table, names


def _index_class_archives(paths: list[Path]) -> dict[str, dict[str, Place]]:
    """WordNet id -> the class's images by file name."""
    index = {}
    for path in paths:
        if not path.is_file():
            raise UnreadableInputError(f"{path}: missing, or not a regular file")
        with path.open("rb") as file:
            index[path.stem] = _images(file, path)
    return index


def _index_training(path: Path) -> dict[str, dict[str, Place]]:
    """WordNet id -> the class's images by file name."""
    index: dict[str, dict[str, Place]] = {}
    with path.open("rb") as file:
        for archive, member in tar_members(file, str(path)):
            if not (match := _CLASS_ARCHIVE.fullmatch(_last(member))):
                continue
            check_member(path, member, match[1] in index)
            with archive.extractfile(member) as inner:
                index[match[1]] = _images(inner, path, member)
    return index


def _images(file: IO[bytes], path: Path, outer: tarfile.TarInfo | None = None) -> dict[str, Place]:
    """The images in the archive `path`, or in its member `outer`, by file name.

    Raises UnreadableInputError if an image occurs twice or isn't a regular file, or if the archive is incomplete.
    """
    where, begin = (f"{path}: {printable(outer.name)}", outer.offset_data) if outer else (str(path), 0)
    images: dict[str, Place] = {}
    for _, member in tar_members(file, where):
        name = _last(member)
        if is_image(name) and not member.isdir():
            check_member(where, member, name in images)
            images[name] = Place(str(path), begin + member.offset_data, member.size)
    return images


def _last(member: tarfile.TarInfo) -> str:
    return member.name.rpartition("/")[2]
