"""Compare the probabilities of two nets: an exported file and its source, or any two model files.

Both nets see the same real images. Noise is not sufficient: it drives every unit to about the same value, so a net that
is wrong only on real photos would pass.
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

from alexnet_infer.datasets import Example, LabelledImages, map_classes
from alexnet_infer.datasets.sampling import stratified
from alexnet_infer.decode import printable, read_rgb
from alexnet_infer.errors import ModelFileError, UnreadableInputError, UsageError
from alexnet_infer.evaluation.result import ErrorRate, Unreadable
from alexnet_infer.evaluation.statistics import Tally, pairing
from alexnet_infer.graph.info import Precision
from alexnet_infer.manifest import ClassName, difference_of_classes
from alexnet_infer.metrics import mean_probabilities
from alexnet_infer.photos import Photo, fetched
from alexnet_infer.predict import PHOTOS_PER_CALL, Net
from alexnet_infer.preprocess import Rescaling, Views, square_of

TOLERANCES: Mapping[Precision, float] = {"fp32": 1e-5, "fp16": 0.01, "int8": 0.15}
"""The largest probability difference that rounding may cause.

An error d of a logit changes its probability by at most d / 4.

- fp32: a different order of summation changes a logit by a few times 2^-24 of its value. For logits of 20 this gives
  1e-5. The default net differs by 9e-8.
- fp16: every activation is rounded to 2^-11 of its value. This is 0.01 for a logit of 20, and the earlier layers add as
  much again. The default net differs by 0.0008 if every activation is rounded (5,000 images, ten views).
- int8: a step is 1/127 of a layer's largest activation, so logits change by a few tenths. On 300 images a half-width
  net differed by 0.03 with signed activations and by 0.09 with unsigned ones.

A wrong LRN constant or channel order changes probabilities by more than any of these on some photo.
"""

NEAR_TIE = 0.01
"""A flip is a near tie if the reference's probabilities of the two nets' first guesses differ by at most this."""

_QUARTERS = ("upper left", "upper right", "lower left", "lower right")


class MeanNet(Net):
    """The equal-weight mean of nets that take the same squares, like an exported file with several nets.

    Views, backend and manifest are those of the first net. The name joins the names of all nets.
    """

    def __init__(self, nets: Sequence[Net]) -> None:
        name = " + ".join(net.manifest.name for net in nets)
        super().__init__(dataclasses.replace(nets[0].manifest, name=name), nets[0].backend, nets[0].views)
        self._nets = nets

    def probabilities(self, squares: Sequence[np.ndarray]) -> np.ndarray:
        """Return the mean probabilities float32 [N, classes] of N squares uint8 [S, S, 3] RGB."""
        return mean_probabilities([net.probabilities(squares) for net in self._nets])


@dataclass(frozen=True, kw_only=True)
class Party:
    """One of the two nets: its name and its backend."""

    net: str
    backend: str


@dataclass(frozen=True, kw_only=True)
class ErrorChange:
    """The errors of both nets over all images, and their paired comparison."""

    reference: ErrorRate
    candidate: ErrorRate
    difference: float
    """The candidate's error minus the reference's, as a fraction."""
    low: float
    high: float
    """Ends of the difference's 95 % paired bootstrap interval."""
    reference_only_wrong: int
    """Images that only the reference got wrong."""
    candidate_only_wrong: int
    p: float
    """Exact two-sided p-value of McNemar's test for equal errors."""

    @classmethod
    def of(cls, reference: np.ndarray, candidate: np.ndarray) -> ErrorChange:
        """Compare two nets, given the images that each got wrong, bool [images]."""
        pair = pairing(candidate, reference)
        return cls(
            reference=ErrorRate.of(reference),
            candidate=ErrorRate.of(candidate),
            difference=pair.difference,
            low=pair.low,
            high=pair.high,
            reference_only_wrong=pair.second_only,
            candidate_only_wrong=pair.first_only,
            p=pair.p,
        )


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The agreement of two nets on `images` images, unreadable ones included."""

    reference: Party
    candidate: Party
    views: Views
    images: int
    classes: int
    largest: float
    """The largest |p - q| over all images and classes."""
    largest_image: str
    """The name of the image with the largest difference."""
    mean: float
    """The mean |p - q| over all images and classes. With C classes it is at most 2 / C, since probabilities add up to
    1."""
    flips: int
    """Images whose first guess differs. If probabilities are equal, the lower class index ranks first."""
    near_ties: int
    """Flips for which the reference's probabilities of the two guesses differ by at most NEAR_TIE."""
    top1: ErrorChange | None = None
    """None if the images have no labels."""
    top5: ErrorChange | None = None
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def compared(self) -> int:
        """The number of readable images."""
        return self.images - len(self.unreadable)

    def within(self, tolerance: float) -> bool:
        """Return whether no probability differs by more than `tolerance`."""
        return self.largest <= tolerance

    def to_json(self) -> dict[str, Any]:
        """Return the agreement as objects that `json.dumps` accepts."""
        return dataclasses.asdict(self)


