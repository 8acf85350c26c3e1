"""`alexnet-infer data check`: what is wrong with a labelled image set, before hours are spent on it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from alexnet_infer.artifact import ClassName
from alexnet_infer.datasets import Example, LabelledImages, Split, map_classes
from alexnet_infer.decode import printable, read_square
from alexnet_infer.doctor.check import check
from alexnet_infer.doctor.finding import PERMUTED, Finding, Report
from alexnet_infer.errors import UnreadableInputError, UsageError
from alexnet_infer.predict import Net, load
from alexnet_infer.progress import counting

CLASSES, IMAGES = 40, 20
"""Classes that are tried, and images of each: 20 show which guess dominates, and a net reads all in seconds."""

JUDGED = 5
"""Fewer images of a class don't show it."""

DOMINANT = 0.3
"""Share of a class's images from which on a guess dominates it. Nets of the 2010s are right more often than that, and
guesses that have nothing to do with the class reach it almost never."""


def run(
    root: Path,
    *,
    layout: str | None,
    split: Split,
    as_json: bool,
    hashing: bool = True,
    model: Path | None = None,
    quick_test: bool = False,
) -> int:
    """Checks the set and prints what was found; returns the report's exit code. With `model`, or `quick_test` for the
    embedded net, a sample goes through that net, too.

    Raises the errors of `check` and, before anything is read, those of `load`.
    """
    net = load(model, views="center") if model is not None or quick_test else None
    report = check(root, split, layout, hashing=hashing)
    if net is not None and report.data is not None:
        report = replace(report, findings=(*report.findings, try_net(report.data, net)))
    if as_json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        _print(report)
    return report.exit_code


def _print(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}
    table = Table(title=Text(f"{printable(str(report.root))}, {report.split}"), title_justify="left", box=None)
    for heading in ("", "finding", "detail, and what to do"):
        table.add_column(heading)
    for one in report.findings:
        count = f"{one.count:,} " if one.count is not None and one.examples else ""
        table.add_row(Text(one.level, styles[one.level]), Text(count + one.title), Text("\n".join(_lines(one))))
    console = Console()
    console.print(table)
    levels = Counter(one.level for one in report.findings)
    worst = ", ".join(f"{levels[level]} {level}{'s' * (levels[level] != 1)}" for level in ("error", "warning"))
    console.print(f"\n{report.readable:,} of {report.images:,} images can be read; {worst}", highlight=False)


def _lines(finding: Finding) -> Iterator[str]:
    if finding.detail:
        yield finding.detail
    yield from finding.examples[:3]
    if (more := (finding.count or 0) - 3) > 0 and finding.examples:
        yield f"and {more:,} more (--json lists {'them' if len(finding.examples) == finding.count else 'the first'})"
    if finding.advice:
        yield finding.advice


# With a net.


def try_net(data: LabelledImages, net: Net) -> Finding:
    """What a net's guesses on a sample of the images say about their labels."""
    try:
        to_net = np.array(map_classes(data.classes, net.manifest.classes))
    except UsageError as error:
        return Finding(level="note", title="the net was not tried", detail=str(error))
    labels, guesses = _guesses(data, _sample(np.array(data.labels), to_net), net)
    return judge(labels, guesses, to_net, data.classes, net.manifest.classes)


def _sample(labels: np.ndarray, to_net: np.ndarray) -> list[int]:
    """Ascending positions of images of classes that the net knows, classes and images spread evenly over the set."""
    known = [label for label in np.unique(labels) if to_net[label] >= 0]
    chosen: list[int] = []
    for label in _spread(known, CLASSES):
        chosen += _spread(np.flatnonzero(labels == label).tolist(), IMAGES)
    return sorted(chosen)


