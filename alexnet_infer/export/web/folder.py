"""The folder of a page: which may be written, and in what order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from alexnet_infer.errors import UsageError, listed
from alexnet_infer.files import write_atomically, writing
from alexnet_infer.pages import kind_of
from alexnet_infer.version import __version__

PAGE = "index.html"
KIND = "web"
GENERATOR = f"alexnet-infer {__version__} {KIND}"
"""What the page names as its generator. Other pages of alexnet-infer have another, and are not overwritten."""

_ADVICE = "correct that and run it again, since a page that was there may be incomplete"


def check_folder(folder: Path, names: Iterable[str]) -> None:
    """Raise UsageError if `write_files` must not write files of these names to the folder.

    That is so if it is not a folder, has an index.html of something else, or anything and no index.html, or a link
    instead of a folder inside it. A missing folder is fine, and so is one that is empty but for hidden files.
    """
    option = f"--web {folder}"
    if folder == Path():
        raise UsageError(f"{option}: would write into the working directory; expected another folder, as in --web site")
    if os.path.lexists(folder) and not folder.is_dir():
        kind = "is a link to nothing" if folder.is_symlink() and not folder.exists() else "is not a folder"
        raise UsageError(f"{option}: {kind}; remove it, or name another folder")
    names = list(names)
    for inner in dict.fromkeys(str(PurePosixPath(name).parent) for name in names if "/" in name):
        path = folder / inner
        if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
            raise UsageError(f"{option}: its {inner} is a link or a file; expected a folder, or another DIR")
    if os.path.lexists(folder / PAGE):
        if kind_of(folder / PAGE) != KIND:
            raise UsageError(
                f"{option}: its {PAGE} was not written by alexnet-infer export --web and would be overwritten; "
                "expected another folder"
            )
        return
    if folder.is_dir() and (others := sorted(path.name for path in folder.glob("[!.]*"))):
        raise UsageError(
            f"{option}: has {listed(others[:1])} and no {PAGE} of alexnet-infer export --web; expected an empty or new "
            "folder"
        )


def write_files(folder: Path, files: Mapping[str, bytes], outdated: Sequence[str]) -> None:
    """Write the files in their order and remove those that are `outdated`. Names are paths in the folder.

    If that fails in a folder that had no page before, everything that was written is removed again. Raises UsageError
    if `check_folder` refuses the folder or it can't be written.
    """
    with writing(f"--web {folder}"):
        check_folder(folder, [*files, *outdated])
    with writing(f"--web {folder}", _ADVICE), _undone(folder, files):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            write_atomically(folder / name, content)
        for name in outdated:
            (folder / name).unlink(missing_ok=True)
            with suppress(OSError):  # other files are in it
                (folder / name).parent.rmdir()


@contextmanager
def _undone(folder: Path, names: Iterable[str]) -> Iterator[None]:
    """If the block fails and the folder had no page before, remove the files, and the folders that it made."""
    page = os.path.lexists(folder / PAGE)
    inner = dict.fromkeys((folder / name).parent for name in names)
    missing = [path for path in (*inner, folder, *folder.parents) if not os.path.lexists(path)]
    try:
        yield
    except BaseException:
        if not page:
            for name in names:
                with suppress(OSError):
                    (folder / name).unlink()
            for path in dict.fromkeys(sorted(missing, key=lambda path: -len(path.parts))):
                with suppress(OSError):  # is missing or not empty
                    path.rmdir()
        raise
