"""Check a labelled image set for problems that would make an evaluation wrong."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from alexnet_infer.datasets import LabelledImages, Split, detected, open_images
from alexnet_infer.datasets.devkit import MAX_BYTES, NAMES
from alexnet_infer.datasets.ilsvrc import ARCHIVES, DEVKIT, ILSVRC, identify
from alexnet_infer.doctor.finding import LISTED, PERMUTED, Finding, Report
from alexnet_infer.doctor.images import (
    duplicates,
    look_at_all,
    odd_images,
    read,
    unlabelled,
    unreadable_images,
    until_refused,
)
from alexnet_infer.doctor.order import IDS, against_devkit, against_official
from alexnet_infer.errors import UnreadableInputError, printable
from alexnet_infer.manifest import ClassName
from alexnet_infer.progress import counting

IMAGES: dict[Split, int] = {"validation": 50_000, "train": 1_281_167}
"""The number of images in each split of ILSVRC-2012."""


def check(
    root: Path,
    split: Split = "validation",
    layout: str | None = None,
    *,
    numbered: Sequence[ClassName] = (),
    hashing: bool = True,
) -> Report:
    """Check the labelled images in `root` and report all findings. The other arguments are those of `open_images`.

    Every image is read and decoded once, on all cores. With `hashing`, the official archives are read once more for
    their MD5.

    A set that is incomplete or inconsistent is reported as a finding, and its images are still checked. Raises
    UnreadableInputError if there is no set, and the UsageError and BackendError of `open_images`.
    """
    data, classes, problems, known = None, (), [], None
    try:
        data = open_images(root, split, layout, numbered=numbered)
        classes, layout = data.classes, data.layout
        known = identify([c.wnid for c in classes])
        data.labels  # noqa: B018 (a cached property: this reads the labels)
    except UnreadableInputError as error:
        if data is None and not (layout := detected(root, split, layout)):
            raise
        problems.append(str(error))
    if data is not None:
        examples, total = data.examples(on_error="yield"), len(data)
    else:
        images = unlabelled(root, split)
        examples, total = map(read, images), len(images)
    seen = look_at_all(until_refused(examples, problems), total)
    sound = data if not problems else None
    folder = root if root.is_dir() else root.parent
    findings = [_refusal(layout, problem) for problem in dict.fromkeys(problems)]
    if sound is not None:
        findings += [*_contents(sound, split, known), *_sizes(sound, split, known)]
    findings += _archives(folder, split, hashing, "refused" if sound is None else known)
    findings += [unreadable_images(seen, total), *odd_images(seen)]
    if sound is not None:
        findings += [*_missing(seen.names, known), *duplicates(seen, classes)]
        if split == "validation":
            findings += [*against_official(seen, known), *against_devkit(folder, seen, classes)]
    return Report(
        root=root,
        split=split,
        layout=layout,
        images=len(seen.names),
        readable=len(seen.names) - len(seen.unreadable),
        findings=tuple(findings),
        data=sound,
    )


def _refusal(layout: str, problem: str) -> Finding:
    advice = "Fix this first. Until then no evaluation can run, and the labels can't be checked."
    if layout in ("tar", "flat") and "ground_truth" in problem:
        first = ", ".join(map(str, IDS))
        advice += f" The official ground truth has 50,000 numbers from 1 to 1000 and begins with {first}."
    title = "the set is incomplete or inconsistent"
    return Finding(level="error", title=title, detail=printable(problem), advice=advice)


# The set as a whole.


def _contents(data: LabelledImages, split: Split, known: str | None) -> Iterator[Finding]:
    expected = f"{ILSVRC} has {IMAGES[split]:,} images in 1,000 classes"
    have = f"{len(data):,} images in {len(data.classes):,} classes"
    yield Finding(level="ok", title=f"layout {data.layout}", detail=have, count=len(data))
    for note in data.notes:
        yield Finding(level="warning", title="before you trust a figure", detail=printable(note))
    if all(c.wnid.isdecimal() for c in data.classes):
        yield Finding(
            level="warning",
            title="class folders are numbered",
            detail="nothing in the set says what the numbers stand for; here they are names of classes",
            advice="eval takes them as positions in the net's classes. If they stand for others, add classes.tsv "
            "beside them: one line per class, in order of WordNet ids, with the id, a tab and the name.",
        )
    if known != ILSVRC:
        prefix = f"the classes are those of {known}; " if known else ""
        advice = "Its error rates can't be compared with those published for ILSVRC."
        yield Finding(level="note", title=f"a set other than {ILSVRC}", detail=f"{prefix}{expected}", advice=advice)
    elif len(data) != IMAGES[split]:
        problem = "images are missing" if len(data) < IMAGES[split] else "too many images"
        advice = "Its error rates can't be compared with those on the complete set."
        yield Finding(level="warning", title=f"{ILSVRC}: {problem}", detail=f"{have}; {expected}", advice=advice)


def _sizes(data: LabelledImages, split: Split, known: str | None) -> Iterator[Finding]:
    counts = np.bincount(data.labels, minlength=len(data.classes))
    low, high = int(counts.min()), int(counts.max())
    detail = f"{low:,} to {high:,}"
    if known != ILSVRC or split != "validation":
        yield Finding(level="note", title="images per class", detail=detail)  # nothing to compare them with
    elif (low, high) != (50, 50):
        complete = len(data) == IMAGES[split]
        off = np.flatnonzero(counts != 50)
        yield Finding(
            level="error" if complete else "warning",
            title="classes without exactly 50 images",
            detail=f"{detail}; {ILSVRC} has 50 in each",
            advice=f"The labels are not the official ones. Use those in the devkit. {PERMUTED}." if complete else "",
            count=len(off),
            examples=_class_examples(data.classes, off, counts),
        )
    else:
        yield Finding(level="ok", title="images per class", detail=detail)
    if low == 0:
        empty = np.flatnonzero(counts == 0)
        advice = "An empty class keeps its position among the labels. If it should have images, they are missing."
        examples = _class_examples(data.classes, empty, counts)
        yield Finding(
            level="warning", title="classes without images", advice=advice, count=len(empty), examples=examples
        )


def _class_examples(classes: Sequence[ClassName], labels: np.ndarray, counts: np.ndarray) -> tuple[str, ...]:
    return tuple(f"{classes[i].wnid} {classes[i].short}: {counts[i]:,} images" for i in labels[:LISTED])


_NUMBERED = re.compile(r"ILSVRC2012_val_([0-9]{8})\.JPEG")


def _missing(names: Sequence[str], known: str | None) -> Iterator[Finding]:
    """Gaps in the numbers in the validation images' names."""
    matches = [_NUMBERED.fullmatch(Path(name).name) for name in names]
    if not matches or not all(matches):
        return
    numbers = {int(match[1]) for match in matches}
    last = IMAGES["validation"] if known == ILSVRC else max(numbers)
    if count := last - sum(1 <= i <= last for i in numbers):
        missing = (f"ILSVRC2012_val_{i:08}.JPEG" for i in range(1, last + 1) if i not in numbers)
        yield Finding(
            level="error" if known == ILSVRC else "warning",
            title="missing images",
            detail=f"there are gaps in the image numbers 1 to {last:,}",
            advice="Unpack the archive again. Missing images must be counted as wrong.",
            count=count,
            examples=tuple(islice(missing, LISTED)),
        )


