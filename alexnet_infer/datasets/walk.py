"""The images below the folders of classes, through links, each once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from alexnet_infer.datasets.inside import Inside
from alexnet_infer.datasets.places import Place
from alexnet_infer.datasets.tree import (
    Folder,
    Item,
    belongs,
    children,
    identity,
    is_image,
    is_split_folder,
    is_wordnet_id,
    listing,
)
from alexnet_infer.errors import UnreadableInputError, shown


class Walk:
    """The images below several folders. Each folder on the disk is visited once, even if links lead to it."""

    def __init__(self, top: Folder) -> None:
        self._owners: dict[tuple[int, int], str | None] = {}
        """Device and inode of each visited folder -> its owner, which is None for `top` and the folders above it."""
        self._links: list[str] = []
        """The paths of the images that are links."""
        if isinstance(top, Path):
            real = Path(os.path.realpath(top))
            for folder in (real, *real.parents):
                self._owners[identity(folder)] = None

    def images(self, folders: Iterable[Folder]) -> dict[Folder, list[Item]]:
        """Return the images below each of `folders`, the classes of a set, in order of their paths.

        Raises UnreadableInputError if a folder can't be listed, if it is below two classes or is a class itself, or if
        an image is a link to another one.
        """
        images = {folder: list(self.below(folder, is_class=True)) for folder in folders}
        self._check_links()
        return images

    def below(self, owner: Folder, *, is_class: bool = False) -> Iterator[Item]:
        """Yield the images below a folder in order of their paths.

        A link to a folder that was visited for the same `owner`, or that contains this one, is passed over. Raises
        UnreadableInputError if a folder can't be listed or was visited for another owner. If `owner` is a class, also
        raises it if a folder below is another class.
        """
        nested = [self._content(owner, owner)]  # not recursive: folders may be nested deeper than Python's stack
        while nested:
            item = next(nested[-1], None)
            if item is None:
                nested.pop()
            elif isinstance(item, tuple):
                yield item
            else:
                if is_class and is_wordnet_id(item.name) and item.name != owner.name and _holds_classes(owner.name):
                    raise UnreadableInputError(f"{item}: a class inside {owner}; expected one folder per class")
                nested.append(self._content(item, owner))

    def _content(self, folder: Folder, owner: Folder) -> Iterator[Item | Folder]:
        """Yield the images and the folders in a folder, sorted by name."""
        if isinstance(folder, Inside):
            for name, is_folder in children(folder).items():
                if is_folder:
                    yield folder / name
                elif is_image(name):
                    yield f"{folder.inner}/{name}", folder.archive.folders[folder.inner][name]
        elif self._is_new(folder, str(owner)):
            names, links = listing(folder)
            for name in sorted(names):
                if names[name] and belongs(name):
                    yield folder / name
                elif is_image(name):
                    path = f"{folder}{os.sep}{name}"
                    if name in links:
                        self._links.append(path)
                    yield path, Place(path)

    def _is_new(self, folder: Path, owner: str) -> bool:
        """Whether a folder is visited for the first time. Raises UnreadableInputError if it has another owner."""
        before = self._owners.setdefault(key := identity(folder), "")
        if before:
            if before != owner:
                raise UnreadableInputError(
                    f"{folder}: links lead to this folder from {before} and from {owner}; expected one label per image"
                )
            return False
        self._owners[key] = None if before is None else owner
        return before is not None

    def _check_links(self) -> None:
        """Raise UnreadableInputError if an image is a link to another image of the set, which would count twice.

        Two links to one file elsewhere are two images: ILSVRC has equal images, which some stores keep once.
        """
        known: dict[str, bool] = {}
        for path in self._links:
            folder, target = os.path.split(_target(path))
            folder = os.path.join(os.path.dirname(path), folder)  # noqa: PTH118, PTH120 (there may be a million links)
            if folder not in known:
                known[folder] = os.path.isdir(folder) and bool(self._owners.get(identity(Path(folder))))  # noqa: PTH112
            if known[folder] and is_image(target) and os.path.isfile(os.path.join(folder, target)):  # noqa: PTH113, PTH118
                raise UnreadableInputError(
                    f"{path}: a link to {shown(target)}, another image of the set, which would count twice; remove the "
                    "link"
                )


def _holds_classes(name: str) -> bool:
    """Whether a folder of this name is a class of WordNet's or a split, so that a class below it is misplaced."""
    return is_wordnet_id(name) or is_split_folder(name)


def _target(link: str) -> str:
    try:
        return os.readlink(link)  # noqa: PTH115
    except OSError:  # it has been removed since
        return ""
