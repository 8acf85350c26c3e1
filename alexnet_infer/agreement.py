"""Whether two model files give the same answers: an exported file against what it was made of, or any two.

Both nets see the same real images. Noise would not do: it drives every unit to about the same value, and a net that is
wrong where photos differ would pass.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any, get_args

import numpy as np
from PIL import Image

from alexnet_infer.artifact import ClassName
from alexnet_infer.datasets import Example, LabelledImages, map_classes
from alexnet_infer.decode import printable, read_rgb
from alexnet_infer.errors import ModelFileError, UnreadableInputError, UsageError, shown
from alexnet_infer.evaluation.assemble import mean_of
from alexnet_infer.evaluation.result import ErrorRate, Unreadable
from alexnet_infer.evaluation.run import stratified
from alexnet_infer.evaluation.statistics import Tally, pairing
from alexnet_infer.export.info import Precision
from alexnet_infer.photos import Photo
from alexnet_infer.predict import PHOTOS_PER_CALL, Net
from alexnet_infer.preprocess import Rescaling, Views, square_of

TOLERANCES: Mapping[Precision, float] = {"fp32": 1e-5, "fp16": 0.01, "int8": 0.15}
"""The largest probability difference that rounding may cause.

A logit that is wrong by d moves its probability by d / 4 at most. float32 in another order of summation: a few times
2^-24 of logits of 20 are 1e-5 (the embedded net: 7e-8). float16 rounds every activation to 2^-11 of itself: 0.01 of a
logit of 20, and as much again from the layers before (the embedded net, every activation rounded, 200 images, central
view: 0.0011). int8: a step is 1/127 of a layer's largest activation, so logits are off by some tenths (300 images: 0.03
with signed activations, 0.09 with unsigned ones). A wrong constant in LRN, or a wrong channel order, moves
probabilities by more than any of these on some photo.
"""

NEAR_TIE = 0.01
"""Where the reference likes its first guess better by no more than this, a flip says little."""

_QUARTERS = ("upper left", "upper right", "lower left", "lower right")

"""What an image's square depends on: S and the filter."""


class Ensemble(Net):
    """The equal-weight mean of nets that take the same squares, as one file with all of them computes it. Views,
    backend, and the manifest but for the name are the first one's."""

    def __init__(self, nets: Sequence[Net]) -> None:
        name = " + ".join(net.manifest.name for net in nets)
        super().__init__(dataclasses.replace(nets[0].manifest, name=name), nets[0].backend, nets[0].views)
        self._nets = nets

    def probabilities(self, squares: Sequence[np.ndarray]) -> np.ndarray:
        """Of squares uint8 [S, S, 3] RGB: float32 [N, classes]."""
        return mean_of([net.probabilities(squares) for net in self._nets])


@dataclass(frozen=True, kw_only=True)
class Party:
    """One of the two nets: its name, and what ran it."""

    net: str
    backend: str


@dataclass(frozen=True, kw_only=True)
class ErrorChange:
    """Errors of both nets over all images; the candidate's minus the reference's with its 95 % paired bootstrap
    interval, as fractions; the images that only one of them got wrong, and McNemar's exact p that the errors are
    equal."""

    reference: ErrorRate
    candidate: ErrorRate
    difference: float
    low: float
    high: float
    reference_only_wrong: int
    candidate_only_wrong: int
    p: float

    @classmethod
    def of(cls, reference: np.ndarray, candidate: np.ndarray) -> ErrorChange:
        """From bool [images] each: which are wrong."""
        found = pairing(candidate, reference)
        return cls(
            reference=ErrorRate.of(reference),
            candidate=ErrorRate.of(candidate),
            difference=found.difference,
            low=found.low,
            high=found.high,
            reference_only_wrong=found.second_only,
            candidate_only_wrong=found.first_only,
            p=found.p,
        )


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two nets agree on `images` images, those that couldn't be read included."""

    reference: Party
    candidate: Party
    views: Views
    images: int
    classes: int
    largest: float
    """The largest |p - q| of any class of any image, and in `largest_image` of which."""
    largest_image: str
    mean: float
    """The mean |p - q| over all images and classes. Probabilities add up to 1: with C classes it is below 2 / C."""
    flips: int
    """Images whose first guess differs. Of equal probabilities the lower class comes first."""
    near_ties: int
    """The flips where the reference likes its own guess better than the candidate's by no more than NEAR_TIE."""
    top1: ErrorChange | None = None
    """With labels only, as `top5`."""
    top5: ErrorChange | None = None
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def compared(self) -> int:
        """Images that could be read."""
        return self.images - len(self.unreadable)

    def within(self, tolerance: float) -> bool:
        """Whether no probability differs by more."""
        return self.largest <= tolerance

    def to_json(self) -> dict[str, Any]:
        """As JSON can say it."""
        return dataclasses.asdict(self)


