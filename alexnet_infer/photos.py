"""Photos from the inputs that a user names: files, directories, patterns, URLs and standard input.

A problem with an input is raised when the photo is read, so that one bad photo doesn't stop a batch.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import filter as matching
from pathlib import Path
from typing import BinaryIO

import numpy as np

from alexnet_infer.decode import MAX_BYTES, Encoded, Squares, read_squares
from alexnet_infer.errors import SpecError, UnreadableInputError, cause_of, one_line, printable
from alexnet_infer.files import read_limited
from alexnet_infer.preprocess import Rescaling
from alexnet_infer.web import Fetch, FetchError, is_http, without_password

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".jpx", ".jpf", ".j2c"),
)
"""Suffixes, in lower case, of the images that are read from a directory. A file that is named directly may have any
name. AVIF (.avif) and JPEG 2000 (the last five) are read if Pillow was built with them."""

OTHER_PICTURE_SUFFIXES = (
    *(".heic", ".heif", ".hif", ".jxl", ".jxr", ".wdp", ".hdp", ".jls", ".bpg", ".qoi", ".svg", ".svgz", ".eps"),
    *(".psd", ".psb", ".xcf", ".tga", ".exr", ".hdr", ".dds", ".pam", ".pfm", ".pcx", ".ico", ".icns"),
    *(".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".orf", ".rw2", ".rwl", ".raf", ".pef"),
    *(".srw", ".3fr", ".fff", ".erf", ".kdc", ".dcr", ".mef", ".mos", ".mrw", ".iiq", ".x3f"),
)
"""Suffixes, in lower case, of pictures in formats that are not read. In a directory, such a file is a photo that can't
be read, so that it is named and not passed over. Other files (text, videos) are passed over."""


MAX_URL_BYTES = 64_000_000
"""The largest image that is fetched. Several are in memory at the same time, before they are decoded."""


@dataclass(frozen=True, kw_only=True)
class Photo:
    """One input, not read yet: a file, a URL or standard input."""

    name: str
    """The input as the user named it, without a password in a URL, or the path of a file in a directory."""
    path: Path | None = None
    url: str | None = field(default=None, repr=False)
    """An http or https URL, with a password if it has one. Without `path` and `url`, the photo is standard input."""
    content: bytes | None = field(default=None, repr=False)
    """The encoded image at `url`, if it has been fetched."""
    problem: str | None = None
    """The reason why it can't be read, if that is known already."""

    @property
    def printable_name(self) -> str:
        """The name on one line and safe for a terminal."""
        return printable(self.name)

    def square(self, rescaling: Rescaling) -> np.ndarray:
        """Read the photo, and return its square uint8 [S, S, 3] RGB. Errors are those of `squares`."""
        return self.squares([rescaling])[rescaling]

    def squares(self, rescalings: Collection[Rescaling]) -> Squares:
        """Read and decode the photo once, turned as its EXIF orientation says.

        Returns the square for each of `rescalings`. Raises UnreadableInputError with the printable name.
        """
        return read_squares(self.source(), name=self.name, rescalings=rescalings)

    def source(self) -> Encoded:
        """Return what `alexnet_infer.decode` reads: the path, the bytes fetched from the URL, or standard input.

        Raises UnreadableInputError if the URL can't be fetched, or if there is nothing to read.
        """
        (photo,) = fetched([self])
        if photo.problem is not None:
            raise UnreadableInputError(photo.problem, name=self.printable_name)
        if photo.path is not None:
            return photo.path
        return _standard_input() if photo.content is None else photo.content

    def encoded(self) -> bytes:
        """Return the content of the image file, for a digest of what is decoded. Errors are those of reading it."""
        source = self.source()
        if not isinstance(source, Path):
            return source if isinstance(source, bytes) else source.read()
        try:
            return read_limited(source, MAX_BYTES)
        except (OSError, SpecError) as error:
            raise UnreadableInputError(cause_of(error), name=self.printable_name) from None


def fetched(photos: Sequence[Photo]) -> list[Photo]:
    """Fetch the URLs among `photos`, all at the same time. They get their `content`, or a `problem`."""
    fetches = [
        Fetch(photo.url, MAX_URL_BYTES) if photo.url and photo.content is None and photo.problem is None else None
        for photo in photos
    ]
    return [photo if fetch is None else _completed(photo, fetch) for photo, fetch in zip(photos, fetches, strict=True)]


def _completed(photo: Photo, fetch: Fetch) -> Photo:
    try:
        return replace(photo, content=fetch.content())
    except FetchError as error:
        return replace(photo, problem=f"can't be fetched ({one_line(error)})")


def named(photo: str | Path) -> Photo:
    """Return the photo at a path or, if `photo` is a str, an http or https URL."""
    if isinstance(photo, str) and is_http(photo):
        return Photo(name=without_password(photo), url=photo)
    return Photo(name=str(photo), path=Path(photo))


