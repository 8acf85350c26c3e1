"""Folders of images, on disk or in an archive: which files are images, and which folders belong to a set."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from unicodedata import normalize

from alexnet_infer.datasets.inside import Inside
from alexnet_infer.datasets.places import Place, read_whole, refuse
from alexnet_infer.datasets.zips import ZipMember
from alexnet_infer.errors import UnreadableInputError, shown

Folder = Path | Inside
"""A folder or file, on disk or in an archive."""

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

_PICTURES = frozenset(
    "jpg jpeg jpe jfif mpo png apng webp gif bmp tif tiff ppm pgm pbm avif heic heif jp2 j2k jxl tga svg".split()  # noqa: SIM905
)
"""Suffixes of images, readable or not."""

_DOCUMENTS = frozenset("readme license licence copying makefile md5sums sha1sums sha256sums checksums".split())  # noqa: SIM905
"""Lower-case names of files without a suffix that aren't images."""

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
    return belongs(name) and name.lower().rpartition(".")[2] in _PICTURES


def children(folder: Folder, *, everything: bool = False) -> dict[str, bool]:
    """The names in `folder` that may belong to a set, sorted -> whether each is a folder. Links are followed.

    With `everything`, hidden names and litter are among them.

    Raises UnreadableInputError if the folder can't be listed.
    """
    names = folder.children() if isinstance(folder, Inside) else _listing(folder)[0]
    return {name: names[name] for name in sorted(names) if everything or belongs(name)}


def _listing(folder: Path) -> tuple[dict[str, bool], set[str]]:
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
    names = folder.children() if isinstance(folder, Inside) else _listing(folder)[0]
    return [folder / name for name in sorted(name for name in names if names[name] and belongs(name))]


def distinct(folders: Iterable[Folder]) -> list[Folder]:
    """`folders` without those that are links to an earlier one."""
    found: dict[object, Folder] = {}
    for folder in folders:
        found.setdefault(_identity(folder) if isinstance(folder, Path) else folder.inner, folder)
    return list(found.values())


def images_in(folder: Folder) -> dict[str, Place | ZipMember]:
    """The images directly in `folder`, by name."""
    return {
        name: place_of(folder, name) for name, is_folder in children(folder).items() if not is_folder and is_image(name)
    }


def place_of(folder: Folder, name: str) -> Place | ZipMember:
    """Where the file `name` in `folder` is."""
    return (folder / name).place() if isinstance(folder, Inside) else Place(f"{folder}{os.sep}{name}")


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
                self._owners[_identity(folder)] = None

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
            names, links = _listing(folder)
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
        before = self._owners.setdefault(identity := _identity(folder), "")
        if before:
            if before != owner:
                raise UnreadableInputError(
                    f"{folder}: links lead to this folder from {before} and from {owner}; expected one label per image"
                )
            return False
        self._owners[identity] = None if before is None else owner
        return before is not None

    def _check_links(self) -> None:
        """Raise UnreadableInputError if an image is a link to another image of the set, which would count twice."""
        known: dict[str, bool] = {}
        for path in self._links:
            folder, target = os.path.split(_target(path))
            folder = os.path.join(os.path.dirname(path), folder)  # noqa: PTH118, PTH120 (there may be a million links)
            if folder not in known:
                known[folder] = os.path.isdir(folder) and bool(self._owners.get(_identity(Path(folder))))  # noqa: PTH112
            if known[folder] and is_image(target) and os.path.isfile(os.path.join(folder, target)):  # noqa: PTH113, PTH118
                raise UnreadableInputError(
                    f"{path}: a link to {shown(target)}, another image of the set, which would count twice; remove the "
                    "link"
                )


def _holds_classes(name: str) -> bool:
    """Whether a folder of this name is a class of WordNet's or a split, so that a class below it is misplaced."""
    return is_wordnet_id(name) or name in ("train", "val", "valid", "validation", "test")


def _target(link: str) -> str:
    try:
        return os.readlink(link)  # noqa: PTH115
    except OSError:  # it has been removed since
        return ""


def _identity(folder: Path) -> tuple[int, int]:
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


def read_file(path: Folder) -> bytes:
    """Return the content of a file that belongs to a set.

    Raises FileNotFoundError if it doesn't exist. Raises UnreadableInputError if it can't be read.
    """
    if isinstance(path, Path):
        return read_whole(path)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        refuse(path, error)


def read_lines(path: Folder) -> list[str]:
    """Return the lines of a UTF-8 text file, without their line endings (LF or CRLF).

    Raises what `read_file` raises, and UnreadableInputError if the file isn't UTF-8.
    """
    try:
        text = read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        refuse(path, error)
    # Not splitlines(): a name may contain other characters that Unicode treats as line breaks, and an additional line
    # would shift the labels.
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")