def default_tolerance(*nets: Net) -> float:
    """That of the coarsest precision among what runs the nets."""
    return max(TOLERANCES[_precision(net.backend.description)] for net in nets)


def _precision(description: str) -> Precision:
    """A backend's description names its precision where it isn't float32."""
    words = description.replace(",", " ").split()
    return next((precision for precision in get_args(Precision) if precision in words), "fp32")


def check_tolerance(value: float) -> float:
    """`value`, if it can be a difference of probabilities; raises UsageError otherwise."""
    if not 0 <= value <= 1:  # NaN neither
        raise UsageError(f"--tolerance {value}: expected a difference of probabilities, from 0 to 1")
    return value


def compare(
    reference: Net,
    candidate: Net,
    images: Iterable[Photo] | LabelledImages,
    *,
    limit: int | None = None,
    on_images: Callable[[int], None] = lambda count: None,
) -> Agreement:
    """Runs both nets on the same images, a few at a time, one net after the other.

    Each net makes its own square of an image. Photos count five times each, whole and in quarters, so that a handful
    of them says more; of labelled images, all are taken, or a stratified sample of `limit`. Memory doesn't grow with
    their number but for some bytes an image with a label. `on_images` is called with the number just done.

    Raises UsageError when the nets differ in classes or views, when no class is the data's, or when the sample is
    larger than the set; ModelFileError when what a net gives are no probabilities (NaN, say); UnreadableInputError
    when not one image can be read.
    """
    _check_comparable(reference, candidate)
    kinds = {_square_of(net) for net in (reference, candidate)}
    if isinstance(images, LabelledImages):
        count = _Count(reference, candidate, images.classes)
        sources: Iterable[Any] = images.at(_positions(images, limit), on_error="yield")
        read: Callable[[Any], list[_Picture]] = partial(_read_example, f"{images.root}{os.sep}", kinds)
    elif limit is not None:
        raise UsageError(f"--limit {limit}: takes a sample of a labelled set; name one with --data")
    else:
        count, sources, read = _Count(reference, candidate), images, partial(_read_photo, kinds)
    for batch in _batches(sources, read):
        count.add(batch)
        on_images(len(batch))
    return count.agreement()


def _check_comparable(reference: Net, candidate: Net) -> None:
    ours, theirs = ([c.wnid for c in net.manifest.classes] for net in (reference, candidate))
    if ours != theirs:
        place = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
        if place is None:
            what = f"{len(ours)} and {len(theirs)}"
        else:
            what = f"output {place} is {shown(ours[place])} in one and {shown(theirs[place])} in the other"
        raise UsageError(f"the nets have other classes ({what}): expected the same, in the same order")
    if reference.views != candidate.views:
        raise UsageError(
            f"one net averages views={reference.views}, the other views={candidate.views}: expected the same; export "
            "again with the same --views, or with none"
        )


def _positions(data: LabelledImages, limit: int | None) -> Sequence[int]:
    if limit is None:
        return range(len(data))
    if not 1 <= limit <= len(data):
        raise UsageError(f"--limit {limit}: expected 1 to {len(data)}, the images of the set")
    return stratified(data.labels, limit)


def _square_of(net: Net) -> Rescaling:
    return net.manifest.preprocessing.rescaling


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """What both nets are shown: its squares, or why there are none."""

    name: str
    squares: Mapping[Rescaling, np.ndarray] = dataclasses.field(default_factory=dict)
    label: int = -1
    error: str = ""

    @classmethod
    def of(cls, name: str, image: Image.Image, kinds: set[Rescaling], label: int = -1) -> _Picture:
        return cls(name=name, squares={kind: square_of(image, kind) for kind in kinds}, label=label)


def _read_example(folder: str, kinds: set[Rescaling], example: Example) -> list[_Picture]:
    name = printable(example.name.removeprefix(folder).replace(os.sep, "/"))
    try:
        if example.error is not None:
            raise UnreadableInputError(example.error)
        largest = max(kind.size for kind in kinds)
        # Labels were made without regard to EXIF orientation.
        image = read_rgb(example.data, name=name, shrink_to=largest, apply_exif=False)
        return [_Picture.of(name, image, kinds, example.label)]
    except UnreadableInputError as error:
        return [_Picture(name=name, label=example.label, error=str(error).removeprefix(f"{name}: "))]


