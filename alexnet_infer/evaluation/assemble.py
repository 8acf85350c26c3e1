"""From predictions on disk to a result. What one machine computed and what several did comes out the same."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from alexnet_infer.artifact import ClassName
from alexnet_infer.datasets import map_classes
from alexnet_infer.errors import shown
from alexnet_infer.evaluation.paper import TestedNet, deviations
from alexnet_infer.evaluation.predictions import ABOUT, Predictions, PredictionsError, Row
from alexnet_infer.evaluation.result import Data, Evaluation, NetFacts, Protocol, Sample, Unreadable, evaluation
from alexnet_infer.evaluation.run import check_same_classes
from alexnet_infer.evaluation.statistics import Tally

Shards = Sequence[Predictions]
"""The predictions of one net, by consecutive parts of the images."""


def collect(folders: Sequence[Path]) -> list[Shards]:
    """The predictions in `folders` (caches), each net's shards in order, the nets in order of name.

    Raises PredictionsError when there are none, when they are of different evaluations, or when a part is missing.
    """
    nets: dict[str, dict[tuple[int, int], Predictions]] = defaultdict(dict)
    for folder in folders:
        found = sorted(about.parent for about in folder.glob(f"*/{ABOUT}"))
        if not found:
            raise PredictionsError(f"{folder}: no predictions here; expected the --cache of alexnet-infer eval --shard")
        for one in map(Predictions.open, found):
            nets[one.about.subject][one.about.begin, one.about.end] = one
    ordered = [[parts[key] for key in sorted(parts)] for parts in nets.values()]
    ordered.sort(key=lambda shards: (shards[0].about.net["name"], shards[0].about.net["sha256"]))
    _check_different(ordered)
    first = ordered[0][0].about
    for shards in ordered:
        about = shards[0].about
        if (about.data, about.views, about.batch) != (first.data, first.views, first.batch):
            raise PredictionsError(
                f"{shards[0].folder}: of other data, views or batch than {ordered[0][0].folder}; give each evaluation "
                "a --cache of its own"
            )
        _check_whole(shards)
        if _ranges(shards) != _ranges(ordered[0]):
            raise PredictionsError(
                f"{about.net['name']}: computed in {len(shards)} parts, {first.net['name']} in {len(ordered[0])}; "
                "expected all nets in the same --shard I/N"
            )
    check_same_classes([s[0].about.net["wnids"] for s in ordered], display_names(ordered))
    return ordered


def _check_different(nets: Sequence[Shards]) -> None:
    """Raises PredictionsError when one net ran in two ways: those would be parts of one, or two of an ensemble."""
    ran: dict[str, str] = {}
    for about in (shards[0].about for shards in nets):
        backend = ran.setdefault(about.net["sha256"], about.net["backend"])
        if backend != about.net["backend"]:
            raise PredictionsError(
                f"{about.net['name']}: some predictions are by {shown(backend)}, some by "
                f"{shown(about.net['backend'])}; expected the same on all machines"
            )


def _check_whole(shards: Shards) -> None:
    about, end = shards[0].about, 0
    for one in shards:
        if one.about.begin != end:
            raise PredictionsError(
                f"{about.net['name']}: images {min(end, one.about.begin)} to {max(end, one.about.begin) - 1} are "
                "missing, or there twice; run the missing shard, and keep shards of another --shard I/N apart"
            )
        end = one.about.end
    if end != _count(shards):
        raise PredictionsError(f"{about.net['name']}: images from {end} on are missing of {_count(shards)}")


def _ranges(shards: Shards) -> list[tuple[int, int]]:
    return [(one.about.begin, one.about.end) for one in shards]


def _count(shards: Shards) -> int:
    """Images of the whole evaluation."""
    data = shards[0].about.data
    return data["images"] if data["sample"] is None else data["sample"]


def assemble(nets: Sequence[Shards]) -> Evaluation:
    """The result of complete predictions of the same images, and of their mean where there are several nets."""
    about = nets[0][0].about
    classes = [ClassName(wnid=wnid, name=name) for wnid, name in about.data["classes"]]
    outputs = outputs_of(about.net)
    to_net = np.array(map_classes(classes, outputs))
    tallies, mean = [Tally(len(classes)) for _ in nets], Tally(len(classes))
    unread: list[Row] = []
    names, listing = set(), []
    for rows, probabilities in together(nets):
        labels = np.array([row.label for row in rows])
        listing += [f"{_last(row.name)}\t{classes[row.label].wnid}\n" for row in rows]
        names.update(_last(row.name) for row in rows)
        unread += [row for row in rows if row.error is not None]
        scored = [*zip(tallies, probabilities, strict=True)]
        if len(nets) > 1:
            scored.append((mean, mean_of(probabilities)))
        for tally, values in scored:
            _add(tally, rows, values, labels, to_net)
    # A folder says nothing about the set, only how it is kept; but it is needed where several have an 0001.jpg.
    short = len(names) == len(listing)
    unreadable = [Unreadable(image=_last(row.name) if short else row.name, reason=row.error or "") for row in unread]
    facts = [{**shards[0].about.net, "name": name} for shards, name in zip(nets, display_names(nets), strict=True)]
    return evaluation(
        data=Data(
            name=about.data["name"],
            listing=hashlib.sha256("".join(sorted(listing)).encode()).hexdigest(),
            images=len(listing),
            classes=len(classes),
            sample=None if about.data["sample"] is None else Sample(images=len(listing), of=about.data["images"]),
            unreadable=tuple(sorted(unreadable, key=lambda one: one.image)),
        ),
        protocol=Protocol(
            views=about.views, nets=len(nets), deviations=_deviations(nets, to_net, classes, len(listing))
        ),
        classes=classes,
        guesses=outputs,
        nets=[
            (NetFacts(**{key: net[key] for key in ("name", "sha256", "backend", "parameters")}), tally)
            for net, tally in zip(facts, tallies, strict=True)
        ],
        ensemble=mean if len(nets) > 1 else None,
    )


def together(nets: Sequence[Shards]) -> Iterator[tuple[list[Row], list[np.ndarray]]]:
    """The images in order, some at a time, with every net's probabilities float32 [B, classes] of them."""
    walks = [(chunk for one in shards for chunk in one.chunks()) for shards in nets]
    for chunks in zip(*walks, strict=True):
        if any(rows != chunks[0][0] for rows, _ in chunks):
            raise PredictionsError(
                f"{nets[0][0].folder}: not of the same images as the other nets' predictions, or some could be read "
                "only once; remove it, and run the evaluation again"
            )
        yield chunks[0][0], [values for _, values in chunks]


