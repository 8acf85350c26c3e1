"""Create a packed set (`train.packed`) from a labelled data set, by decoding every image to a square once.

Each shard covers a fixed range of the source's images; its file has those that could be decoded. The file is written to
`.parts` (`train.workfolder`), synced and renamed into place. Only then is its description written to `.parts`: labels,
hash and exact sums (`train.parts`). So if a run ends early, for whatever reason, the next one skips the shards that
have a description and makes the others. Because all sums are integers, the files of the finished set are the same, byte
for byte, as those of an uninterrupted run.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from alexnet_infer.datasets import Example, Split
from alexnet_infer.errors import UnreadableInputError, UsageError, shown
from alexnet_infer.files import write_atomically
from alexnet_infer.reading import Unreadable
from alexnet_infer.version import __version__
from train.display import Display
from train.packed import (
    FORMAT,
    MANIFEST,
    MAX_MANIFEST,
    MEAN,
    SPLITS,
    PackedSet,
    is_packed,
    labels_name,
    open_packed,
    shard_name,
)
from train.packed_manifest import RESAMPLE, VERSION
from train.parts import Part, decoded, load, open_splits, save
from train.selection import Images, Selection
from train.workfolder import PARTS, claimed, clean_up

SHARD_BYTES = 2**30
"""Maximum size of a shard. A shard has at least one image, even if that is larger."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What to pack, and where to write it. Raises UsageError on values out of range."""

    source: Path
    """A data set that `LabelledImages` reads."""
    validation: Path | None = None
    """Another source for the validation split; None if it is in `source`."""
    out: Path
    """Folder of the packed set: new, empty, or from an earlier run of the same job."""
    size: int
    """S: side of the squares in pixels."""
    selection: Selection = field(default_factory=Selection)
    """The part of the data set to pack."""
    workers: int | None = None
    """Number of threads that decode; None for one per core."""

    def __post_init__(self) -> None:
        workers = 1 if self.workers is None else self.workers
        for option, value, high in (("--image-size", self.size, 4096), ("--workers", workers, 1024)):
            if type(value) is not int or not 1 <= value <= high:
                raise UsageError(f"{option} {shown(value)}: expected a whole number from 1 to {high}")

    @property
    def per_shard(self) -> int:
        """Number of images of the source per shard."""
        return max(1, SHARD_BYTES // (3 * self.size**2))


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A finished packed set."""

    packed: PackedSet
    already: bool
    """Whether the set was complete before, so that nothing was written."""

    @property
    def unreadable(self) -> dict[Split, tuple[Unreadable, ...]]:
        """The images that were left out."""
        return {split: self.packed.unreadable(split) for split in SPLITS}

    @property
    def summary(self) -> str:
        """One line of text: folder, images and size."""
        packed = self.packed
        counts = " + ".join(f"{packed.images(split)} {split}" for split in SPLITS)
        size = packed.bytes + (packed.root / MANIFEST).stat().st_size
        text = f"{packed.root}: {counts} images of {packed.size} x {packed.size}, {size / 1e9:.3g} GB"
        if left_out := sum(map(len, self.unreadable.values())):
            text += f"; {left_out} unreadable, left out"
        return f"{text}; already complete" if self.already else text


def prepare(job: Preparation, display: Display) -> Prepared:
    """Create the packed set, or continue an earlier run of the same job.

    If the run is interrupted or the disk is full, finished shards are kept.

    Images that can't be read or decoded are left out of both splits and listed in the manifest. Those of the validation
    split count as wrong when the trainer measures an error. A missing or invalid label is an error.

    Raises:

    - UsageError if the folder contains something else, such as the set of another source, or can't be written, or if
      the selection does not fit the data set;
    - UnreadableInputError if a source can't be read, if no image of a split can be decoded, or if the splits have
      different classes;
    - PackedSetError if the folder contains a damaged packed set.
    """
    sources = job.selection.of(open_splits(job.source, job.validation))
    already = is_packed(job.out)
    if not already:
        total = sum(map(len, sources.values())) * 3 * job.size**2
        settings = _settings(job, sources)
        with _writing(job), claimed(job.out, settings, total), ThreadPoolExecutor(1) as thread:
            maker = _Maker(job, thread)
            for split, examples in sources.items():
                with display.counting(f"packing the {split} split", len(examples)) as advance:
                    maker.pack(split, examples, advance)
            maker.finish(sources)
    packed = _opened(job, sources)
    clean_up(job.out)
    return Prepared(packed=packed, already=already)


@contextmanager
def _writing(job: Preparation) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f" ({shown(error.filename)})" if error.filename else ""
        raise UsageError(
            f"--out {job.out}: {error.strerror or error}{where}; finished shards are kept: solve the problem, then "
            "run the same command again to continue"
        ) from None


def _settings(job: Preparation, sources: Mapping[Split, Images]) -> dict[str, Any]:
    """Return the settings that all parts of a set must have in common, by their names for messages."""
    return {
        "version": VERSION,
        "image size": job.size,
        **{f"number of {split} images": len(examples) for split, examples in sources.items()},
        "list of classes": [[c.wnid, c.name] for c in sources["train"].classes],
        **{f"listing (names, sizes, labels) of {split} images": images.listing for split, images in sources.items()},
        "number of images per shard": job.per_shard,
        "Pillow": PIL.__version__,  # another version may decode or rescale to other values
    }


class _Maker:
    """Makes the files of a set, split by split. Incomplete files are in `.parts`."""

    def __init__(self, job: Preparation, thread: ThreadPoolExecutor) -> None:
        self.job, self.thread = job, thread
        self.out, self.parts, self.size = job.out, job.out / PARTS, job.size
        self.totals: dict[Split, Part] = {}
        self.shards: dict[Split, list[dict[str, Any]]] = {}
        self.completing: Future[None] | None = None

    def pack(self, split: Split, examples: Images, advance: Callable[[int], None]) -> None:
        """Make the shards of a split that are not finished yet."""
        total = self.totals[split] = Part.empty(self.size)
        shards = self.shards[split] = []
        step, count, stream = self.job.per_shard, len(examples), None
        for number, start in enumerate(range(0, count, step)):
            length, name = min(step, count - start), shard_name(split, number)
            if finished := self._finished(name, length):
                stream = None
                advance(length)
            else:
                stream = stream or examples.examples(start, on_error="yield")
                finished = self._make(name, stream, length, advance)
            part, sha256 = finished
            total.add(part)
            shards.append({"file": name, "images": len(part.labels), "sha256": sha256})
        total.check(examples)

    def _finished(self, name: str, length: int) -> tuple[Part, str] | None:
        """Return the part and the hash of a shard that an earlier run finished; None if there is none."""
        described, shard = load(self.parts / f"{name}.npz", self.size), self.out / name
        if described is None or described[0].seen != length or not shard.is_file():
            return None
        return described if shard.stat().st_size == len(described[0].labels) * 3 * self.size**2 else None

    def _make(
        self, name: str, examples: Iterator[Example], length: int, advance: Callable[[int], None]
    ) -> tuple[Part, str]:
        total, digest, temporary = Part.empty(self.size), hashlib.sha256(), self.parts / name
        if os.path.lexists(temporary):
            temporary.unlink()  # a killed run left it
        with _removed_on_failure(temporary):
            with temporary.open("xb") as file:
                for squares, part in decoded(examples, length, self.size, self.job.workers):
                    file.write(squares)
                    digest.update(squares)
                    total.add(part)
                    advance(part.seen)
            self._wait()
            self.completing = self.thread.submit(self._complete, name, total, digest.hexdigest())
        return total, digest.hexdigest()

    def _complete(self, name: str, part: Part, sha256: str) -> None:
        """Sync, rename and describe a shard. Runs in its own thread, because syncing takes seconds."""
        temporary = self.parts / name
        with _removed_on_failure(temporary):
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(self.out / name)
        save(self.parts / f"{name}.npz", part, sha256)

    def _wait(self) -> None:
        """Wait until the last shard is complete. Raises the error that it failed with."""
        if self.completing:
            self.completing.result()

    def finish(self, sources: Mapping[Split, Images]) -> None:
        """Write the labels, the mean and, last of all, the manifest."""
        self._wait()
        sums = self.totals["train"].sums
        manifest = {
            "format": FORMAT,  # first, so that the start of a damaged file is enough to recognise it
            "version": VERSION,
            "size": self.size,
            "resample": RESAMPLE,
            "classes": [{"wnid": c.wnid, "name": c.name} for c in sources["train"].classes],
            "splits": {split: self._split(split, sources[split].listing) for split in SPLITS},
            "mean": self._array(MEAN, sums.mean.astype("<f4")),
            "covariance": sums.covariance.tolist(),
            "software": {"alexnet-infer": __version__, "numpy": np.__version__, "Pillow": PIL.__version__},
        }
        text = json.dumps(manifest, indent=1).encode()
        if len(text) > MAX_MANIFEST:
            unreadable = sum(len(total.unreadable) for total in self.totals.values())
            raise UnreadableInputError(
                f"{self.job.source}: {unreadable:,} images can't be read, too many to list; repair the data set"
            )
        self._publish(MANIFEST, text)

    def _split(self, split: Split, listing: str) -> dict[str, Any]:
        total = self.totals[split]
        return {
            "listing": listing,
            "images": len(total.labels),
            "shards": self.shards[split],
            "labels": self._array(labels_name(split), np.array(total.labels, "<i4")),
            "unreadable": [{"name": item.image, "reason": item.reason} for item in total.unreadable],
        }

    def _array(self, name: str, array: np.ndarray) -> dict[str, str]:
        data = io.BytesIO()
        np.save(data, array, allow_pickle=False)
        self._publish(name, data.getvalue())
        return {"file": name, "sha256": hashlib.sha256(data.getvalue()).hexdigest()}

    def _publish(self, name: str, data: bytes) -> None:
        """Write a file by way of `.parts`, so that a killed run leaves no stray file in the folder."""
        write_atomically(self.parts / name, data)
        (self.parts / name).replace(self.out / name)


@contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _opened(job: Preparation, sources: Mapping[Split, Images]) -> PackedSet:
    """Open the finished set. Raises UsageError if it was not made from these sources."""
    packed = open_packed(job.out)
    same = packed.size == job.size and packed.classes == sources["train"].classes
    if not same or any(len(sources[s]) != packed.images(s) + len(packed.unreadable(s)) for s in SPLITS):
        raise UsageError(
            f"--out {job.out}: contains another packed set ({packed.size} x {packed.size}, {packed.images('train')} + "
            f"{packed.images('validation')} images, {len(packed.classes)} classes); choose another folder, or remove "
            "this one"
        )
    for split in SPLITS:
        if packed.listing(split) != sources[split].listing:
            raise UsageError(
                f"--out {job.out}: contains a packed set made from a different source than {sources[split].root} "
                f"(different names, sizes or labels of {split} images); choose another folder, or remove this one"
            )
    return packed
