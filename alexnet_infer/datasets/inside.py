"""Zip and tar archives, read in place: paths inside an archive that are used like `pathlib.Path`."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO
from zipfile import is_zipfile

from alexnet_infer.containers import Header
from alexnet_infer.datasets.places import Place, refuse
from alexnet_infer.datasets.zips import Zip, ZipMember
from alexnet_infer.errors import UnreadableInputError, one_line, printable, shown

_OTHERS = {
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ\x00": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"\x04\x22\x4d\x18": "compressed with lz4",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
}
"""The first bytes of archives that can't be read in place: an image can only be read after all before it."""

_ZIP = b"PK\x03\x04"
_DEPTH = 64
"""The largest number of folders on the way to a file."""


class Archive:
    """The index of an archive: what each of its folders contains."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folders: dict[str, dict[str, Place | ZipMember | None]] = {"": {}}
        """Folder -> name of each of its children -> where it is, or None for a folder."""

    def add(self, name: str, place: Place | ZipMember) -> None:
        """Add a file. Raises UnreadableInputError if its name occurs twice or isn't a name inside the archive."""
        parent, _, last = self.inner(name).rpartition("/")
        if parent not in self.folders:
            self._add_folder(parent)
        if last in self.folders[parent]:
            kind = "occurs twice" if self.folders[parent][last] else "is a file and a folder"
            raise UnreadableInputError(f"{self.path}: {shown(name)} {kind}; expected each name once")
        self.folders[parent][last] = place

    def _add_folder(self, folder: str) -> None:
        child: dict[str, Place | ZipMember | None] = {}
        while folder not in self.folders:
            self.folders[folder] = child
            folder, _, last = folder.rpartition("/")
            child = {last: None}
        for last in child:
            if self.folders[folder].setdefault(last) is not None:
                where = f"{folder}/{last}" if folder else last
                raise UnreadableInputError(
                    f"{self.path}: {shown(where)} is a file and a folder; expected each name once"
                )

    def inner(self, name: str) -> str:
        """The name of a member without empty parts. Raises UnreadableInputError if it leads out of the archive."""
        if name and name[0] not in "./" and "//" not in name and "/." not in name and name.count("/") < _DEPTH:
            return name  # nearly all names
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts or not parts:
            raise UnreadableInputError(
                f"{self.path}: {shown(name)} is not a name inside the archive; expected plain names"
            )
        if len(parts) > _DEPTH:
            raise UnreadableInputError(f"{self.path}: {shown(name)}: expected at most {_DEPTH} folders in each other")
        return "/".join(parts)


class Inside:
    """A file or folder inside an archive, with the methods of `pathlib.Path` that reading a set needs."""

    __slots__ = ("archive", "inner")

    def __init__(self, archive: Archive, inner: str = "") -> None:
        self.archive, self.inner = archive, inner

    def __truediv__(self, name: str) -> Inside:
        return Inside(self.archive, f"{self.inner}/{name}" if self.inner and name else self.inner or name)

    def __str__(self) -> str:
        return f"{self.archive.path}: {printable(self.inner)}" if self.inner else str(self.archive.path)

    @property
    def name(self) -> str:
        return self.inner.rpartition("/")[2] or self.archive.path.name

    @property
    def parent(self) -> Inside:
        return Inside(self.archive, self.inner.rpartition("/")[0])

    def is_dir(self) -> bool:
        return self.inner in self.archive.folders

    def is_file(self) -> bool:
        return self._found() is not None

    def children(self) -> dict[str, bool]:
        """The names in this folder -> whether each is a folder."""
        return {name: place is None for name, place in self.archive.folders[self.inner].items()}

    def place(self) -> Place | ZipMember:
        """Where the file's bytes are. Raises KeyError if there is no such file."""
        if (place := self._found()) is None:
            raise KeyError(self.inner)
        return place

    def size(self) -> int:
        """Return the file's size in bytes. Raises FileNotFoundError."""
        if not self.is_file():
            raise FileNotFoundError(str(self))
        return self.place().bytes()

    def read_bytes(self) -> bytes:
        """Return the file's content. Raises OSError."""
        if not self.is_file():
            raise FileNotFoundError(str(self))
        return self.place().read()

    def _found(self) -> Place | ZipMember | None:
        parent, _, last = self.inner.rpartition("/")
        return self.archive.folders.get(parent, {}).get(last)


def open_archive(path: Path) -> Inside | None:
    """Return the root of the zip or tar archive `path`, or None if the file is neither.

    An index is built, for a tar with one small read per file. Raises UnreadableInputError if the archive is damaged or
    compressed as a whole, if a member that isn't a folder isn't a regular file, or if a name occurs twice or leads out
    of the archive.
    """
    archive = Archive(path)
    try:
        with path.open("rb") as file:
            head = file.read(tarfile.BLOCKSIZE)
            if _is_tar(head):  # first, since a tar may end with a zip archive
                file.seek(0)
                for _, member in tar_members(file, str(path)):
                    if not member.isdir():
                        check_member(path, member, False)
                        archive.add(member.name, Place(str(path), member.offset_data, member.size))
                return Inside(archive)
        if head.startswith(_ZIP) or is_zipfile(path):
            index = Zip(path)
            for member, name in enumerate(index.names):
                archive.add(name, ZipMember(index, member))
            return Inside(archive)
    except OSError as error:
        refuse(path, error)
    if kind := next((kind for magic, kind in _OTHERS.items() if head.startswith(magic)), None):
        raise UnreadableInputError(f"{path}: {kind}, so it can't be read in place; unpack it and give the folder")
    return None


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def check_member(where: Path | str, member: tarfile.TarInfo, repeated: bool) -> None:
    """Raise UnreadableInputError if a member occurs twice, or if it isn't a regular file."""
    if repeated:
        raise UnreadableInputError(f"{where}: {shown(member.name)} occurs twice; expected each name once")
    if not member.isreg() or member.issparse():
        raise UnreadableInputError(
            f"{where}: {shown(member.name)} is a link or special file; expected regular files. Unpack it and give the "
            "folder"
        )


def tar_members(file: IO[bytes], where: str) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield each member of an archive, as (archive, member).

    Unlike tarfile, this requires the end-of-archive marker. tarfile mistakes a damaged header for the end and silently
    skips the remaining images.
    """
    try:
        with tarfile.open(fileobj=file, mode="r:", tarinfo=Header) as archive:
            last = -1
            for member in archive:
                if member.size < 0 or member.offset <= last:  # some versions of tarfile would loop forever
                    raise tarfile.ReadError(f"bad size at byte {member.offset}")
                last = member.offset
                yield archive, member
                archive.members = []  # tarfile keeps every header, which is 1 kB per image
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"no end-of-archive marker at byte {archive.offset}")
            while rest := file.read(1 << 20):  # zeros fill the last record
                if rest.strip(b"\0"):
                    raise tarfile.ReadError(f"more data after the end-of-archive marker at byte {archive.offset}")
    except (OSError, tarfile.TarError, ValueError, RecursionError, MemoryError) as error:
        reason = one_line(error) or type(error).__name__
        raise UnreadableInputError(f"{where}: damaged, cut short or not a tar archive ({reason})") from None


def intact_members(path: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar archive, up to the point where it is damaged."""
    with suppress(OSError, UnreadableInputError), path.open("rb") as file:
        yield from (member for _, member in tar_members(file, str(path)))