def default_tolerance(*nets: Net) -> float:
    """Return the tolerance of the coarsest precision among the nets' backends."""
    return max(TOLERANCES[_precision(net.backend.description)] for net in nets)


def _precision(description: str) -> Precision:
    """Read the precision from a backend's description, which names it unless it is float32."""
    words = description.replace(",", " ").split()
    return next((precision for precision in get_args(Precision) if precision in words), "fp32")


def check_tolerance(value: float) -> float:
    """Return `value`. Raises UsageError if it can't be a difference of probabilities."""
    if not 0 <= value <= 1:  # also refuses NaN
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
    """Run both nets on the same images and compare their probabilities.

    Each net gets the square that its own preprocessing makes from an image. A photo counts as five images, the full
    photo and its quarters, so that a few photos suffice. A labelled set is used in full, or as a stratified sample of
    `limit` images. Memory does not grow with the number of images, except for a few bytes per labelled image.
    `on_images` is called with the number of images just processed.

    Raises UsageError if the nets differ in classes or views, if the nets and the data share no class, or if `limit` is
    out of range or given for photos. Raises ModelFileError if a net's outputs are not probabilities, for example NaN.
    Raises UnreadableInputError if no image can be read.
    """
    _check_comparable(reference, candidate)
    kinds = {_square_of(net) for net in (reference, candidate)}
    if isinstance(images, LabelledImages):
        count = _Count(reference, candidate, images.classes)
        sources: Iterable[Any] = images.at(_positions(images, limit), on_error="yield")
        read: Callable[[Any], list[_Picture]] = partial(_read_example, f"{images.root}{os.sep}", kinds)
    elif limit is not None:
        raise UsageError(f"--limit {limit}: expected a labelled set to sample from; name it with --data")
    else:
        count, sources, read = _Count(reference, candidate), _fetched(images), partial(_read_photo, kinds)
    for batch in _batches(sources, read):
        count.add(batch)
        on_images(len(batch))
    return count.agreement()


def _check_comparable(reference: Net, candidate: Net) -> None:
    wnids, other_wnids = ([c.wnid for c in net.manifest.classes] for net in (reference, candidate))
    if difference := difference_of_classes(wnids, other_wnids):
        raise UsageError(f"the nets have different classes ({difference}): expected the same, in the same order")
    if reference.views != candidate.views:
        raise UsageError(
            f"one net averages views={reference.views}, the other views={candidate.views}: expected the same; export "
            "again with the same --views, or without --views"
        )


def _positions(data: LabelledImages, limit: int | None) -> Sequence[int]:
    if limit is None:
        return range(len(data))
    if not 1 <= limit <= len(data):
        raise UsageError(f"--limit {limit}: expected 1 to {len(data)}, the number of images in the set")
    return stratified(data.labels, limit)


def _square_of(net: Net) -> Rescaling:
    return net.manifest.preprocessing.rescaling


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """One image for both nets."""

    name: str
    squares: Mapping[Rescaling, np.ndarray] = dataclasses.field(default_factory=dict)
    """Its square for each rescaling. Empty if it can't be read."""
    label: int = -1
    """Position in the data's classes, or -1 without labels."""
    error: str = ""
    """Why it can't be read."""

    @classmethod
    def of(cls, name: str, image: Image.Image, kinds: set[Rescaling], label: int = -1) -> _Picture:
        return cls(name=name, squares={kind: square_of(image, kind) for kind in kinds}, label=label)


