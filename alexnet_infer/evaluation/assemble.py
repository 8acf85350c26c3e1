"""From predictions on disk to a result. Shards from several machines give the same result as one machine."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from alexnet_infer.errors import UsageError, shown
from alexnet_infer.evaluation.paper import deviations
from alexnet_infer.evaluation.predictions import ABOUT, ROWS, About, AboutNet, ImageRow, Predictions, PredictionsError
from alexnet_infer.evaluation.result import Data, Evaluation, NetFacts, Protocol, Sample, evaluation
from alexnet_infer.evaluation.scoring import Scores, Scoring, Shards
from alexnet_infer.evaluation.tally import Tally
from alexnet_infer.manifest import check_same_classes
from alexnet_infer.reading import Unreadable


def collect(folders: Sequence[Path]) -> list[Shards]:
    """Read the predictions in `folders`, which are caches. Nets are sorted by name.

    Raises PredictionsError if a folder has no predictions, if they belong to different evaluations, or if a part is
    missing or present twice. Raises UsageError if the nets have different classes.
    """
    nets: dict[str, dict[tuple[int, int], Predictions]] = defaultdict(dict)
    for folder in folders:
        paths = sorted({file.parent for name in (ABOUT, ROWS) for file in folder.glob(f"*/{name}")})
        if not paths:
            raise PredictionsError(
                f"{folder}: no predictions; expected the --cache folder of alexnet-infer eval --shard"
            )
        for part in map(Predictions.open, paths):
            nets[part.about.subject][part.about.begin, part.about.end] = part
    ordered = [[parts[key] for key in sorted(parts)] for parts in nets.values()]
    ordered.sort(key=lambda shards: (shards[0].about.net.name, shards[0].about.net.identity))
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
                f"{about.net.name}: its shards cover other ranges of images than those of {first.net.name}; "
                "expected the same N in --shard I/N for all nets"
            )
    _check_different(ordered)
    check_same_classes([s[0].about.net.wnids for s in ordered], display_names(ordered))
    return ordered


def _check_backends(nets: Sequence[Shards]) -> None:
    """Raise PredictionsError if the same net ran on two backends. It would count as two nets, or mix results."""
    ran: dict[str, str] = {}
    for about in (shards[0].about for shards in nets):
        backend = ran.setdefault(about.net.identity, about.net.backend)
        if backend != about.net.backend:
            raise PredictionsError(
                f"{about.net.name}: some predictions are from {shown(backend)}, some from "
                f"{shown(about.net.backend)}; expected the same backend on all machines"
            )


def _check_different(nets: Sequence[Shards]) -> None:
    """Raise PredictionsError if the same net is present twice, for example after an update of alexnet-infer."""
    first: dict[str, Shards] = {}
    for shards in nets:
        twin = first.setdefault(shards[0].about.net.identity, shards)
        if twin is not shards:
            raise PredictionsError(
                f"{shards[0].about.net.name}: {twin[0].folder} and {shards[0].folder} are both predictions of this "
                "net, from different versions of alexnet-infer; delete one of them"
            )


def _check_whole(shards: Shards) -> None:
    about, end = shards[0].about, 0
    for part in shards:
        if part.about.begin != end:
            raise PredictionsError(
                f"{about.net.name}: images {min(end, part.about.begin)} to {max(end, part.about.begin) - 1} are "
                "missing or present twice; run the missing shard, and do not mix shards with different N in --shard I/N"
            )
        end = part.about.end
    if end != about.data.count:
        raise PredictionsError(
            f"{about.net.name}: images {end} to {about.data.count - 1} are missing; run the missing shard"
        )


def _ranges(shards: Shards) -> list[tuple[int, int]]:
    return [(part.about.begin, part.about.end) for part in shards]


def assemble(nets: Sequence[Shards], scoring: Scoring | None = None) -> Evaluation:
    """Compute the result from complete predictions for the same images. Several nets are also averaged.

    Raises the errors of `Scores`.
    """
    return assembled(Scores(nets, scoring))[0]


def assembled(scores: Scores) -> tuple[Evaluation, Tally]:
    """Return the result, and the headline's tally: the mean's, or the only net's. Raises the errors of `Scores`."""
    nets, classes = scores.nets, scores.classes
    tallies, mean = [Tally(len(classes)) for _ in nets], Tally(len(classes))
    names: list[str] = []
    unread: list[ImageRow] = []
    lost = 0
    for chunk in scores.chunks():
        names += [_last(row.name) for row in chunk.rows]
        unread += [row for row in chunk.rows if row.error is not None]
        lost += int((chunk.right < 0).all(1).sum())
        scored = [*zip(tallies, chunk.probabilities, strict=True)]
        if len(nets) > 1:
            scored.append((mean, chunk.mean))
        for tally, values in scored:
            _add(tally, chunk.rows, values, chunk.right)
    if not names:
        raise UsageError(f"--labels {scores.scoring.labels}: no image has a right class; expected one or more")
    facts = dict(zip(display_names(nets), (shards[0].about.net for shards in nets), strict=True))
    described = _data(scores.about, names, [classes[label].wnid for label in tallies[0].records["label"]], unread)
    sentences = deviations(
        wnids=[named.wnid for named in classes],
        images=scores.about.data.count,
        views=scores.about.views,
        nets={name: net.deviations for name, net in facts.items()},
        sample_of=described.sample and described.sample.of,
        scored=how_scored(scores),
    )
    headline = mean if len(nets) > 1 else tallies[0]
    result = evaluation(
        data=described,
        protocol=Protocol(
            views=scores.about.views,
            nets=len(nets),
            classes=scores.scoring.classes,
            outputs=len(scores.outputs),
            labels=scores.scoring.labels,
            notes=tuple(notes(scores, lost)),
            deviations=tuple(sentences),
        ),
        classes=classes,
        guesses=scores.outputs,
        nets=[
            (NetFacts(name=name, sha256=net.sha256, backend=net.backend, parameters=net.parameters), tally)
            for (name, net), tally in zip(facts.items(), tallies, strict=True)
        ],
        ensemble=mean if len(nets) > 1 else None,
    )
    return result, headline