def _spread(items: Sequence[int], count: int) -> list[int]:
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def _guesses(data: LabelledImages, positions: Sequence[int], net: Net) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and the net's first guesses among its own classes, int [N], of those images that can be read."""
    rescaling = net.manifest.preprocessing.rescaling

    def square(example: Example) -> np.ndarray | None:
        try:
            return read_square(example.data, name=example.name, rescaling=rescaling, apply_exif=False)
        except UnreadableInputError:  # a finding already
            return None

    labels, guesses, walk = [], [], data.at(positions, "yield")
    with ThreadPoolExecutor(os.cpu_count()) as pool, counting("trying a net", len(positions)) as advance:
        while examples := list(islice(walk, 32)):
            squares = list(pool.map(square, examples))
            readable = [(e.label, s) for e, s in zip(examples, squares, strict=True) if s is not None]
            if readable:
                labels += [label for label, _ in readable]
                guesses += net.probabilities([s for _, s in readable]).argmax(1).tolist()
            advance(len(examples))
    return np.array(labels, int), np.array(guesses, int)


def judge(
    labels: np.ndarray,
    guesses: np.ndarray,
    to_net: np.ndarray,
    classes: Sequence[ClassName],
    net_classes: Sequence[ClassName],
) -> Finding:
    """Whether labels int [N] fit a net's guesses int [N], `to_net` being the net's class of each label.

    Labels are permuted when accuracy is near chance, and yet most classes are dominated by a guess of their own: the
    net knows the images, but by other names. Near it without that, images and labels have nothing in common. Where only
    some classes are taken for another, and almost never for themselves, those may be swapped.
    """
    if len(labels) < IMAGES:
        return Finding(level="note", title="the net was not tried", detail=f"{len(labels)} images are too few")
    accuracy, chance = float((guesses == to_net[labels]).mean()), _chance(to_net[labels], guesses, len(net_classes))
    facts = f"{accuracy:.1%} of {len(labels)} images are guessed right; chance is {chance:.1%}"
    judged = [int(label) for label in np.unique(labels) if (labels == label).sum() >= JUDGED]
    taken = {label: one for label in judged if (one := _taken(guesses[labels == label], to_net[label]))}
    pairs = {label: one.guess for label, one in taken.items() if one.right <= one.images / 10}
    examples = {
        label: f"{classes[label].wnid} {classes[label].short}: {one.count} of {one.images} are taken for "
        f"{net_classes[one.guess].wnid} {net_classes[one.guess].short}"
        for label, one in taken.items()
    }
    if accuracy >= min(3 * chance, (1 + chance) / 2):
        if not pairs:
            return Finding(level="ok", title="labels fit the net's guesses", detail=facts)
        back = {int(to_net[label]): guess for label, guess in pairs.items()}
        swapped = any(back.get(guess) == to_net[label] for label, guess in pairs.items())
        return Finding(
            level="error" if swapped else "warning",
            title="classes look swapped" if swapped else "classes look like another",
            detail=facts,
            advice="Look at some of their images: either these are hard for the net, or their labels are wrong.",
            count=len(pairs),
            examples=tuple(examples[label] for label in pairs),
        )
    if 2 * len(taken) > len(judged) and 2 * len({one.guess for one in taken.values()}) > len(taken):
        return Finding(
            level="error",
            title="labels look permuted: classes that are mostly taken for one other each",
            detail=f"{facts}; {len(taken)} of {len(judged)} classes",
            advice=f"Labels are positions of WordNet ids in sorted order, not the devkit's numbers. {PERMUTED}.",
            count=len(taken),
            examples=tuple(examples.values()),
        )
    advice = "Either the net is of no use on such images, or labels and images have nothing to do with each other."
    return Finding(level="warning", title="labels don't fit the net's guesses", detail=facts, advice=advice)


def _chance(wanted: np.ndarray, guesses: np.ndarray, classes: int) -> float:
    """The share that would be right if labels had nothing to do with guesses, each as frequent as it is."""
    shares = [np.bincount(one, minlength=classes) / len(one) for one in (wanted, guesses)]
    return max(1 / classes, float(shares[0] @ shares[1]))


@dataclass(frozen=True)
class _Taken:
    """A class of which a net mostly makes another."""

    guess: int
    count: int
    right: int
    images: int


def _taken(guesses: np.ndarray, own: int) -> _Taken | None:
    """`guesses` about the images of one class; None when none dominates, or its own does."""
    guess, count = Counter(guesses.tolist()).most_common(1)[0]
    if guess == own or count < DOMINANT * len(guesses):
        return None
    return _Taken(guess, count, int((guesses == own).sum()), len(guesses))