# Official archives.


def _archives(folder: Path, split: Split, hashing: bool, known: str | None) -> Iterator[Finding]:
    """`known` is the set's name, "refused" if the set can't be opened, or None for an unknown set."""
    for name, (size, md5) in {**ARCHIVES[split], NAMES[0]: DEVKIT}.items():
        path = folder / name
        try:
            if path.is_file():
                yield _archive(path, size, md5, hashing, known)
        except OSError as error:
            yield Finding(level="error", title=name, detail=f"can't be read ({error.strerror})")


def _archive(path: Path, size: int | None, md5: str, hashing: bool, known: str | None) -> Finding:
    foreign = "note" if known not in (ILSVRC, "refused") else None  # a set other than ILSVRC has its own archives
    actual, advice = path.stat().st_size, "Download it again from https://image-net.org."
    if (size is not None and actual != size) or actual > (size or MAX_BYTES):
        official = f"{size:,}" if size else "2.6 million"
        detail = f"{actual:,} bytes; the official one has {official}"
        return Finding(
            level=foreign or ("error" if known == "refused" else "warning"),
            title=f"{path.name} is not the official archive",
            detail=detail,
            advice="" if foreign else advice,
        )
    same_size = f"{actual:,} bytes" + (" as published" if size else "")
    if not hashing:
        return Finding(level="note", title=path.name, detail=f"{same_size}; its MD5 was not computed (--no-hash)")
    if (digest := _md5(path)) != md5:
        detail = f"{same_size}, MD5 {digest}; the official one has {md5}"
        title = f"{path.name} is not the official archive"
        return Finding(level=foreign or "error", title=title, detail=detail, advice="" if foreign else advice)
    return Finding(level="ok", title=path.name, detail=f"{same_size}, MD5 as published")


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file, counting(f"hashing {path.name}", path.stat().st_size >> 20, "MiB") as advance:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            advance(1)
    return digest.hexdigest()