def notes(scores: Scores, lost: int) -> Iterator[str]:
    """Yield what a reader must know before the errors: which classes only the data or only the nets have.

    `lost` is the number of images for which none of the classes that can be chosen is right.
    """
    net, its = ("net", "net's") if len(scores.nets) == 1 else ("nets", "nets'")
    if left_out := scores.about.data.left_out:
        yield f"{_count_of(left_out, 'image')} of classes unknown to the {net} {_were(left_out)} left out."
    if lost and scores.scoring.right is not None:
        yield f"For {_count_of(lost, 'image')}, no right class is one that the {net} can choose: counted as wrong."
    elif lost:
        unknown = int((scores.to_output < 0).sum())
        are, their = ("is", "its") if unknown == 1 else ("are", "their")
        how, fix = f"unknown to the {net}", f" (--only-known leaves {'it' if lost == 1 else 'them'} out)"
        if scores.scoring.wnids is not None:
            how, fix = f"not among those that the {net} can choose", ""
        wrong = f"{_count_of(lost, 'image')} count{'s' * (lost == 1)} as wrong"
        yield f"{unknown:,} of the {len(scores.classes):,} classes {are} {how}: {their} {wrong}{fix}."
    data = {named.wnid for named in scores.classes}
    only_nets = [output for output in scores.outputs if output.wnid not in data]
    if only_nets and scores.scoring.classes == "all":
        are = "is" if len(only_nets) == 1 else "are"
        of, first = f"{len(scores.outputs):,}", only_nets[0]
        few = 10 * len(only_nets) <= len(scores.outputs)  # otherwise it is a set of other classes, no incomplete copy
        copy = f": is the set complete? {first.wnid} ({first.short}) is missing" if few else ""
        yield f"{len(only_nets):,} of the {its} {of} classes {are} not in the data (see --classes shared){copy}."


def _count_of(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def how_scored(scores: Scores) -> Iterator[str]:
    """Yield the ways in which the scoring differs from ILSVRC's, one sentence each."""
    known = scores.about.net.wnids
    if scores.scoring.classes != "all":
        wnids, which = scores.scoring.wnids, "that the data has"
        if wnids is not None:
            others = len(wnids.difference(known))
            which = f"in {scores.scoring.classes}"
            which += f"; they don't know {_count_of(others, 'other id')} in it" if others else ""
        yield f"The nets choose among the {len(scores.outputs):,} of their {len(known):,} classes {which}."
    if scores.scoring.labels is not None:
        yield (
            f"The labels are those of {scores.scoring.labels}, of which any may be right; "
            f"{_count_of(scores.left_out, 'image')} without a right label {_were(scores.left_out)} left out."
        )


def _data(about: About, names: Sequence[str], wnids: Sequence[str], unread: Sequence[ImageRow]) -> Data:
    """Describe the images, given the file name and the class of each."""
    # Folders depend on the layout of the set, so they are left out unless several images have the same name.
    unique = len({*names}) == len(names)
    unreadable = [Unreadable(image=_last(row.name) if unique else row.name, reason=row.error or "") for row in unread]
    listing = sorted(f"{name}\t{wnid}\n" for name, wnid in zip(names, wnids, strict=True))
    return Data(
        name=about.data.name,
        listing=hashlib.sha256("".join(listing).encode()).hexdigest(),
        images=len(names),
        classes=len(about.data.classes),
        sample=None if about.data.sample is None else Sample(images=len(names), of=about.data.images),
        unreadable=tuple(sorted(unreadable, key=lambda image: image.image)),
    )


def _last(name: str) -> str:
    return PurePosixPath(name).name


def display_names(nets: Sequence[Shards]) -> list[str]:
    """Return the names of the nets. A name that several nets share is followed by the first digits of the SHA-256.

    Without one, by the server that gave none.
    """
    facts = [shards[0].about.net for shards in nets]
    count = Counter(net.name for net in facts)
    return [net.name if count[net.name] == 1 else f"{net.name} {_digits(net)}" for net in facts]


def _digits(net: AboutNet) -> str:
    return net.backend if net.sha256 is None else net.sha256[:8]


def _add(tally: Tally, rows: Sequence[ImageRow], values: np.ndarray, right: np.ndarray) -> None:
    """Add images to the tally in their order: each run of readable images at once, the others one by one."""
    labels = np.array([row.label for row in rows], int)
    unreadable = [i for i, row in enumerate(rows) if row.error is not None]
    begin = 0
    for end in (*unreadable, len(rows)):
        if end > begin:
            tally.add(values[begin:end], labels[begin:end], right[begin:end])
        if end < len(rows):
            tally.add_unreadable(int(labels[end]))
        begin = end + 1
