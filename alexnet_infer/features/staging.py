"""The rows of a run, in a folder beside the file to be written, until the file is complete.

A killed run continues after its last complete batch if the net, the layers, the images and the software are the same.
Rows of a run with others are never removed unasked. The folder is locked while it is used.

    .FILE.part/about.json    the description (`About`), and the stamp of the images
               images.jsonl  one line per image: name, label, error or null, CRC-32 of these and of all values
               0.npy ...     the rows of each layer, [N, *shape], so far
               lock

Nothing in the folder is believed: rows count if their name and label are those of the image and their CRC-32 is right.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np

from alexnet_infer.errors import SpecError, UnreadableInputError, UsageError, shown
from alexnet_infer.features import npy
from alexnet_infer.features.about import About, AboutLayer, difference
from alexnet_infer.features.arrays import header
from alexnet_infer.features.opening import WRITERS
from alexnet_infer.features.table import Features, Row
from alexnet_infer.files import (
    MAX_JSON_BYTES,
    lock,
    open_own,
    open_regular,
    read_limited,
    write_atomically,
    writing,
)

ABOUT, IMAGES, LOCK = "about.json", "images.jsonl", "lock"
_OURS = re.compile(
    r"about\.json|\.(?:about\.json|file\.jsonl)\.[0-9a-f]{8}\.tmp|images\.jsonl|[0-9]{1,4}\.npy|file\.[a-z0-9]{1,7}"
)

_LONGEST_LINE = 2**20
_encode = json.JSONEncoder(check_circular=False).encode
_LINE = msgspec.json.Decoder(tuple[str, str | None, str | None, int])
_ABOUT = msgspec.json.Decoder(dict[str, str | None])


class Staging:
    """The rows of a run that writes the file `out`. A context manager, which holds the lock.

    `about` is the description, without the number of unreadable images; `listed` are the images' names and labels.
    `stamp` is that of the images, or None if they can't be read a second time: then no run is continued.

    Raises UsageError if the folder can't be written, or if another process is using it.
    """

    def __init__(self, out: Path, about: About, stamp: str | None, listed: Sequence[tuple[str, str | None]]) -> None:
        self.out, self.about, self._listed = out, about, listed
        self.folder = out.with_name(f".{out.name}.part")
        self.done = 0
        """The number of images that are complete."""
        self.errors: dict[int, str] = {}
        """Row -> why the image can't be read, of those that are done."""
        self._stamp, self._fresh = stamp, False
        self._key = json.dumps({"about": about.to_json(), "stamp": stamp}).encode()
        shape = (about.images.count,)
        self._starts = [header(about.numpy_dtype, shape + layer.shape) for layer in about.layers]
        self._widths = [layer.size * about.numpy_dtype.itemsize for layer in about.layers]
        self._open = ExitStack()

    def __enter__(self) -> Staging:
        with self._writing():
            if self.folder.is_symlink():
                raise OSError(errno.ELOOP, "it is a symbolic link")
            self.folder.mkdir(exist_ok=True)
            held = lock(self.folder / LOCK)
        if held is None:
            raise UsageError(f"{self.out}: another process is writing it; wait for it, or choose another name")
        self._open.enter_context(held)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    def prepare(self, on_images: Callable[[int], None] = lambda count: None, *, fresh: bool = False) -> None:
        """Keep the rows of an earlier run that are valid, up to its last complete batch, and open the files.

        With `fresh`, all are removed. `on_images` is called with the number of rows just checked. Raises UsageError if
        there are rows of a run with another description or stamp, or if the files can't be written.
        """
        self._fresh = fresh
        with self._writing():
            if fresh or not self._is_same():
                if not fresh:
                    self._refuse_rows()
                self._remove_files()
                write_atomically(self.folder / ABOUT, self._key)
            self._remove_unfinished()
            lengths = [*self._valid(on_images)]
            self.done = len(lengths)
            if self.done < len(self._listed):
                self.done -= self.done % self.about.batch
            self.errors = {row: error for row, error in self.errors.items() if row < self.done}
            self._journal = self._opened(IMAGES, b"", sum(lengths[: self.done]))
            self._rows = [
                self._opened(f"{i}.npy", start, len(start) + self.done * width)
                for i, (start, width) in enumerate(zip(self._starts, self._widths, strict=True))
            ]

    @property
    def complete(self) -> bool:
        return self.done == len(self._listed)

    def append(self, rows: Sequence[Row], values: Sequence[np.ndarray]) -> None:
        """Append the next images, and their values of each layer, [len(rows), *shape] of `about.numpy_dtype`.

        Raises UsageError if they can't be written, for example because the disk is full, and UnreadableInputError if
        they aren't the images that were listed: the set has changed.
        """
        expected = self._listed[self.done : self.done + len(rows)]
        for row, image in zip(rows, expected, strict=True):
            if row[:2] != image:
                raise UnreadableInputError(
                    f"{shown(row.name)}: expected {shown(image[0])}, as listed before; the set was changed meanwhile"
                )
        flat = [array.reshape(len(rows), -1) for array in values]
        lines = [_line(row, [array[i].tobytes() for array in flat]) for i, row in enumerate(rows)]
        with self._writing():
            for file, array, start, width in zip(self._rows, flat, self._starts, self._widths, strict=True):
                _append(file, array.tobytes(), len(start) + self.done * width)
            _append(self._journal, b"".join(lines))
        self.errors |= {self.done + i: row.error for i, row in enumerate(rows) if row.error is not None}
        self.done += len(rows)

    def finish(self, on_bytes: Callable[[int], None] = lambda count: None) -> About:
        """Write the file from the complete rows, and remove the folder. Returns the file's description.

        An existing file stays until the new one is complete. `on_bytes` is called with the bytes of values just
        written, which a .npy file has already. Raises UsageError if it can't be written.
        """
        images = msgspec.structs.replace(self.about.images, unreadable=len(self.errors))
        about = msgspec.structs.replace(self.about, images=images)
        with self._writing(), self._no_unfinished():
            if self.out.suffix == ".npy":
                new = self.folder / "0.npy"
            else:
                new = self.folder / f"file{self.out.suffix}"
                for count in WRITERS[self.out.suffix](self._staged(about), new):
                    on_bytes(count)
            with new.open("rb+") as file:
                os.fsync(file.fileno())
            if self.out.suffix == ".npy":  # an array is never beside the text of another
                text = self.folder / "file.jsonl"
                write_atomically(text, npy.lines(self._staged(about)))
                self.out.unlink(missing_ok=True)
                text.replace(npy.text_file(self.out))
            new.replace(self.out)
            self.discard()
        return about

    def discard(self) -> None:
        """Remove the folder. What somebody else put into it stays."""
        with self._open.pop_all():  # locked until its files are removed
            self._remove_files()
            (self.folder / LOCK).unlink(missing_ok=True)
            try:
                self.folder.rmdir()
            except OSError:  # not empty
                return

    @property
    def size(self) -> int:
        """Bytes of the folder's files, before `prepare`."""
        return sum(path.lstat().st_size for path in self.folder.iterdir())

    @contextmanager
    def _no_unfinished(self) -> Iterator[None]:
        """If the block fails, remove the file that it began: it takes the room that the next run needs."""
        try:
            yield
        except BaseException:
            self._remove_unfinished()
            raise

    def _remove_unfinished(self) -> None:
        for suffix in WRITERS:
            (self.folder / f"file{suffix}").unlink(missing_ok=True)

    def _staged(self, about: About) -> Features:
        names, labels = zip(*self._listed, strict=True)
        return _Staged(self.folder, about, names, labels, self.errors)

    def _is_same(self) -> bool:
        if self._stamp is None:
            return False
        try:
            return read_limited(self.folder / ABOUT, len(self._key)) == self._key
        except (OSError, SpecError):
            return False

    def _refuse_rows(self) -> None:
        """Raise UsageError if there are rows of another run: hours of work, perhaps."""
        if not all(os.path.lexists(self.folder / name) for name in (IMAGES, "0.npy")):
            return
        try:
            with open_regular(self.folder / IMAGES, follow=False) as file:
                count = sum(1 for _ in iter(partial(file.readline, _LONGEST_LINE), b""))
        except (FileNotFoundError, SpecError):
            return
        if count and (problem := self._difference()):
            raise UsageError(
                f"{self.out}: an earlier run was interrupted after {count:,} images, and {problem}discard it with "
                "--fresh, or choose another name"
            )

    def _difference(self) -> str | None:
        """Return how an earlier run differs, and if possible how to continue it. None if nothing can continue it."""
        try:
            earlier = _ABOUT.decode(read_limited(self.folder / ABOUT, 2 * MAX_JSON_BYTES))
            if earlier["stamp"] is None:
                return None
            about = About.from_json(earlier["about"] or "")
        except (OSError, KeyError, ValueError, RecursionError, SpecError):
            return "its description is damaged or of another version; "
        options, facts = difference(about, self.about)
        if earlier["stamp"] != self._stamp and about.images.listing == self.about.images.listing:
            facts.append("the sizes or times of its images")
        differing = [*facts, *options]
        more = len(differing) - 3
        what = ", ".join(differing[:3]) + (f" and {more} more" if more > 0 else "") or "its preprocessing"
        can_continue = options and not facts
        return f"differs in {what}; {'continue it with its own options and images, ' if can_continue else ''}"

    def _remove_files(self) -> None:
        (self.folder / IMAGES).unlink(missing_ok=True)  # first: without it, there are no rows
        for path in self.folder.iterdir():
            if _OURS.fullmatch(path.name):
                path.unlink()

    def _opened(self, name: str, start: bytes, size: int) -> io.FileIO:
        """Open a file for appending after its first `size` bytes. A new one gets its `start`."""
        path = self.folder / name
        with open_own(path, "ab"):
            pass
        raw = self._open.enter_context(open_own(path, "r+b").detach())
        raw.truncate(size)
        raw.seek(0)
        _append(raw, start)
        raw.seek(size)
        return raw

    def _valid(self, on_images: Callable[[int], None]) -> Iterator[int]:
        """Yield the length of its line for each row up to the first that is missing, damaged or of another image."""
        try:
            with ExitStack() as stack:
                journal = stack.enter_context(open_regular(self.folder / IMAGES, follow=False))
                files = [
                    stack.enter_context(open_regular(self.folder / f"{i}.npy", follow=False))
                    for i in range(len(self._starts))
                ]
                if [file.read(len(start)) for file, start in zip(files, self._starts, strict=True)] != self._starts:
                    return
                for i, image in enumerate(self._listed):
                    line = journal.readline(_LONGEST_LINE)
                    values = [file.read(width) for file, width in zip(files, self._widths, strict=True)]
                    row = _row(line, values)
                    if row is None or row[:2] != image or [*map(len, values)] != self._widths:
                        return
                    if row.error is not None:
                        self.errors[i] = row.error
                    on_images(1)
                    yield len(line)
        except (FileNotFoundError, SpecError):
            return

    @contextmanager
    def _writing(self) -> Iterator[None]:
        kept = ""
        if self.done and self._stamp is not None:
            again = "the same command without --fresh" if self._fresh else "the same command"
            kept = f"; {again} continues after {self.done:,} images"
        with writing(self.out, f"choose another name or folder{kept}"):
            yield


