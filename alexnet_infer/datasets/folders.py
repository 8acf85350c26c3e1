"""Layout `folders`: one folder per class."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from alexnet_infer.datasets.base import Entry, Listed
from alexnet_infer.datasets.classes import (
    check_sorted,
    class_name,
    find_names,
    find_table,
    find_tables,
    incomplete,
    read_table,
)
from alexnet_infer.datasets.ilsvrc import ilsvrc_classes
from alexnet_infer.datasets.tree import (
    SPLIT_FOLDERS,
    Folder,
    Split,
    children,
    distinct,
    images_in,
    is_empty,
    is_image,
    is_picture,
    is_split_folder,
    is_wordnet_id,
    same_name,
    subfolders,
)
from alexnet_infer.datasets.walk import Walk
from alexnet_infer.errors import UnreadableInputError, UsageError, listed, shown
from alexnet_infer.manifest import ClassName

ANNOTATIONS = "val_annotations.txt"
"""Tiny ImageNet's labels. With them, the folder `images` beside them is no class."""


class Folders(Listed):
    """A folder of the split's name with one folder per class, as torchvision stores ILSVRC.

    For validation, `root` itself may contain the class folders if there is no folder of the split's name. ImageNet-A,
    -R, -Sketch and -V2 are stored so.

    A class folder is named by its WordNet id, by a class index, or by the name of a class of the user's own. Indices
    are positions in a table of classes in `root`. Without a table, they are positions in ILSVRC's classes if all of 0
    to 999 are there, or else in the classes `numbered`, such as the net's. If all of these are named by numbers, or if
    there are none, as in training, the numbers are names. All images below a class folder belong to
    the class, and links to folders are followed. An empty class folder keeps its position among the labels. A table in
    `root` gives the names of WordNet ids; others have the names that ILSVRC gives them. If most classes of a table have
    a folder, all must have one.
    """

    layout = "folders"
    accepts: ClassVar = {
        "train": "a folder train/ with one folder per class",
        "validation": "validation/ or val/, or the path itself, with one folder per class",
    }

    @classmethod
    def detect(cls, root: Folder, split: Split) -> bool:
        folder = find_folder(root, split)
        return folder is not None and bool(_class_folders(folder))

    def __init__(self, root: Folder, split: Split, numbered: Sequence[ClassName] = ()) -> None:
        folder = find_folder(root, split)
        if folder is None:
            raise self.absent(root, split)
        _check_strays(folder)
        images = _without_empty(Walk(folder).images(_class_folders(folder)))
        if not any(images.values()):
            has = f" (it has {listed(names)})" if (names := children(folder)) else ""
            raise UnreadableInputError(f"{folder}: no images here{has}; expected one folder of images per class")
        _check_alike(folder, images)
        tables = (folder, root)
        if all(_is_index(path.name) for path in images):
            owners, self.notes = _numbered(tables, images, numbered)
        else:
            owners, self.notes = _by_name(tables, images), ()
        self.classes = tuple(sorted(owners, key=lambda c: c.wnid))
        wnids = {c.wnid for c in self.classes}
        if len(wnids) < len(images):
            raise UnreadableInputError(f"{folder}: two folders are the same class; expected one folder per class")
        ids = root / "wnids.txt"
        listing = [*find_tables(tables), *([(ids, names)] if (names := read_table(ids)) else [])]
        self.notes = (*self.notes, *incomplete(folder, wnids, listing))
        self.entries = list(labelled_folders(images, [owners[c] for c in self.classes]))


def _class_folders(folder: Folder) -> list[Folder]:
    """The class folders, sorted by name."""
    other = "images" if (folder / ANNOTATIONS).is_file() else None
    return [path for path in subfolders(folder) if path.name != other]


_LIKE_A_CLASS = re.compile(r"n[0-9]{8}(\..*)?")


def _check_strays(folder: Folder) -> None:
    """Raise UnreadableInputError if images or classes are beside the class folders, since they would be left out."""
    strays = [
        name
        for name, is_folder in children(folder).items()
        if not is_folder
        and (
            is_picture(name)
            or ("." not in name and is_image(name))
            or _LIKE_A_CLASS.fullmatch(name)
            or not (folder / name).is_file()  # a broken link
        )
    ]
    if strays:
        raise UnreadableInputError(
            f"{folder}: {listed(strays[:3])}{f' and {len(strays) - 3} more' if len(strays) > 3 else ''} in no class "
            "folder; expected every image in the folder of its class. Move other files elsewhere"
        )


def _without_empty(images: dict[Folder, list]) -> dict[Folder, list]:
    """`images` without the empty folders that are no classes, if classes are named by WordNet ids or indices."""
    for is_class in (is_wordnet_id, _is_index):
        if any(is_class(path.name) for path in images):
            return {path: own for path, own in images.items() if own or is_class(path.name)}
    return images