def _read_photo(kinds: set[Rescaling], photo: Photo) -> list[_Picture]:
    """The whole photo, then its quarters where it has any."""
    name = photo.printable_name
    try:
        if photo.problem is not None:
            raise UnreadableInputError(photo.problem)
        if photo.path is None:
            raise UnreadableInputError("standard input is not taken here: expected files, folders or patterns")
        image = read_rgb(photo.path, name=photo.name, shrink_to=2 * max(kind.size for kind in kinds))
        across, down = image.width // 2, image.height // 2
        parts = {name: image}
        if across and down:
            corners = [(x, y) for y in (0, image.height - down) for x in (0, image.width - across)]
            for part, (x, y) in zip(_QUARTERS, corners, strict=True):
                parts[f"{name}, {part}"] = image.crop((x, y, x + across, y + down))
        return [_Picture.of(part, pixels, kinds) for part, pixels in parts.items()]
    except UnreadableInputError as error:
        return [_Picture(name=name, error=str(error).removeprefix(f"{name}: "))]


def _batches(sources: Iterable[Any], read: Callable[[Any], list[_Picture]]) -> Iterator[list[_Picture]]:
    """Pictures in order, as many as go through a net at once; decoded on all cores."""

    def pictures() -> Iterator[_Picture]:
        rest = iter(sources)
        while chunk := list(islice(rest, PHOTOS_PER_CALL)):
            yield from chain.from_iterable(pool.map(read, chunk))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pictures()
        while batch := list(islice(found, PHOTOS_PER_CALL)):
            yield batch


class _Count:
    """What is kept of the images so far. With the data's `classes` there are labels, and errors to count."""

    def __init__(self, reference: Net, candidate: Net, classes: Sequence[ClassName] = ()) -> None:
        self._nets = {"reference": reference, "candidate": candidate}
        self._outputs = len(reference.manifest.classes)
        self._to_net = np.array(map_classes(classes, reference.manifest.classes)) if classes else None
        self._tallies = [Tally(len(classes)) for _ in self._nets] if classes else []
        self._images = self._flips = self._near_ties = 0
        self._total, self._largest, self._largest_image = 0.0, -1.0, ""
        self._unreadable: list[Unreadable] = []

    def add(self, batch: Sequence[_Picture]) -> None:
        self._images += len(batch)
        for one in batch:
            if not one.squares:
                self._unreadable.append(Unreadable(image=one.name, reason=one.error))
                for tally in self._tallies:
                    tally.add_unreadable(one.label)
        if read := [one for one in batch if one.squares]:
            self._add_read(read, *(self._probabilities(role, read) for role in self._nets))

    def _add_read(self, pictures: Sequence[_Picture], ours: np.ndarray, theirs: np.ndarray) -> None:
        differences = np.abs(ours.astype(np.float64) - theirs)
        self._total += float(differences.sum())
        worst = differences.max(1)
        place = int(worst.argmax())
        if worst[place] > self._largest:
            self._largest, self._largest_image = float(worst[place]), pictures[place].name
        rows, guess, other = np.arange(len(ours)), ours.argmax(1), theirs.argmax(1)
        lead = ours[rows, guess] - ours[rows, other]
        self._flips += int((guess != other).sum())
        self._near_ties += int(((guess != other) & (lead <= NEAR_TIE)).sum())
        if self._tallies:
            labels = np.array([one.label for one in pictures])
            for tally, values in zip(self._tallies, (ours, theirs), strict=True):
                tally.add(values, labels, self._to_net[labels])

    def _probabilities(self, role: str, pictures: Sequence[_Picture]) -> np.ndarray:
        net = self._nets[role]
        found = net.probabilities([one.squares[_square_of(net)] for one in pictures])
        assert found.shape == (len(pictures), self._outputs), found.shape
        right = ((found >= 0) & (found < 1.001)).all(1)  # NaN is neither; rounding may take a mean a little above 1
        if not right.all():
            name = pictures[int((~right).argmax())].name
            raise ModelFileError(
                f"{name}: what the {role} ({net.backend.description}) gives are no probabilities: expected numbers "
                "from 0 to 1; the file is broken, or its precision too low for this net: export it as fp32"
            )
        return found

    def agreement(self) -> Agreement:
        compared = self._images - len(self._unreadable)
        if not compared:
            first = f", the first is {one.image}: {one.reason}" if (one := next(iter(self._unreadable), None)) else ""
            raise UnreadableInputError(f"none of {self._images} images can be read{first}")
        reference, candidate = (
            Party(net=net.manifest.name, backend=net.backend.description) for net in self._nets.values()
        )
        wrong = {f"top{k}": [tally.wrong(k) for tally in self._tallies] for k in (1, 5)}
        return Agreement(
            reference=reference,
            candidate=candidate,
            views=self._nets["reference"].views,
            images=self._images,
            classes=self._outputs,
            largest=self._largest,
            largest_image=self._largest_image,
            mean=self._total / (compared * self._outputs),
            flips=self._flips,
            near_ties=self._near_ties,
            unreadable=tuple(self._unreadable),
            **{name: ErrorChange.of(*both) if both else None for name, both in wrong.items()},
        )