class _Staged(Features):
    """The complete rows in a folder, as a writer of a file reads them."""

    def _array(self, layer: AboutLayer) -> np.ndarray:
        return np.concatenate([*self._blocks(layer, len(self))])

    def _blocks(self, layer: AboutLayer, rows: int) -> Iterator[np.ndarray]:
        number, dtype = self.about.layers.index(layer), self.about.numpy_dtype
        with open_regular(self.path / f"{number}.npy", follow=False) as file:
            file.seek(len(header(dtype, (len(self), *layer.shape))))
            for begin in range(0, len(self), rows):
                count = min(rows, len(self) - begin)
                content = file.read(count * layer.size * dtype.itemsize)
                yield np.frombuffer(content, dtype).reshape(count, *layer.shape)


def _line(row: Row, values: Sequence[bytes]) -> bytes:
    """Return an image's line in IMAGES, given its bytes of each layer."""
    fields = _encode([*row])
    check = zlib.crc32(fields.encode())
    for part in values:
        check = zlib.crc32(part, check)
    return b"%s, %d]\n" % (fields[:-1].encode(), check)


def _row(line: bytes, values: Sequence[bytes]) -> Row | None:
    """Return the image of a line in IMAGES, or None if the line or the values are damaged."""
    try:
        *fields, _ = _LINE.decode(line)
    except (ValueError, RecursionError):
        return None
    row = Row(*fields)
    return row if _line(row, values) == line else None


def _append(file: io.FileIO, content: bytes, size: int | None = None) -> None:
    """Write after the file's first `size` bytes. Raises OSError if it has more or fewer: another program writes it."""
    if size is not None and os.fstat(file.fileno()).st_size != size:
        raise OSError(errno.EBUSY, "another program writes to its folder")
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
