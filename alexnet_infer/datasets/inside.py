"""Zip and tar archives, read in place: paths inside an archive that are used like `pathlib.Path`."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO
from zipfile import BadZipFile, ZipFile, is_zipfile

from alexnet_infer.datasets.places import Place, ZipMember, refuse
from alexnet_infer.errors import UnreadableInputError, one_line, printable, shown

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""The first bytes of compressed files. An image in a compressed tar can only be read after all before it."""


class Archive:
    """The index of an archive: its files by path, and the names in each of its folders."""

    def __init__(self, path: Path, files: dict[str, Place | ZipMember]) -> None:
        self.path, self.files = path, files
        self.folders: dict[str, dict[str, bool]] = {"": {}}
        """Folder -> name of each of its children -> whether the child is a folder."""
        for name in files:
            self._add(name, False)
        if both := next((name for name in files if name in self.folders), None):
            raise UnreadableInputError(f"{path}: {shown(both)} is a file and a folder; expected each name once")

    def _add(self, path: str, is_folder: bool) -> None:
        parent, _, name = path.rpartition("/")
        if parent not in self.folders:
            self._add(parent, True)
            self.folders[parent] = {}
        self.folders[parent][name] = is_folder


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
        return self.inner in self.archive.files

    def exists(self) -> bool:
        return self.is_dir() or self.is_file()

    def children(self) -> dict[str, bool]:
        """The names in this folder -> whether each is a folder."""
        return self.archive.folders[self.inner]

    def place(self) -> Place | ZipMember:
        """Where the file's bytes are. Raises KeyError if there is no such file."""
        return self.archive.files[self.inner]

    def read_bytes(self) -> bytes:
        """Return the file's content. Raises OSError."""
        if not self.is_file():
            raise FileNotFoundError(str(self))
        return self.place().read()


def open_archive(path: Path) -> Inside | None:
    """Return the root of the zip or tar archive `path`, or None if the file is neither.

    An index is built with one small read per file. Raises UnreadableInputError if the archive is damaged or compressed
    as a whole, or if a name occurs twice or leads out of the archive.
    """
    try:
        if is_zipfile(path):
            return Inside(Archive(path, _zip_files(path)))
        with path.open("rb") as file:
            head = file.read(512)
            if head[257:262] == b"ustar":
                return Inside(Archive(path, _tar_files(file, path)))
    except OSError as error:
        refuse(path, error)
    kind = next((kind for magic, kind in _COMPRESSED.items() if head.startswith(magic)), None)
    if kind is not None:
        raise UnreadableInputError(
            f"{path}: compressed with {kind}, so it can't be read in place; unpack it (tar xf {path.name}) and give "
            "the folder"
        )
    return None


def _zip_files(path: Path) -> dict[str, Place | ZipMember]:
    files: dict[str, Place | ZipMember] = {}
    try:
        archive = ZipFile(path)  # stays open: the members are read through it
        for info in archive.infolist():
            if not info.is_dir():
                _add(files, _inner(path, info.filename.replace("\\", "/")), ZipMember(archive, info), path)
            elif ".." in info.filename.split("/"):
                _inner(path, info.filename)
    except (BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise UnreadableInputError(f"{path}: damaged or cut short ({one_line(error)})") from None
    return files


def _tar_files(file: IO[bytes], path: Path) -> dict[str, Place | ZipMember]:
    files: dict[str, Place | ZipMember] = {}
    file.seek(0)
    for _, member in tar_members(file, str(path)):
        if not member.isdir():
            inner = _inner(path, member.name)
            check_member(path, member, False)
            _add(files, inner, Place(str(path), member.offset_data, member.size), path)
    return files


def _add(files: dict[str, Place | ZipMember], inner: str, place: Place | ZipMember, path: Path) -> None:
    if inner in files:
        raise UnreadableInputError(f"{path}: {shown(inner)} occurs twice; expected each name once")
    files[inner] = place


def _inner(path: Path, name: str) -> str:
    """The name of a member without empty parts. Raises UnreadableInputError if it leads out of the archive."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        raise UnreadableInputError(f"{path}: {shown(name)} is not a name inside the archive; expected plain names")
    return "/".join(parts)


def check_member(where: Path | str, member: tarfile.TarInfo, repeated: bool) -> None:
    """Raise UnreadableInputError if a member occurs twice, or if it isn't a regular file."""
    if repeated:
        raise UnreadableInputError(f"{where}: {shown(member.name)} occurs twice; expected each name once")
    if not member.isreg() or member.issparse():
        raise UnreadableInputError(f"{where}: {shown(member.name)} is a link or special file; expected a regular file")


def tar_members(file: IO[bytes], where: str) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield each member of an archive, as (archive, member).

    Unlike tarfile, this requires the end-of-archive marker. tarfile mistakes a damaged header for the end and silently
    skips the remaining images.
    """
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
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
    except (OSError, tarfile.TarError, ValueError, RecursionError, MemoryError) as error:
        reason = one_line(error) or type(error).__name__
        raise UnreadableInputError(f"{where}: damaged, cut short or not a tar archive ({reason})") from None


def intact_members(path: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar archive, up to the point where it is damaged."""
    with suppress(OSError, UnreadableInputError), path.open("rb") as file:
        yield from (member for _, member in tar_members(file, str(path)))