def display_names(nets: Sequence[Shards]) -> list[str]:
    """What the nets are called: their names and, where several have the same, the first digits of the SHA-256."""
    facts = [shards[0].about.net for shards in nets]
    count = Counter(net["name"] for net in facts)
    return [net["name"] if count[net["name"]] == 1 else f"{net['name']} {net['sha256'][:8]}" for net in facts]


def _last(name: str) -> str:
    return PurePosixPath(name).name


def mean_of(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """The equal-weight mean of several nets' probabilities [B, classes], as float32."""
    return np.mean(probabilities, axis=0, dtype=np.float64).astype(np.float32)


def outputs_of(net: Mapping[str, Any]) -> list[ClassName]:
    """The classes of a net, as predictions say them (`About.net`)."""
    return [ClassName(wnid=wnid, name=name) for wnid, name in zip(net["wnids"], net["names"], strict=True)]


def _deviations(
    nets: Sequence[Shards], to_net: np.ndarray, classes: Sequence[ClassName], images: int
) -> tuple[str, ...]:
    about = nets[0][0].about
    tested = [
        TestedNet(
            name=name,
            departures=tuple(shards[0].about.net["departures"]),
            unknown_classes=int((to_net < 0).sum()),
        )
        for shards, name in zip(nets, display_names(nets), strict=True)
    ]
    sample_of = None if about.data["sample"] is None else about.data["images"]
    wnids = [one.wnid for one in classes]
    return deviations(wnids=wnids, images=images, views=about.views, nets=tested, sample_of=sample_of)


def _add(tally: Tally, rows: Sequence[Row], values: np.ndarray, labels: np.ndarray, to_net: np.ndarray) -> None:
    """Adds images in their order; those that couldn't be read stand between runs of the others."""
    bad = [i for i, row in enumerate(rows) if row.error is not None]
    begin = 0
    for end in (*bad, len(rows)):
        if end > begin:
            tally.add(values[begin:end], labels[begin:end], to_net[labels[begin:end]])
        if end < len(rows):
            tally.add_unreadable(int(labels[end]))
        begin = end + 1
