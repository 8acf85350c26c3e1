"""From predictions on disk to a result. Shards from several machines give the same result as one machine."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from alexnet_infer.datasets import map_classes
from alexnet_infer.errors import shown
from alexnet_infer.evaluation.paper import deviations
from alexnet_infer.evaluation.predictions import ABOUT, About, ImageRow, Predictions, PredictionsError
from alexnet_infer.evaluation.result import Data, Evaluation, NetFacts, Protocol, Sample, evaluation
from alexnet_infer.evaluation.tally import Tally
from alexnet_infer.manifest import ClassName, check_same_classes
from alexnet_infer.metrics import mean_probabilities
from alexnet_infer.reading import Unreadable

Shards = Sequence[Predictions]
"""The predictions of one net, in consecutive parts of the images."""


def collect(folders: Sequence[Path]) -> list[Shards]:
    """Read the predictions in `folders`, which are caches. Nets are sorted by name.

    Raises PredictionsError if a folder has no predictions, if they belong to different evaluations, or if a part is
    missing or present twice. Raises UsageError if the nets have different classes.
    """
    nets: dict[str, dict[tuple[int, int], Predictions]] = defaultdict(dict)
    for folder in folders:
        paths = sorted(about.parent for about in folder.glob(f"*/{ABOUT}"))
        if not paths:
            raise PredictionsError(
                f"{folder}: no predictions; expected the --cache folder of alexnet-infer eval --shard"
            )
        for part in map(Predictions.open, paths):
            nets[part.about.subject][part.about.begin, part.about.end] = part
    ordered = [[parts[key] for key in sorted(parts)] for parts in nets.values()]
    ordered.sort(key=lambda shards: (shards[0].about.net["name"], shards[0].about.net["sha256"]))
    _check_backends(ordered)
    first = ordered[0][0].about
    for shards in ordered:
        about = shards[0].about
        if (about.data, about.views, about.batch) != (first.data, first.views, first.batch):
            raise PredictionsError(
                f"{shards[0].folder}: data, views or batch differ from those of {ordered[0][0].folder}; use a separate "
                "--cache for each evaluation"
            )
        _check_whole(shards)
        if _ranges(shards) != _ranges(ordered[0]):
            raise PredictionsError(
                f"{about.net['name']}: its shards cover other ranges of images than those of {first.net['name']}; "
                "expected the same N in --shard I/N for all nets"
            )
    _check_different(ordered)
    check_same_classes([s[0].about.net["wnids"] for s in ordered], display_names(ordered))
    return ordered


def _check_backends(nets: Sequence[Shards]) -> None:
    """Raise PredictionsError if the same net ran on two backends. It would count as two nets, or mix results."""
    ran: dict[str, str] = {}
    for about in (shards[0].about for shards in nets):
        backend = ran.setdefault(about.net["sha256"], about.net["backend"])
        if backend != about.net["backend"]:
            raise PredictionsError(
                f"{about.net['name']}: some predictions are from {shown(backend)}, some from "
                f"{shown(about.net['backend'])}; expected the same backend on all machines"
            )


def _check_different(nets: Sequence[Shards]) -> None:
    """Raise PredictionsError if the same net is present twice, for example after an update of alexnet-infer."""
    first: dict[str, Shards] = {}
    for shards in nets:
        twin = first.setdefault(shards[0].about.net["sha256"], shards)
        if twin is not shards:
            raise PredictionsError(
                f"{shards[0].about.net['name']}: {twin[0].folder} and {shards[0].folder} are both predictions of this "
                "net, from different versions of alexnet-infer; delete one of them"
            )


def _check_whole(shards: Shards) -> None:
    about, end = shards[0].about, 0
    for part in shards:
        if part.about.begin != end:
            raise PredictionsError(
                f"{about.net['name']}: images {min(end, part.about.begin)} to {max(end, part.about.begin) - 1} are "
                "missing or present twice; run the missing shard, and do not mix shards with different N in --shard I/N"
            )
        end = part.about.end
    if end != _count(shards):
        raise PredictionsError(
            f"{about.net['name']}: images {end} to {_count(shards) - 1} are missing; run the missing shard"
        )


def _ranges(shards: Shards) -> list[tuple[int, int]]:
    return [(part.about.begin, part.about.end) for part in shards]


def _count(shards: Shards) -> int:
    """The number of images of all shards."""
    data = shards[0].about.data
    return data["images"] if data["sample"] is None else data["sample"]


def assemble(nets: Sequence[Shards]) -> Evaluation:
    """Compute the result from complete predictions for the same images. Several nets are also averaged.

    Raises PredictionsError if the predictions are damaged or for different images.
    """
    about = nets[0][0].about
    classes = [ClassName(wnid=wnid, name=name) for wnid, name in about.data["classes"]]
    outputs = outputs_of(about.net)
    to_net = np.array(map_classes(classes, outputs))
    tallies, mean = [Tally(len(classes)) for _ in nets], Tally(len(classes))
    names: list[str] = []
    unread: list[ImageRow] = []
    for rows, probabilities in together(nets):
        names += [_last(row.name) for row in rows]
        unread += [row for row in rows if row.error is not None]
        scored = [*zip(tallies, probabilities, strict=True)]
        if len(nets) > 1:
            scored.append((mean, mean_probabilities(probabilities)))
        for tally, values in scored:
            _add(tally, rows, values, to_net)
    facts = dict(zip(display_names(nets), (shards[0].about.net for shards in nets), strict=True))
    data = _data(about, names, [classes[label].wnid for label in tallies[0].records["label"]], unread)
    sentences = deviations(
        wnids=[named.wnid for named in classes],
        images=data.images,
        views=about.views,
        nets={name: net["departures"] for name, net in facts.items()},
        unknown_classes=int((to_net < 0).sum()),
        sample_of=data.sample and data.sample.of,
    )
    return evaluation(
        data=data,
        protocol=Protocol(views=about.views, nets=len(nets), deviations=tuple(sentences)),
        classes=classes,
        guesses=outputs,
        nets=[
            (NetFacts(name=name, **{key: net[key] for key in ("sha256", "backend", "parameters")}), tally)
            for (name, net), tally in zip(facts.items(), tallies, strict=True)
        ],
        ensemble=mean if len(nets) > 1 else None,
    )


def _data(about: About, names: Sequence[str], wnids: Sequence[str], unread: Sequence[ImageRow]) -> Data:
    """Describe the images, given the file name and the class of each."""
    # Folders depend on the layout of the set, so they are left out unless several images have the same name.
    unique = len({*names}) == len(names)
    unreadable = [Unreadable(image=_last(row.name) if unique else row.name, reason=row.error or "") for row in unread]
    listing = sorted(f"{name}\t{wnid}\n" for name, wnid in zip(names, wnids, strict=True))
    return Data(
        name=about.data["name"],
        listing=hashlib.sha256("".join(listing).encode()).hexdigest(),
        images=len(names),
        classes=len(about.data["classes"]),
        sample=None if about.data["sample"] is None else Sample(images=len(names), of=about.data["images"]),
        unreadable=tuple(sorted(unreadable, key=lambda image: image.image)),
    )


def _last(name: str) -> str:
    return PurePosixPath(name).name


def together(nets: Sequence[Shards]) -> Iterator[tuple[list[ImageRow], list[np.ndarray]]]:
    """Yield the images in order, B at a time, with each net's probabilities float32 [B, classes].

    Raises PredictionsError if the predictions are damaged or for different images.
    """
    walks = [(chunk for part in shards for chunk in part.chunks()) for shards in nets]
    for chunks in zip(*walks, strict=True):
        if any(rows != chunks[0][0] for rows, _ in chunks):
            raise PredictionsError(
                f"{nets[0][0].folder}: its images differ from those in the other nets' predictions, or could be read "
                "in only one of the runs; remove the folder and run the evaluation again"
            )
        yield chunks[0][0], [values for _, values in chunks]


def display_names(nets: Sequence[Shards]) -> list[str]:
    """Return the names of the nets. A name that several nets share is followed by the first digits of the SHA-256."""
    facts = [shards[0].about.net for shards in nets]
    count = Counter(net["name"] for net in facts)
    return [net["name"] if count[net["name"]] == 1 else f"{net['name']} {net['sha256'][:8]}" for net in facts]


def outputs_of(net: Mapping[str, Any]) -> list[ClassName]:
    """Return the classes of a net from its entry in the predictions (`About.net`)."""
    return [ClassName(wnid=wnid, name=name) for wnid, name in zip(net["wnids"], net["names"], strict=True)]


def _add(tally: Tally, rows: Sequence[ImageRow], values: np.ndarray, to_net: np.ndarray) -> None:
    """Add images to the tally in their order: each run of readable images at once, the others one by one."""
    labels = np.array([row.label for row in rows])
    unreadable = [i for i, row in enumerate(rows) if row.error is not None]
    begin = 0
    for end in (*unreadable, len(rows)):
        if end > begin:
            tally.add(values[begin:end], labels[begin:end], to_net[labels[begin:end]])
        if end < len(rows):
            tally.add_unreadable(int(labels[end]))
        begin = end + 1
