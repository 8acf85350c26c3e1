"""Check that labels are in order of WordNet ids, and not in the devkit's or any other order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from alexnet_infer.datasets.devkit import Devkit, find_devkit
from alexnet_infer.datasets.ilsvrc import ILSVRC, identify
from alexnet_infer.doctor.finding import LISTED, PERMUTED, Finding
from alexnet_infer.doctor.images import Seen
from alexnet_infer.errors import BackendError, UnreadableInputError, printable
from alexnet_infer.manifest import ClassName

IDS = (490, 361, 171, 822, 297)
"""The ILSVRC2012_IDs of ILSVRC's first validation images, as in the devkit's ground truth."""
LABELS = (65, 970, 230, 809, 516)
"""Their labels: positions from 0 in order of WordNet ids."""
ENOUGH = 3
"""The number of right labels, of the first five, from which the order is taken to be right."""


def against_official(seen: Seen, known: str | None) -> Iterator[Finding]:
    """Compare the labels of ILSVRC's first validation images with the official ones. The devkit is not needed.

    If some of the five images are missing, the others are compared. A wrong label is always an error, but at least
    ENOUGH right ones are needed to call the order right.
    """
    if known != ILSVRC:
        return
    first = {f"ILSVRC2012_val_{i:08}.JPEG": i - 1 for i in range(1, len(LABELS) + 1)}
    pairs = sorted(
        {
            (first[name], label)
            for path, label in zip(seen.names, seen.labels, strict=True)
            if (name := _base(path)) in first
        }
    )
    if not pairs:
        return
    which = [i for i, _ in pairs]
    labels = [label for _, label in pairs]
    expected, by_id = [LABELS[i] for i in which], [IDS[i] - 1 for i in which]
    numbers = "" if which == [*range(len(LABELS))] else f" (images {', '.join(str(i + 1) for i in which)})"
    shown = f"the first are {', '.join(map(str, labels))}{numbers}"
    if labels == expected and len({*which}) >= ENOUGH:
        yield Finding(level="ok", title="labels are in order of WordNet ids", detail=shown)
    elif labels == expected:
        detail = f"{shown}, as in the official labels; at least {ENOUGH} of the first {len(LABELS)} images are needed"
        yield Finding(level="note", title="the order of the labels was not checked", detail=detail)
    elif labels == by_id:
        yield _devkits_order(f"{shown}; expected {', '.join(map(str, expected))}")
    else:
        detail = f"{shown}; expected {', '.join(map(str, expected))}"
        advice = f"Use the labels in the devkit. {PERMUTED}."
        yield Finding(level="error", title="not the official labels", detail=detail, advice=advice)


def _base(path: str) -> str:
    return Path(path).name


def _devkits_order(detail: str) -> Finding:
    advice = f"Labels are positions of WordNet ids in sorted order, not ILSVRC2012_ID - 1. {PERMUTED}."
    return Finding(level="error", title="labels are in the devkit's order", detail=detail, advice=advice)


def against_devkit(folder: Path, seen: Seen, classes: Sequence[ClassName]) -> Iterator[Finding]:
    """Compare the set's labels with those of the devkit beside it, if there is one."""
    path = find_devkit(folder)
    if path is None:
        return
    try:
        kit = Devkit(path)
        ids = np.array(kit.ids)
    except (UnreadableInputError, BackendError) as error:
        yield Finding(level="note", title="labels were not compared with the devkit", detail=printable(str(error)))
        return
    official = identify([c.wnid for c in kit.classes]) == ILSVRC
    true = np.array(list(kit.labels.values()))
    if official and ids[: len(LABELS)].tolist() == [label + 1 for label in LABELS]:
        detail = (
            f"it begins with {', '.join(map(str, ids[: len(LABELS)]))}; the official one begins with "
            f"{', '.join(map(str, IDS))}"
        )
        advice = f"It contains labels instead of ILSVRC2012_IDs. Use the devkit as published. {PERMUTED}."
        yield Finding(level="error", title="the ground truth is already mapped", detail=detail, advice=advice)
    if len({*true.tolist()}) > 1 and (ids - 1 == true).all():
        advice = f"The official one is in another order. Use the devkit as published. {PERMUTED}." if official else ""
        level = "error" if official else "note"
        yield Finding(level=level, title="the devkit is in order of WordNet ids", advice=advice)
    if [c.wnid for c in kit.classes] != [c.wnid for c in classes]:
        detail = f"{len(kit.classes):,} classes"
        yield Finding(level="note", title="the devkit beside the set has different classes", detail=detail)
        return
    row = {name: i for i, name in enumerate(kit.labels)}
    names = [_base(name) for name in seen.names]
    common = [i for i, name in enumerate(names) if name in row]
    if not common:
        detail = f"none of the {len(names):,} images has a name of the devkit's, such as {next(iter(row), 'none')}"
        yield Finding(level="note", title="labels were not compared with the devkit", detail=detail)
        return
    given, rows = np.array(seen.labels)[common], np.array([row[names[i]] for i in common])
    yield _compare(given, true[rows], ids[rows], [seen.names[i] for i in common], len(names))


def _compare(given: np.ndarray, true: np.ndarray, ids: np.ndarray, names: Sequence[str], total: int) -> Finding:
    """Compare the set's labels with the devkit's `true` labels and ILSVRC2012_IDs, for the same images.

    The set has `total` images. The others have no label in the devkit.
    """
    wrong = np.flatnonzero(given != true)
    rest = f"; {total - len(given):,} of the {total:,} images are not in the devkit" if len(given) < total else ""
    if not len(wrong) and rest:
        detail = f"{len(given):,} labels match{rest}"
        return Finding(level="note", title="not all labels were compared with the devkit", detail=detail)
    if not len(wrong):
        return Finding(level="ok", title="labels match the devkit", count=len(given))
    if (given == ids - 1).mean() >= 0.95:
        return _devkits_order(f"{len(wrong):,} of {len(given):,} labels are wrong: they are ILSVRC2012_ID - 1{rest}")
    pairs = {*zip(given.tolist(), true.tolist(), strict=True)}
    one_to_one = len(pairs) == len({*given.tolist()}) == len({*true.tolist()})
    permuted = one_to_one and len(given) >= 2 * len(pairs)  # with one image per class, any labels look renumbered
    detail = f"{len(wrong):,} of {len(given):,} labels are wrong"
    if permuted:
        detail += "; the classes are consistently renumbered"
    return Finding(
        level="error",
        title="labels are permuted" if permuted else "labels differ from the devkit's",
        detail=f"{detail}{rest}",
        advice=f"Labels are positions of WordNet ids in sorted order. {PERMUTED}.",
        count=len(wrong),
        examples=tuple(printable(f"{names[i]}: label {given[i]}, in the devkit {true[i]}") for i in wrong[:LISTED]),
    )