def _check_alike(folder: Folder, images: Mapping[Folder, object]) -> None:
    """Raise UnreadableInputError if some folders are named by WordNet ids, and others, such as thumbnails, are not."""
    others = [path.name for path in images if not is_wordnet_id(path.name)]
    if others and len(others) < len(images):
        raise UnreadableInputError(
            f"{folder}: has {len(images) - len(others)} folders named by WordNet ids, and others with images "
            f"({listed(others)}); expected one folder per class. Rename or move the others"
        )


def find_folder(root: Folder, split: Split) -> Folder | None:
    """The folder that contains the split's class folders, or None. Raises UsageError if there are several."""
    folders = distinct(path for name in SPLIT_FOLDERS[split] if (path := root / name).is_dir() and not is_empty(path))
    if len(folders) > 1:
        raise UsageError(
            f"{root}: has {' and '.join(f'{path.name}/' for path in folders)}, which may both be the {split} split; "
            "expected one of them. Move the others elsewhere"
        )
    if folders:
        return folders[0]
    empty = next((path for name in SPLIT_FOLDERS[split] if (path := root / name).is_dir()), None)
    if empty is None and split == "validation" and root.is_dir():
        return root if _has_classes(root) else None
    return empty


def _has_classes(root: Folder) -> bool:
    """Whether the folders in `root` are classes."""
    folders = subfolders(root)
    names = [path.name for path in folders]
    if any(map(is_wordnet_id, names)):
        return True
    if not names or any(map(is_split_folder, names)):
        return False
    # Indices, or the user's own classes, need images directly in each folder that isn't empty: other collections of
    # folders have them deeper or not at all.
    filled = [f for f in folders if not is_empty(f)]
    return len(filled) > 1 and all(any(map(is_picture, images_in(f))) for f in filled)


def _is_index(name: str) -> bool:
    return re.fullmatch(r"[0-9]{1,6}", name, re.ASCII) is not None


def _by_name(tables: Sequence[Folder], images: Mapping[Folder, object]) -> dict[ClassName, Folder]:
    names = find_names(*tables)
    wnids = ((same_name(path.name), path) for path in images)
    return {class_name(path, wnid, names.get(wnid)): path for wnid, path in wnids}


def _numbered(
    tables: Sequence[Folder], images: Mapping[Folder, object], numbered: Sequence[ClassName]
) -> tuple[dict[ClassName, Folder], tuple[str, ...]]:
    """The class of each folder that is named by a number, and a note if the meaning of the numbers was assumed.

    `tables` are the folders in which a table may be: that of the class folders, and the set's.
    """
    folders = {int(path.name): path for path in images}
    if len(folders) < len(images):
        raise UnreadableInputError(f"{tables[0]}: two folders have the same number; expected one folder per class")
    table, names = find_table(*tables)
    if not names:
        table = tables[-1] / "wnids.txt"
        names = read_table(table)
    if names and {path.name for path in images} <= names.keys():
        return _by_name(tables, images), ()
    if names:
        check_sorted(table, names)
        return _by_position(folders, [class_name(table, wnid, name) for wnid, name in names.items()], str(table)), ()
    if numbered and all(_is_index(c.wnid) for c in numbered):  # a net that was trained on such folders
        own = {int(c.wnid): c for c in numbered}
        return {own.get(number) or class_name(path, path.name): path for number, path in folders.items()}, ()
    ilsvrc = ilsvrc_classes()
    if folders.keys() == {*range(len(ilsvrc))}:
        return _by_position(folders, ilsvrc, "ILSVRC's classes"), ()
    if not numbered:
        return _by_name(tables, images), ()
    note = (
        f"the folders of {tables[0]} are numbered, and the numbers are taken as positions in the net's "
        f"{len(numbered):,} classes (0 is {numbered[0].wnid}). If they stand for other classes, add "
        f"{tables[-1] / 'classes.tsv'}: one line per class, in order of WordNet ids, with the id, a tab and the name"
    )
    return _by_position(folders, numbered, "the net's classes"), (note,)


def _by_position(folders: Mapping[int, Folder], classes: Sequence[ClassName], where: str) -> dict[ClassName, Folder]:
    """The class of each numbered folder. The numbers are positions in `classes`, which are listed in `where`."""
    last = folders[max(folders)]
    if max(folders) >= len(classes):
        raise UnreadableInputError(
            f"{last.parent}: has a folder {shown(last.name)}; expected numbers from 0 to {len(classes) - 1}, positions "
            f"in {where}. If they count from 1, or are the devkit's, rename the folders to WordNet ids"
        )
    return {classes[number]: path for number, path in folders.items()}


def labelled_folders(images: Mapping[Folder, Sequence[tuple]], folders: Sequence[Folder]) -> Iterator[Entry]:
    """Yield the `images` of each folder. The label is the folder's position in `folders`."""
    return (Entry(name, label, place) for label, folder in enumerate(folders) for name, place in images[folder])