def _read_example(folder: str, kinds: set[Rescaling], example: Example) -> list[_Picture]:
    name = printable(example.name.removeprefix(folder).replace(os.sep, "/"))
    try:
        if example.error is not None:
            raise UnreadableInputError(example.error)
        largest = max(kind.size for kind in kinds)
        # ILSVRC's labels ignore EXIF orientation.
        image = read_rgb(example.data, name=name, shrink_to=largest, apply_exif=False)
        return [_Picture.of(name, image, kinds, example.label)]
    except UnreadableInputError as error:
        return [_Picture(name=name, label=example.label, error=str(error).removeprefix(f"{name}: "))]


def _fetched(photos: Iterable[Photo]) -> Iterator[Photo]:
    """Fetch URLs outside the decoding threads: an interrupted program waits for these threads before it exits."""
    remaining = iter(photos)
    while chunk := list(islice(remaining, PHOTOS_PER_CALL)):
        yield from fetched(chunk)


def _read_photo(kinds: set[Rescaling], photo: Photo) -> list[_Picture]:
    """Read a photo: the full photo, then its quarters unless it is only one pixel wide or high."""
    name = photo.printable_name
    try:
        if photo.name == "-":
            raise UnreadableInputError("standard input can't be compared: expected files, folders, patterns or URLs")
        image = read_rgb(photo.source(), name=photo.name, shrink_to=2 * max(kind.size for kind in kinds))
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
    """Yield pictures in order, in batches for one call of a net. They are decoded on all cores."""

    def pictures() -> Iterator[_Picture]:
        rest = iter(sources)
        while chunk := list(islice(rest, PHOTOS_PER_CALL)):
            yield from chain.from_iterable(pool.map(read, chunk))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = pictures()
        while batch := list(islice(decoded, PHOTOS_PER_CALL)):
            yield batch


class _Count:
    """The counts over the images so far. If the data's `classes` are given, errors are counted, too."""

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
        for picture in batch:
            if not picture.squares:
                self._unreadable.append(Unreadable(image=picture.name, reason=picture.error))
                for tally in self._tallies:
                    tally.add_unreadable(picture.label)
        if readable := [picture for picture in batch if picture.squares]:
            self._add_readable(readable, *(self._probabilities(role, readable) for role in self._nets))

    def _add_readable(self, pictures: Sequence[_Picture], reference: np.ndarray, candidate: np.ndarray) -> None:
        differences = np.abs(reference.astype(np.float64) - candidate)
        self._total += float(differences.sum())
        worst = differences.max(1)
        place = int(worst.argmax())
        if worst[place] > self._largest:
            self._largest, self._largest_image = float(worst[place]), pictures[place].name
        rows, guesses, candidate_guesses = np.arange(len(reference)), reference.argmax(1), candidate.argmax(1)
        lead = reference[rows, guesses] - reference[rows, candidate_guesses]
        self._flips += int((guesses != candidate_guesses).sum())
        self._near_ties += int(((guesses != candidate_guesses) & (lead <= NEAR_TIE)).sum())
        if self._tallies:
            labels = np.array([picture.label for picture in pictures])
            for tally, values in zip(self._tallies, (reference, candidate), strict=True):
                tally.add(values, labels, self._to_net[labels])

    def _probabilities(self, role: str, pictures: Sequence[_Picture]) -> np.ndarray:
        net = self._nets[role]
        values = net.probabilities([picture.squares[_square_of(net)] for picture in pictures])
        assert values.shape == (len(pictures), self._outputs), values.shape
        valid = ((values >= 0) & (values < 1.001)).all(1)  # false for NaN; a rounded mean may be slightly above 1
        if not valid.all():
            name = pictures[int((~valid).argmax())].name
            raise ModelFileError(
                f"{name}: the outputs of the {role} ({net.backend.description}) are not probabilities: expected "
                "numbers from 0 to 1; the file is damaged, or its precision is too low for this net: export it as fp32"
            )
        return values

    def agreement(self) -> Agreement:
        compared = self._images - len(self._unreadable)
        if not compared:
            first = "".join(f"; the first is {image.image}: {image.reason}" for image in self._unreadable[:1])
            raise UnreadableInputError(f"none of the {self._images} images can be read{first}")
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
            **{name: ErrorChange.of(*pair) if pair else None for name, pair in wrong.items()},
        )
