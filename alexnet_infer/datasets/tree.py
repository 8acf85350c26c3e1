"""Folders of images, on disk or in an archive: which files are images, and which folders belong to a set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from unicodedata import normalize

from alexnet_infer.datasets.inside import Inside
from alexnet_infer.datasets.places import Place, ZipMember, read_whole, refuse
from alexnet_infer.errors import UnreadableInputError

Folder = Path | Inside
"""A folder or file, on disk or in an archive."""

_LITTER = frozenset(
    {
        "@eadir",
        "@__thumb",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "__macosx",
        "network trash folder",
        "temporary items",
        "icon\r",
        "__pycache__",
    }
)
"""Lower-case names of folders and files that storage systems, file managers and other programs leave among images."""

_COMPANIONS = frozenset(
    "txt csv tsv json jsonl xml yaml yml toml html htm md rst log ini cfg db lst list idx py ipynb sh npy npz mat pkl "  # noqa: SIM905
    "pt pth onnx safetensors lnk url desktop md5 sha1 sha256 sum crc bak orig old swp identifier".split()
)
"""Suffixes of files that aren't images of the set. Backup copies of an image are among them."""

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


def children(folder: Folder, *, everything: bool = False) -> dict[str, bool]:
    """The names in `folder` that may belong to a set, sorted -> whether each is a folder. Links are followed.

    With `everything`, hidden names and litter are among them.

    Raises UnreadableInputError if the folder can't be listed.
    """
    if isinstance(folder, Inside):
        names = folder.children()
    else:
        try:
            with os.scandir(folder) as listing:  # tells folders from files without a system call for each
                names = {entry.name: entry.is_dir() for entry in listing}
        except OSError as error:
            refuse(folder, error)
    return {name: names[name] for name in sorted(names) if everything or belongs(name)}


def subfolders(folder: Folder) -> list[Folder]:
    """The folders directly in `folder`, sorted by name."""
    return [folder / name for name, is_folder in children(folder).items() if is_folder]


def images_in(folder: Folder) -> dict[str, Place | ZipMember]:
    """The images directly in `folder`, by name."""
    return {
        name: place_of(folder, name) for name, is_folder in children(folder).items() if not is_folder and is_image(name)
    }


def place_of(folder: Folder, name: str) -> Place | ZipMember:
    """Where the file `name` in `folder` is."""
    return (folder / name).place() if isinstance(folder, Inside) else Place(os.path.join(folder, name))  # noqa: PTH118


class Walk:
    """The images below several folders. Each folder on the disk is visited once, even if links lead to it."""

    def __init__(self, top: Folder) -> None:
        self._owners: dict[tuple[int, int], str | None] = {}
        """Device and inode of each visited folder -> its owner, which is None for `top` and the folders above it."""
        if isinstance(top, Path):
            real = Path(os.path.realpath(top))
            for folder in (real, *real.parents):
                self._owners[_identity(folder)] = None

    def below(self, folder: Folder, owner: str | None = None) -> Iterator[Item]:
        """Yield the images below `folder` in order of their paths. `owner`, such as a class, is for the error message.

        A link to a folder that was visited for the same owner, or that contains this one, is passed over. Raises
        UnreadableInputError if a folder can't be listed, or if it belongs to two owners.
        """
        owner = owner or str(folder)
        if isinstance(folder, Path):
            before = self._owners.setdefault(identity := _identity(folder), "")
            if before:
                if before != owner:
                    raise UnreadableInputError(
                        f"{folder}: links lead to this folder from {before} and from {owner}; expected one label per "
                        "image"
                    )
                return
            if before is None:
                return
            self._owners[identity] = owner
        for name, is_folder in children(folder).items():
            if is_folder:
                yield from self.below(folder / name, owner)
            elif is_image(name):
                yield (
                    f"{folder}{os.sep}{name}" if isinstance(folder, Path) else f"{folder.inner}/{name}",
                    place_of(folder, name),
                )


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        refuse(folder, error)
    return status.st_dev, status.st_ino


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