def expand(inputs: Sequence[str]) -> Iterator[Photo]:
    """Yield the photos of `inputs`, in order.

    Each input is a file, a directory (its files at any depth that have one of IMAGE_SUFFIXES or OTHER_PICTURE_SUFFIXES,
    sorted, without hidden ones; links to directories are not followed), a pattern such as "trip/**/*.jpg" (the files it
    matches, sorted; links to directories are followed, except to one above, and a directory under two names is searched
    once), an http or https URL, or "-" for an encoded image on standard input. An input without photos yields one photo
    that can't be read.
    """
    for text in inputs:
        if text == "-":
            yield Photo(name=text)
        elif not text:
            yield Photo(name="''", problem="an empty name; expected a file, a directory, a pattern, a URL or -")
        elif is_http(text):
            yield named(text)
        elif _is_directory(text):
            yield from _images_below(text)
        elif any(c in text for c in "*?[") and not os.path.lexists(text):
            yield from _matches(text)
        else:
            yield named(text)


def _is_directory(path: str) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 (Path.is_dir raises for a name too long or a parent without permission)


def _walk(
    directories: Sequence[str], errors: list[OSError], *, follow: bool = False
) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder from `directories` down, once, with the names of its files, without hidden ones.

    With `follow`, so are those that links lead to, unless they are below `directories` without links, or above one of
    them. A folder that can't be listed adds to `errors`. Not os.walk: before Python 3.12 it is recursive, and folders
    may be nested deeper than Python's stack.
    """
    folders, links, seen = [*directories], [], set()
    for parent in {parent for folder in directories for parent in Path(os.path.realpath(folder)).parents}:
        with suppress(OSError):
            seen.add(_identity(parent.stat()))
    seen -= {_identity(os.stat(folder or os.curdir)) for folder in directories if _is_directory(folder or os.curdir)}  # noqa: PTH116
    while folders or links:
        folder = folders.pop() if folders else links.pop()
        try:
            if (key := _identity(os.stat(folder or os.curdir))) in seen:  # noqa: PTH116
                continue
            seen.add(key)
            with os.scandir(folder or os.curdir) as entries:
                visible = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            errors.append(error)
            continue
        yield folder, [entry.name for entry in visible if not _leads_to_directory(entry)]
        for entry in filter(_leads_to_directory, visible):
            if entry.is_dir(follow_symlinks=False):
                folders.append(os.path.join(folder, entry.name))  # noqa: PTH118
            elif follow:
                links.append(os.path.join(folder, entry.name))  # noqa: PTH118


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _leads_to_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _images_below(directory: str) -> Iterator[Photo]:
    errors: list[OSError] = []
    files = [Path(folder, name) for folder, names in _walk([directory], errors) for name in names]
    images = sorted(file for file in files if file.suffix.lower() in IMAGE_SUFFIXES + OTHER_PICTURE_SUFFIXES)
    for path in images:
        yield Photo(name=str(path), path=path)
    yield from map(_not_listed, errors)
    if not images and not errors:
        yield Photo(name=directory, problem=f"no images in this directory; expected {', '.join(IMAGE_SUFFIXES)}")


def _not_listed(error: OSError) -> Photo:
    return Photo(name=str(error.filename), problem=f"the directory can't be read ({error.strerror})")


def _matches(pattern: str) -> Iterator[Photo]:
    """Yield the files that match a pattern of the form of `glob`'s.

    Not glob.glob: its "**" goes up to 40 times through a link to the directory's own parent.
    """
    errors: list[OSError] = []
    drive, rest = os.path.splitdrive(pattern.replace(os.altsep or os.sep, os.sep))
    *parts, last = rest.split(os.sep)  # noqa: PTH206 (Path drops a slash at the end)
    parts = [part for part in parts if part] + (["**", "*"] if last == "**" else [last])
    paths = [drive + os.sep if rest.startswith(os.sep) else drive]
    for part in parts:
        folders = _distinct(paths)
        if part == "**":
            paths = [folder for folder, _ in _walk(folders, errors, follow=True)]
        else:
            paths = [os.path.join(folder, name) for folder in folders for name in _named(folder, part)]  # noqa: PTH118
    files = sorted(path for path in paths if not _is_directory(path))
    for path in files:
        yield Photo(name=path, path=Path(path))
    yield from map(_not_listed, {error.filename: error for error in errors}.values())
    if not files and not errors:
        yield Photo(name=pattern, problem="no such file, and no file matches it as a pattern")


def _distinct(paths: Sequence[str]) -> list[str]:
    """Return those of `paths` that are directories, each directory once, if possible not by a link to it."""
    found: dict[tuple[int, int], str] = {}
    for path in sorted(paths, key=lambda path: (os.path.islink(path), path)):  # noqa: PTH114
        try:
            status = os.stat(path or os.curdir)  # noqa: PTH116 (there may be a million)
        except OSError:  # not there, or a link to itself
            continue
        if stat.S_ISDIR(status.st_mode):
            found.setdefault(_identity(status), path)
    return [*found.values()]


def _named(directory: str, part: str) -> list[str]:
    """The names in a directory that match one part of a pattern. A part without wildcards may be ".."."""
    if not any(c in part for c in "*?["):
        return [part] if os.path.lexists(os.path.join(directory, part)) else []  # noqa: PTH118
    try:
        names = os.listdir(directory or os.curdir)  # noqa: PTH208
    except OSError:
        return []
    return [name for name in matching(names, part) if part.startswith(".") or not name.startswith(".")]


def _standard_input() -> BinaryIO:
    if sys.stdin is None or sys.stdin.isatty():
        raise UnreadableInputError(
            "no image on standard input; expected a pipe or file, as in: ... - < photo.jpg", name="-"
        )
    return sys.stdin.buffer
