"""Fetching a labelled image set: download its archives, unpack them, and keep the folder.

Everything is made in a hidden folder beside the set's, which is renamed when it is complete. So a set that is there is
complete, even if the program is killed. The hidden folder keeps what a broken download received.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from alexnet_infer.errors import UnreadableInputError, UsageError, listed
from alexnet_infer.files import lock, user_cache
from alexnet_infer.progress import fetching
from alexnet_infer.published.data_sets import Archive, DataSet, data_sets
from alexnet_infer.published.download import check_space, download, part_path, verify
from alexnet_infer.published.unpack import unpack

SLACK = 2**26
"""An archive may have this many bytes of content in addition to twice its size. Images hardly shrink in an archive."""

MORE_FILES = 10_000
"""An archive may have this many files and folders in addition to twice its images."""


def sets_folder() -> Path:
    """Return the folder of the sets that are fetched without another folder. They can be deleted at any time."""
    return user_cache() / "data"


def is_there(data: DataSet, parent: Path, archives: Sequence[Archive] | None = None) -> bool:
    """Return whether `parent` has the set, or these parts of it. An empty folder is no set."""
    return not _missing(parent / data.name, data.archives if archives is None else archives)


def set_at(path: Path) -> Path:
    """Return `path` or, if it doesn't exist and is the name of a fetched set, the folder of that set.

    Raises UnreadableInputError if it is the name of a set that can be fetched.
    """
    if os.path.exists(path) or str(path) not in (sets := data_sets()):  # noqa: PTH110 (Path's raises for a name too long)
        return path
    data = sets[str(path)]
    if not any(is_there(data, sets_folder(), [archive]) for archive in data.archives):
        raise UnreadableInputError(
            f"{path}: no such file or folder; `alexnet-infer data get {data.name}` gets the set of this name"
        )
    return sets_folder() / data.name


def get(
    data: DataSet,
    archives: Sequence[Archive],
    parent: Path,
    source: str | None = None,
    *,
    force: bool = False,
    keep: bool = False,
) -> tuple[Path, bool]:
    """Make the folder `parent`/NAME with the images of `archives`, and return (the folder, whether it was changed).

    A folder that is there is not changed, unless `force` replaces it. Progress is shown on stderr if it is a terminal.

    `source`: a copy of the archive to use instead of the registry's URLs, either a file, which is not modified, or a
    URL. `keep`: put the downloaded archives into `parent`, under their publisher's names.

    Raises the errors of `download`, `verify` and `unpack`, and UsageError if `parent` can't be written.
    """
    target = parent / data.name
    if source is not None and len(archives) > 1:
        raise UsageError(f"--from {source}: one file for {len(archives)} parts; get them one by one, with --part")
    try:
        if target.exists() and not target.is_dir():
            raise UsageError(f"{target}: is a file; remove it, or choose another folder with --to")
        if not (force or _missing(target, archives)):
            return target, False
        with _work_folder(data, parent) as work:
            missing = archives if force else _missing(target, archives)
            _check_space(data, missing, work, keep=keep)
            for archive in missing:
                _get_archive(data, archive, source, target, work, keep=keep)
            return target, bool(missing)
    except OSError as error:
        raise UsageError(
            f"{error.filename or parent}: {error.strerror or error}; choose another folder with --to"
        ) from None


def _missing(target: Path, archives: Sequence[Archive]) -> list[Archive]:
    """The archives whose images are not in `target`."""
    return [a for a in archives if not all(_has_files(target / f) for f in a.folders or ("",))]


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


@contextmanager
def _work_folder(data: DataSet, parent: Path) -> Iterator[Path]:
    """The hidden folder of this set, which no other process uses.

    It is removed at the end, unless it has bytes of a download for the next attempt. Raises UsageError if another
    process uses it.
    """
    work = parent / f".{data.name}.partial"
    work.mkdir(parents=True, exist_ok=True)
    held = lock(work / "lock")
    if held is None:
        raise UsageError(f"{data.name}: another process is getting it; wait until it is done")
    with held:
        try:
            yield work
        finally:
            if not any(part.stat().st_size for part in work.glob("*.part")):
                shutil.rmtree(work, ignore_errors=True)


def _check_space(data: DataSet, archives: Sequence[Archive], work: Path, *, keep: bool) -> None:
    """Check that the disk has room for all of several archives. `download` checks the room for one.

    Raises UsageError if not.
    """
    if len(archives) > 1:
        downloads = [archive.size for archive in archives]
        wanted = replace(data.wanted(archives[0]), name=data.name, room=sum(archive.room for archive in archives))
        check_space(wanted, work, sum(downloads) if keep else max(downloads))


def _get_archive(data: DataSet, archive: Archive, source: str | None, target: Path, work: Path, *, keep: bool) -> None:
    wanted = data.wanted(archive)
    if source is not None and "://" not in source:
        copy = Path(source)
        try:
            verify(wanted, copy)
        except OSError as error:
            raise UnreadableInputError(f"--from {copy}: {error.strerror or error}") from None
        check_space(wanted, work, 0)
        _install(wanted.name, archive, copy, target, work)
        part_path(wanted, work).unlink(missing_ok=True)  # of an earlier download, which is not needed now
        return
    urls = archive.urls if source is None else (source,)
    with ExitStack() as until_installed:
        with fetching(wanted.name, archive.size) as advance:  # one bar at a time: this one ends before unpacking
            path = until_installed.enter_context(download(wanted, urls, work, advance))
        _install(wanted.name, archive, path, target, work)
        if keep:
            path.replace(target.parent / archive.filename)


def _install(name: str, archive: Archive, path: Path, target: Path, work: Path) -> None:
    """Unpack an archive in `work`, and move its images to `target`."""
    unpacked, old = work / "unpacked", work / "old"
    for left in (unpacked, old):  # by a program that was killed
        _remove(left)
    try:
        with fetching(f"unpacking {name}", archive.size) as advance:
            unpack(
                path,
                unpacked,
                max_bytes=2 * archive.size + SLACK,
                max_files=2 * archive.files + MORE_FILES,
                on_bytes=advance,
            )
        moves = _moves(archive, unpacked, path, target)
        for new, place in moves:
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.is_dir():
                place.rename(old)
            new.rename(place)
            _remove(old)
    finally:
        _remove(unpacked)


def _moves(archive: Archive, unpacked: Path, path: Path, target: Path) -> list[tuple[Path, Path]]:
    """What to rename. A single folder at the top of an archive is left out, except for a part's own."""
    entries = {entry.name: entry for entry in unpacked.iterdir()}
    if len(entries) == 1 and not entries.keys() & {*archive.folders}:
        (unpacked,) = entries.values()
        entries = {entry.name: entry for entry in unpacked.iterdir()} if unpacked.is_dir() else {}
    if not entries:
        raise UnreadableInputError(f"{path}: has no images: not the expected archive")
    if not archive.folders:
        return [(unpacked, target)]
    if missing := {*archive.folders} - entries.keys():
        raise UnreadableInputError(f"{path}: has no folder {listed(sorted(missing))}: not the expected archive")
    return [(entries[folder], target / folder) for folder in archive.folders]


def _remove(path: Path) -> None:
    """Remove a folder, a link to a folder, or nothing."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
